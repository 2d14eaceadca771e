//! Redis: a pub/sub channel for each merchant. One connection publishes, another listens.
//!
//! It speaks RESP3 (Redis 6 or later), in which what is heard comes as pushes: they are decoded where they are read, and
//! no queue of theirs can grow.

use std::collections::HashSet;
use std::convert::Infallible;

use anyhow::{Context, anyhow, ensure};
use redis::aio::{MultiplexedConnection, SendError};
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind, Value};
use secrecy::{ExposeSecret, SecretString};
use tillwire_channels::MerchantId;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::ear::Ear;
use super::link::{self, ANSWER_MAX, CONNECT_MAX, Link};
use super::{Bus, Carried, Ends, Interest, PASS_INTERVAL, codec, pipeline};

/// How many channels one command subscribes to. A node that comes back asks for thousands, and each command is answered
/// in time or not.
const SUBSCRIBE_CHANNELS_MAX: usize = 512;

pub struct Redis {
    client: Client,
    /// What the name of each channel begins with.
    prefix: String,
}

impl Redis {
    /// # Errors
    /// If it is no URL of a Redis. The message does not repeat it: it holds a password.
    pub fn new(url: &SecretString, prefix: &str) -> anyhow::Result<Self> {
        let url = url.expose_secret();
        let is_tcp = ["redis://", "rediss://", "valkey://", "valkeys://"].iter().any(|scheme| url.starts_with(scheme));
        ensure!(is_tcp, "the URL of Redis must look like redis://user:password@host:6379, or rediss:// with TLS");
        let info = url.into_connection_info().context("reading the URL of Redis")?;
        // Small messages must not wait for company: Nagle's algorithm costs 40 ms.
        let tcp = TcpSettings::default().set_nodelay(true);
        let session = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_tcp_settings(tcp).set_redis_settings(session))?;
        Ok(Self { client, prefix: format!("tillwire:{prefix}live:") })
    }

    /// The channel of a merchant.
    fn channel(&self, merchant: MerchantId) -> String {
        format!("{}{merchant}", self.prefix)
    }

    /// Comes in and leaves again, to learn what keeps us out.
    pub async fn greet(&self) -> anyhow::Result<()> {
        ping(&self.connect(AsyncConnectionConfig::new()).await?).await
    }

    async fn connect(&self, config: AsyncConnectionConfig) -> anyhow::Result<MultiplexedConnection> {
        let config = config.set_connection_timeout(Some(CONNECT_MAX)).set_response_timeout(Some(ANSWER_MAX));
        link::within(CONNECT_MAX, self.client.get_multiplexed_async_connection_with_config(&config)).await
    }

    async fn publish(&self, mut outgoing: mpsc::Receiver<Carried>) {
        let mut link = Link::new(Self::NAME, "publishing");
        loop {
            let Err(error) = self.publish_once(&mut link, &mut outgoing).await;
            let pause = tokio::time::sleep(link.is_down(&error));
            pipeline::discard_until(Self::NAME, &mut outgoing, pause).await;
        }
    }

    /// Publishes until the connection is lost.
    async fn publish_once(
        &self,
        link: &mut Link,
        outgoing: &mut mpsc::Receiver<Carried>,
    ) -> anyhow::Result<Infallible> {
        let connecting = self.connect(AsyncConnectionConfig::new());
        let connection = pipeline::discard_until(Self::NAME, outgoing, connecting).await?;
        link.is_up();
        tokio::select! {
            outcome = pipeline::publish(Self::NAME, outgoing, |carried| self.send(&connection, carried)) => outcome,
            outcome = link::watch(|| ping(&connection)) => outcome,
        }
    }

    async fn send(&self, connection: &MultiplexedConnection, carried: Carried) -> anyhow::Result<()> {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(self.channel(carried.merchant())).arg(codec::encode(&carried)?);
        Ok(publish.exec_async(&mut connection.clone()).await?)
    }

    async fn listen(&self, ear: Ear) {
        let mut link = Link::new(Self::NAME, "listening");
        loop {
            let Err(error) = self.listen_once(&mut link, &ear).await;
            tokio::time::sleep(link.is_down(&error)).await;
        }
    }

    /// Listens until the connection is lost.
    async fn listen_once(&self, link: &mut Link, ear: &Ear) -> anyhow::Result<Infallible> {
        let lost = CancellationToken::new();
        let pushed = {
            let (ear, lost) = (ear.clone(), lost.clone());
            move |push: PushInfo| {
                match (push.kind, push.data.as_slice()) {
                    (PushKind::Message, [_, Value::BulkString(message)]) => ear.hear(message),
                    (PushKind::Disconnection, _) => lost.cancel(),
                    _ => {}
                }
                Ok::<(), SendError>(())
            }
        };
        let connection = self.connect(AsyncConnectionConfig::new().set_push_sender(pushed)).await?;
        tokio::select! {
            outcome = self.follow(link, connection.clone(), &ear.interest) => outcome,
            outcome = link::watch(|| ping(&connection)) => outcome,
            () = lost.cancelled() => Err(anyhow!("the connection was closed")),
        }
    }

    /// Subscribes to the merchants of interest, whoever they are by and by.
    async fn follow(
        &self,
        link: &mut Link,
        mut connection: MultiplexedConnection,
        interest: &Interest,
    ) -> anyhow::Result<Infallible> {
        let mut changes = interest.changes();
        let mut listening = HashSet::new();
        self.pass(&mut connection, interest, &mut changes, &mut listening).await?;
        link.is_up();
        loop {
            tokio::time::sleep(PASS_INTERVAL).await;
            changes.changed().await?;
            self.pass(&mut connection, interest, &mut changes, &mut listening).await?;
        }
    }

    /// Subscribes to those who are new, and unsubscribes from those who have gone.
    async fn pass(
        &self,
        connection: &mut MultiplexedConnection,
        interest: &Interest,
        changes: &mut watch::Receiver<u64>,
        listening: &mut HashSet<MerchantId>,
    ) -> anyhow::Result<()> {
        changes.mark_unchanged(); // Before looking, so that a change meanwhile brings another pass.
        let wanted = interest.merchants();
        for channels in self.channels(&wanted, listening).chunks(SUBSCRIBE_CHANNELS_MAX) {
            connection.subscribe(channels).await?;
        }
        for channels in self.channels(listening, &wanted).chunks(SUBSCRIBE_CHANNELS_MAX) {
            connection.unsubscribe(channels).await?;
        }
        *listening = wanted;
        Ok(())
    }

    /// The channels of those in the first set who are not in the other.
    fn channels(&self, these: &HashSet<MerchantId>, those: &HashSet<MerchantId>) -> Vec<String> {
        these.difference(those).map(|merchant| self.channel(*merchant)).collect()
    }
}

