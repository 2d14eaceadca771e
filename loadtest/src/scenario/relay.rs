//! The durable path: from journals through the relay and a quorum queue of RabbitMQ to a consumer.
//!
//! First a backlog, as fast as it comes through: entries of many merchants that were committed while nobody relayed. Then
//! entries at a steady pace; the clock starts just before COMMIT is sent and stops when the consumer has parsed the
//! message. Beside it a publisher alone, with confirms and as many messages under way as the relay has at most, and the same
//! consumer: what RabbitMQ itself can do, without a journal. The bill of the one is PostgreSQL's, RabbitMQ's and the worker's,
//! that of the other RabbitMQ's alone: its publisher is this tool.
//!
//! At the steady pace a [handler](super::probe) listens as well, by a queue of its own: `handler_latency_us` is the time until
//! the hub's own loop has given it the event.
//!
//! Here a merchant counts as a screen. Rate and CPU are those of the backlog, latencies those of the steady pace.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use futures_util::stream;
use hdrhistogram::Histogram;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use serde::Deserialize;
use tillwire::embedded::Durability;
use tillwire_channels::{MerchantId, Position};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, timeout};

use super::Stage;
use super::probe::{Probing, Told};
use crate::client::crew::Outcome;
use crate::report::{Bill, Found, Measured, Quantiles};
use crate::subject::tillwire::{Base, Publisher};
use crate::subject::{Subject, Watched, build};

/// Where the hub's relay publishes to.
const EXCHANGE: &str = "tillwire.events";
const QUEUE: &str = "loadtest";
/// How many messages the lone publisher has under way: eight journals' 256, as the relay.
const UNDER_WAY_MAX: usize = 2_048;
/// How many the consumer may be given before it acknowledges.
const PREFETCH: u16 = 1_000;
/// How many entries are committed in one statement.
const COMMITTED_TOGETHER: u64 = 500;
/// How long the next message is waited for.
const NEXT_MAX: Duration = Duration::from_secs(30);

/// When each entry was sent off, by merchant and number.
type Sent = Arc<Mutex<HashMap<(MerchantId, u64), Instant>>>;

pub(super) async fn run(stage: &Stage<'_>) -> Result<Measured> {
    let merchants = stage.merchants();
    let mut base = Base::start(stage.run, Durability::Full, true).await?;
    let url = base.amqp_url.clone().context("a RabbitMQ")?;
    let mut sink = Sink::open(&url).await?;
    let measured = match stage.subject {
        Subject::BarePublish => {
            let source = Bare { channel: publishing(&url).await?, merchants: merchants_of(merchants) };
            through(stage, &base, Vec::new(), &mut sink, &mut Source::Bare(source)).await?
        }
        _ => {
            let program = build::tillwire(stage.run).await?;
            let mut publishers = Vec::new();
            for _ in 0..merchants {
                let merchant = base.merchant().await?;
                publishers.push(Publisher::start(&base, merchant).await?);
            }
            let each = stage.options.entries / merchants as u64;
            let bar = stage.bar(each * merchants as u64).with_message("committing");
            for publisher in &mut publishers {
                for first in (0..each).step_by(COMMITTED_TOGETHER as usize) {
                    let numbers = first..(first + COMMITTED_TOGETHER).min(each);
                    bar.inc(numbers.end - numbers.start);
                    publisher
                        .commit(numbers.map(|number| crate::subject::payload(number, stage.options.bytes)))
                        .await?;
                }
            }
            bar.finish_and_clear();
            let dir = stage.run.folder("tillwire")?;
            let worker = base.node(&program, "worker", "tillwire-worker", &dir).await?;
            let watched = vec![Watched { name: worker.process.name.clone(), pid: worker.process.pid, front: true }];
            let measured = through(stage, &base, watched, &mut sink, &mut Source::Journals(publishers)).await?;
            drop(worker);
            measured
        }
    };
    base.cluster.stop().await?;
    Ok(measured)
}

/// Where messages come from.
enum Source {
    /// Journals, by a relay that is running.
    Journals(Vec<Publisher>),
    Bare(Bare),
}

