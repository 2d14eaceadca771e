//! A tap: a queue of the tests' own at the hub's durable exchange, and whatever comes out of it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties, Consumer, ExchangeKind};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::buses::FACT_MAX;

const QUEUE: &str = "tap";
/// How long a broker may take to let it in.
const DIAL_MAX: Duration = Duration::from_secs(10);

pub struct Tap {
    /// One broker, or the nodes of a cluster.
    urls: Vec<String>,
    exchange: String,
    /// What was heard, in the order it came.
    pub heard: Vec<Heard>,
    line: Option<Line>,
}

struct Line {
    connection: Connection,
    consumer: Consumer,
}

/// A message, as whoever has only a client for AMQP sees it.
#[derive(Debug)]
pub struct Heard {
    pub merchant: String,
    pub position: String,
    pub bytes: Vec<u8>,
    pub keys: Vec<String>,
    pub is_persistent: bool,
}

impl Tap {
    /// A durable quorum queue that is bound to everything. The hub need not have come yet.
    pub async fn at(url: &str, prefix: &str) -> Self {
        let exchange = format!("tillwire.{prefix}events");
        let urls = url.split(',').map(str::to_owned).collect();
        let mut tap = Self { urls, exchange, heard: Vec::new(), line: None };
        tap.connect().await;
        tap
    }

    /// Connects, as soon as somebody answers.
    async fn connect(&mut self) {
        let (started, mut turn) = (Instant::now(), 0);
        self.line = loop {
            // A node that is frozen or just dying may say nothing at all.
            match timeout(DIAL_MAX, self.dial(&self.urls[turn % self.urls.len()])).await {
                Ok(Ok(line)) => break Some(line),
                failed => assert!(started.elapsed() < FACT_MAX, "{:?}", failed.map(|dialled| dialled.map(|_| ()))),
            }
            turn += 1;
            sleep(Duration::from_millis(100)).await;
        };
    }

    async fn dial(&self, url: &str) -> lapin::Result<Line> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let (exchange, table) = (self.exchange.as_str(), FieldTable::default);
        channel.exchange_declare(exchange.into(), ExchangeKind::Topic, durable, table()).await?;
        let mut arguments = table();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(QUEUE.into(), durable, arguments).await?;
        channel.queue_bind(QUEUE.into(), exchange.into(), "#".into(), QueueBindOptions::default(), table()).await?;
        let consumer =
            channel.basic_consume(QUEUE.into(), "tap".into(), BasicConsumeOptions::default(), table()).await?;
        Ok(Line { connection, consumer })
    }

    /// The next message, over as many connections as it takes.
    pub async fn next(&mut self) -> &Heard {
        let hearing = async {
            loop {
                if self.line.is_none() {
                    self.connect().await;
                }
                let Some(line) = &mut self.line else { continue };
                match line.consumer.next().await {
                    Some(Ok(delivery)) if delivery.ack(BasicAckOptions::default()).await.is_ok() => {
                        return Heard::of(delivery);
                    }
                    _ => self.line = None,
                }
            }
        };
        let heard = timeout(FACT_MAX, hearing).await.expect("something to hear");
        self.heard.push(heard);
        &self.heard[self.heard.len() - 1]
    }

    /// Listens until all of these positions of a merchant were heard.
    pub async fn hears_all(&mut self, merchant: &str, positions: &[String]) {
        while !positions.iter().all(|it| self.of(merchant).contains(&it.as_str())) {
            self.next().await;
        }
    }

    /// What was heard of a merchant, in the order it came.
    pub fn of(&self, merchant: &str) -> Vec<&str> {
        self.heard.iter().filter(|it| it.merchant == merchant).map(|it| it.position.as_str()).collect()
    }

    /// The same, each once, as it first came.
    pub fn first_of(&self, merchant: &str) -> Vec<&str> {
        let mut first = Vec::new();
        for position in self.of(merchant) {
            if !first.contains(&position) {
                first.push(position);
            }
        }
        first
    }

    /// A second queue, and what comes out of it: with these keys, or whatever comes by another exchange.
    pub async fn listens(&self, exchange: &str, kind: ExchangeKind, keys: &[&str]) -> Consumer {
        let line = self.line.as_ref().expect("a connection");
        let channel = line.connection.create_channel().await.expect("a channel");
        let is_durable = kind == ExchangeKind::Topic;
        let options = ExchangeDeclareOptions { durable: is_durable, ..Default::default() };
        channel.exchange_declare(exchange.into(), kind, options, FieldTable::default()).await.expect("an exchange");
        let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let queue = channel.queue_declare("".into(), options, FieldTable::default()).await.expect("a queue");
        for key in keys {
            let (name, options) = (queue.name().clone(), QueueBindOptions::default());
            channel
                .queue_bind(name, exchange.into(), (*key).into(), options, FieldTable::default())
                .await
                .expect("bound");
        }
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let name = queue.name().clone();
        channel.basic_consume(name, "second".into(), options, FieldTable::default()).await.expect("a consumer")
    }
}

impl Heard {
    pub fn of(delivery: Delivery) -> Self {
        let body: Value = serde_json::from_slice(&delivery.data).expect("JSON");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let headers: BTreeMap<String, AMQPValue> =
            delivery.properties.headers().iter().flatten().map(|(name, it)| (name.to_string(), it.clone())).collect();
        let long = |value: &AMQPValue| match value {
            AMQPValue::LongString(text) => text.to_string(),
            other => panic!("{other:?}"),
        };
        let mut keys = vec![delivery.routing_key.to_string()];
        if let Some(AMQPValue::FieldArray(others)) = headers.get("CC") {
            keys.extend(others.as_slice().iter().map(long));
        }
        assert_eq!(long(&headers["merchant"]), body["merchant"]);
        let id = format!("{}/{}", text(&body["merchant"]), text(&body["position"]));
        assert_eq!(delivery.properties.message_id().as_ref().map(ToString::to_string), Some(id));
        Self {
            merchant: text(&body["merchant"]),
            position: text(&body["position"]),
            keys,
            is_persistent: *delivery.properties.delivery_mode() == Some(2),
            bytes: delivery.data,
        }
    }
}