impl Bus for Redis {
    const NAME: &'static str = "redis";

    async fn run(self, ends: Ends) {
        let Ends { outgoing, heard, interest, stop } = ends;
        let ear = Ear { bus: Self::NAME, heard, interest };
        let both = async { tokio::join!(self.publish(outgoing), self.listen(ear)) };
        // Whatever it is doing: dropping it closes both connections.
        stop.run_until_cancelled(both).await;
    }
}

async fn ping(connection: &MultiplexedConnection) -> anyhow::Result<()> {
    Ok(redis::cmd("PING").exec_async(&mut connection.clone()).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_refused_without_being_repeated() {
        for url in
            ["redis//hub:geheim@host", "http://hub:geheim@host", "redis://hub:geheim@", "geheim", "unix:///geheim", ""]
        {
            let Err(error) = Redis::new(&SecretString::from(url), "") else { panic!("{url} was taken") };
            assert!(!format!("{error:?}").contains("geheim"), "{error:?}");
        }
        for url in ["redis://host", "rediss://hub:geheim@host:6380/1", "valkey://host"] {
            let merchant = MerchantId::new();
            let redis = Redis::new(&SecretString::from(url), "shop-7:").unwrap();
            assert_eq!(redis.channel(merchant), format!("tillwire:shop-7:live:{merchant}"));
        }
    }
}