/// Measures the backlog, and then the steady pace.
async fn through(
    stage: &Stage<'_>,
    base: &Base,
    mut watched: Vec<Watched>,
    sink: &mut Sink,
    source: &mut Source,
) -> Result<Measured> {
    let merchants = stage.merchants() as u64;
    watched.extend(base.watched()?);
    let (mut outcome, mut tally) = (Outcome::new()?, Tally::default());
    let backlog = stage.options.entries / merchants * merchants;
    let began = Bill::of(&watched)?;
    let publishing = async {
        match source {
            Source::Journals(_) => Ok(()), // They are committed, and the relay has begun.
            Source::Bare(bare) => bare.publish(backlog, stage.options.bytes).await,
        }
    };
    let bar = stage.bar(backlog).with_message("draining");
    let draining = async {
        let first = tally.take(&sink.next().await?);
        while tally.distinct() < backlog {
            tally.take(&sink.next().await?);
            bar.set_position(tally.distinct());
        }
        anyhow::Ok(first)
    };
    let (published, first) = tokio::join!(publishing, draining);
    published?;
    bar.finish_and_clear();
    let (took, ended) = (first?.elapsed(), Bill::of(&watched)?);

    let mut probing = match source {
        Source::Journals(_) => Some(Probing::begin(base, base.amqp_url.as_deref().context("a RabbitMQ")?).await?),
        Source::Bare(_) => None,
    };
    let sent = Sent::default();
    let paced = stage.options.sales_per_second * stage.options.seconds;
    let bar = stage.bar(paced).with_message("at a steady pace");
    let hearing = async {
        while tally.distinct() < backlog + paced {
            let heard = sink.next().await?;
            let before = tally.distinct();
            tally.take(&heard);
            if tally.distinct() > before {
                record(&mut outcome.latency, &sent, (heard.merchant, heard.seq, heard.at))?;
            }
            bar.set_position(tally.distinct() - backlog);
        }
        anyhow::Ok(())
    };
    let mut handled = Histogram::new(3)?;
    let handling = async {
        let Some(probing) = &mut probing else { return Ok(()) };
        let mut told = HashSet::new();
        while (told.len() as u64) < paced {
            let next = timeout(NEXT_MAX, probing.told.recv()).await.context("the handler is told nothing")?;
            let (merchant, seq, at) = next.context("the handler has ended")?;
            if told.insert((merchant, seq)) {
                record(&mut handled, &sent, (merchant, seq, at))?;
            }
        }
        anyhow::Ok(())
    };
    let sending = async {
        match source {
            Source::Journals(publishers) => commit_steadily(stage, std::mem::take(publishers), &sent).await,
            Source::Bare(bare) => bare.publish_steadily(stage, &sent).await.map(|()| Vec::new()),
        }
    };
    let (sending, hearing, handling) = tokio::join!(sending, hearing, handling);
    // A publisher that goes away takes its last word to the relay with it, and the entry waits until the next look.
    drop(sending?);
    hearing?;
    handling?;
    bar.finish_and_clear();

    (outcome.sum.repeated, outcome.sum.reordered) = (tally.repeated, tally.reordered);
    let found = Found {
        subject: stage.subject.name(),
        scenario: &stage.scenario,
        screens: stage.merchants(),
        messages: backlog,
        took,
        watched: &watched,
        bills: [&began, &began, &began, &ended],
        outcome: &outcome,
    };
    let measured = found.measured().with("paced_per_s", stage.options.sales_per_second)?;
    match probing {
        Some(_) => measured.with("handler_latency_us", Quantiles::of(&handled)),
        None => Ok(measured),
    }
}

/// How long an entry took, if it was sent at the steady pace.
fn record(latency: &mut Histogram<u64>, sent: &Sent, (merchant, seq, at): Told) -> Result<()> {
    if let Some(sent_at) = sent.lock().unwrap_or_else(PoisonError::into_inner).get(&(merchant, seq)) {
        latency.record(u64::try_from(at.saturating_duration_since(*sent_at).as_micros())?.max(1))?;
    }
    Ok(())
}

/// Every merchant commits in turn, each from a task of its own: a commit that takes its time holds up no other. Gives the
/// publishers back.
async fn commit_steadily(stage: &Stage<'_>, publishers: Vec<Publisher>, sent: &Sent) -> Result<Vec<Publisher>> {
    let merchants = publishers.len() as u64;
    let period = Duration::from_secs(1).mul_f64(merchants as f64 / stage.options.sales_per_second as f64);
    let all = stage.options.sales_per_second * stage.options.seconds;
    let (start, bytes) = (tokio::time::Instant::now(), stage.options.bytes);
    let mut tills = JoinSet::new();
    for (at, mut publisher) in (0..).zip(publishers) {
        let (sent, commits) = (sent.clone(), all / merchants + u64::from(at < all % merchants));
        let mut ticks = tokio::time::interval_at(start + period.mul_f64(at as f64 / merchants as f64), period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        tills.spawn(async move {
            for number in 0..commits {
                ticks.tick().await;
                let (merchant, seq) = publisher.next();
                sent.lock().unwrap_or_else(PoisonError::into_inner).insert((merchant, seq), Instant::now());
                publisher.tell(crate::subject::payload(number, bytes)).await?;
            }
            anyhow::Ok(publisher)
        });
    }
    tills.join_all().await.into_iter().collect()
}

/// A publisher without a journal.
struct Bare {
    channel: Channel,
    /// With how many messages each has.
    merchants: Vec<(MerchantId, u64)>,
}

fn merchants_of(merchants: usize) -> Vec<(MerchantId, u64)> {
    (0..merchants).map(|_| (MerchantId::new(), 0)).collect()
}

impl Bare {
    /// The next message of one merchant after the other, as long as the relay's.
    fn next(&mut self, number: u64, bytes: usize) -> (MerchantId, u64, Vec<u8>) {
        let at = usize::try_from(number).unwrap_or_default() % self.merchants.len();
        let (merchant, seq) = &mut self.merchants[at];
        *seq += 1;
        let data = crate::subject::payload(number, bytes);
        let body = format!(
            "{{\"merchant\":\"{merchant}\",\"position\":\"{seq}-00000000\",\"prev\":\"0000000000000000\",\"tag\":\"0000000000000000\",\
             \"recorded_at\":\"2026-01-01T00:00:00.000000Z\",\"events\":[{{\"type\":\"load.tested\",\"channels\":[\"sales\"],\
             \"view\":\"display\",\"occurred_at\":\"2026-01-01T00:00:00.000000Z\",\"data\":{data}}}]}}"
        );
        (*merchant, *seq, body.into_bytes())
    }

    async fn publish(&mut self, messages: u64, bytes: usize) -> Result<()> {
        let channel = self.channel.clone();
        let bodies = (0..messages).map(|number| self.next(number, bytes).2);
        let confirms = stream::iter(bodies).map(|body| send(channel.clone(), body)).buffered(UNDER_WAY_MAX);
        let mut confirms = std::pin::pin!(confirms);
        while let Some(confirm) = confirms.next().await {
            confirm?;
        }
        Ok(())
    }

    async fn publish_steadily(&mut self, stage: &Stage<'_>, sent: &Sent) -> Result<()> {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(stage.options.sales_per_second)?);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut under_way = JoinSet::new();
        for number in 0..stage.options.sales_per_second * stage.options.seconds {
            ticks.tick().await;
            let (merchant, seq, body) = self.next(number, stage.options.bytes);
            sent.lock().unwrap_or_else(PoisonError::into_inner).insert((merchant, seq), Instant::now());
            under_way.spawn(send(self.channel.clone(), body));
            while let Some(confirmed) = under_way.try_join_next() {
                confirmed??;
            }
        }
        while let Some(confirmed) = under_way.join_next().await {
            confirmed??;
        }
        Ok(())
    }
}

async fn send(channel: Channel, body: Vec<u8>) -> Result<()> {
    let properties = BasicProperties::default().with_delivery_mode(2);
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let confirm = channel.basic_publish(EXCHANGE.into(), "load.tested".into(), options, &body, properties).await?;
    ensure!(confirm.await?.take_message().is_none(), "no queue took a message");
    Ok(())
}

async fn publishing(url: &str) -> Result<Channel> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

/// What came out of the queue.
#[derive(Default)]
struct Tally {
    heard: HashSet<(MerchantId, u64)>,
    last: HashMap<MerchantId, u64>,
    repeated: u64,
    reordered: u64,
}

impl Tally {
    /// Answers when it came.
    fn take(&mut self, heard: &Heard) -> Instant {
        let last = self.last.entry(heard.merchant).or_default();
        if !self.heard.insert((heard.merchant, heard.seq)) {
            self.repeated += 1;
        } else if heard.seq < *last {
            self.reordered += 1;
        }
        *last = heard.seq.max(*last);
        heard.at
    }

    /// How many different entries have come.
    fn distinct(&self) -> u64 {
        self.heard.len() as u64
    }
}

struct Heard {
    merchant: MerchantId,
    seq: u64,
    at: Instant,
}

/// The consumer.
struct Sink {
    heard: mpsc::UnboundedReceiver<Heard>,
    /// Whose end ends the consumer.
    _connection: Connection,
}

impl Sink {
    async fn open(url: &str) -> Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, durable, FieldTable::default()).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(QUEUE.into(), durable, arguments).await?;
        let options = QueueBindOptions::default();
        channel.queue_bind(QUEUE.into(), EXCHANGE.into(), "#".into(), options, FieldTable::default()).await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(QUEUE.into(), "loadtest".into(), options, FieldTable::default()).await?;
        let (told, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut bursts = consumer.ready_chunks(usize::from(PREFETCH) / 4);
            while let Some(burst) = bursts.next().await {
                let mut last = None;
                for delivery in burst {
                    let Ok(delivery) = delivery else { return };
                    let Ok(Body { merchant, position }) = serde_json::from_slice(&delivery.data) else { return };
                    if told.send(Heard { merchant, seq: position.seq, at: Instant::now() }).is_err() {
                        return;
                    }
                    last = Some(delivery.delivery_tag);
                }
                if let Some(last) = last
                    && channel.basic_ack(last, BasicAckOptions { multiple: true }).await.is_err()
                {
                    return;
                }
            }
        });
        Ok(Self { heard, _connection: connection })
    }

    async fn next(&mut self) -> Result<Heard> {
        timeout(NEXT_MAX, self.heard.recv()).await.context("no message came")?.context("the consumer has ended")
    }
}

/// What the consumer reads of a message.
#[derive(Deserialize)]
struct Body {
    merchant: MerchantId,
    position: Position,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_twice_or_late_is_counted() {
        let merchant = MerchantId::new();
        let mut tally = Tally::default();
        for seq in [1, 2, 3, 3, 2, 3, 4, 6, 5] {
            tally.take(&Heard { merchant, seq, at: Instant::now() });
        }
        assert_eq!((tally.distinct(), tally.repeated, tally.reordered), (6, 3, 1));
    }
}
