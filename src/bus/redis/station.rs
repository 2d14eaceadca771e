//! One server that we publish to over one connection, and listen to over another: the only one, or a master of a cluster.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use futures_util::future::join_all;
use redis::aio::{MultiplexedConnection, SendError};
use redis::{AsyncConnectionConfig, PushInfo, PushKind, RedisResult, Value};
use tillwire_channels::MerchantId;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::atlas::{Address, Atlas};
use super::server::{Server, ping};
use super::{Channels, NAME};
use crate::brokers::link::{self, Link};
use crate::bus::ear::Ear;
use crate::bus::pipeline::{self, Sent};
use crate::bus::{Carried, Interest, PASS_INTERVAL, codec};

/// How many channels are subscribed to at once. A node that comes back asks for thousands, and each command is answered
/// in time or not.
const SUBSCRIBE_CHANNELS_MAX: usize = 512;
/// How often subscriptions are compared with what is wanted, even if nothing is known to have changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

pub struct Station {
    pub server: Server,
    pub channels: Channels,
    pub place: Place,
}

/// What a server is among others.
pub enum Place {
    Alone,
    /// One of a cluster's masters: it serves the channels of its slots, and they may move.
    Shard {
        address: Arc<Address>,
        atlas: Arc<Atlas>,
    },
}

impl Station {
    pub async fn run(&self, outgoing: mpsc::Receiver<Carried>, ear: &Ear) {
        tokio::join!(self.publish(outgoing), self.listen(ear));
    }

    fn link(&self, task: &'static str) -> Link {
        match &self.place {
            Place::Alone => Link::new(NAME, task),
            Place::Shard { address, .. } => Link::to_node(NAME, task, address.to_string()),
        }
    }

    async fn publish(&self, mut outgoing: mpsc::Receiver<Carried>) {
        let mut link = self.link("publishing");
        loop {
            let Err(error) = self.publish_once(&mut link, &mut outgoing).await;
            let pause = tokio::time::sleep(link.is_down(&error));
            pipeline::discard_until(NAME, &mut outgoing, pause).await;
        }
    }

    /// Publishes until the connection is lost.
    async fn publish_once(
        &self,
        link: &mut Link,
        outgoing: &mut mpsc::Receiver<Carried>,
    ) -> anyhow::Result<Infallible> {
        let connecting = self.server.connect(AsyncConnectionConfig::new());
        let connection = pipeline::discard_until(NAME, outgoing, connecting).await?;
        link.is_up();
        tokio::select! {
            outcome = pipeline::publish(link, outgoing, |carried| self.send(&connection, carried)) => outcome,
            outcome = link::watch(|| ping(&connection)) => outcome,
        }
    }

    async fn send(&self, connection: &MultiplexedConnection, carried: Carried) -> anyhow::Result<Sent> {
        let verb = match self.place {
            Place::Alone => "PUBLISH",
            Place::Shard { .. } => "SPUBLISH",
        };
        let mut publish = redis::cmd(verb);
        publish.arg(self.channels.of(carried.merchant())).arg(codec::encode(&carried)?);
        self.judge(publish.exec_async(&mut connection.clone()).await)
    }

    /// A master that does not serve a slot any more is no broken connection.
    fn judge(&self, answer: RedisResult<()>) -> anyhow::Result<Sent> {
        match (answer, &self.place) {
            (Ok(()), _) => Ok(Sent::Taken),
            (Err(refusal), Place::Shard { address, atlas }) if refusal.is_cluster_error() => {
                atlas.correct(&refusal, address);
                Ok(Sent::Refused)
            }
            (Err(error), _) => Err(error.into()),
        }
    }

    async fn listen(&self, ear: &Ear) {
        let mut link = self.link("listening");
        loop {
            let Err(error) = self.listen_once(&mut link, ear).await;
            tokio::time::sleep(link.is_down(&error)).await;
        }
    }

    /// Listens until the connection is lost.
    async fn listen_once(&self, link: &mut Link, ear: &Ear) -> anyhow::Result<Infallible> {
        let (lost, subscriptions) = (CancellationToken::new(), Arc::new(Subscriptions::default()));
        let pushed = {
            let (ear, channels) = (ear.clone(), self.channels.clone());
            let (lost, subscriptions) = (lost.clone(), subscriptions.clone());
            move |push: PushInfo| {
                match (push.kind, push.data.as_slice()) {
                    (PushKind::Message | PushKind::SMessage, [_, Value::BulkString(message)]) => ear.hear(message),
                    (PushKind::Subscribe | PushKind::SSubscribe, [Value::BulkString(channel), ..]) => {
                        subscriptions.began(channels.merchant(channel));
                    }
                    (PushKind::Unsubscribe | PushKind::SUnsubscribe, [Value::BulkString(channel), ..]) => {
                        subscriptions.ended(channels.merchant(channel));
                    }
                    (PushKind::Disconnection, _) => lost.cancel(),
                    _ => {}
                }
                Ok::<(), SendError>(())
            }
        };
        let connection = self.server.connect(AsyncConnectionConfig::new().set_push_sender(pushed)).await?;
        tokio::select! {
            outcome = self.follow(link, &connection, &ear.interest, &subscriptions) => outcome,
            outcome = link::watch(|| ping(&connection)) => outcome,
            () = lost.cancelled() => Err(anyhow!("the connection was closed")),
        }
    }

    /// Subscribes to the merchants of interest whom this server serves, whoever they are by and by.
    async fn follow(
        &self,
        link: &mut Link,
        connection: &MultiplexedConnection,
        interest: &Interest,
        subscriptions: &Subscriptions,
    ) -> anyhow::Result<Infallible> {
        let mut interests = interest.changes();
        let mut moves = match &self.place {
            Place::Alone => None,
            Place::Shard { atlas, .. } => Some(atlas.changes()),
        };
        let mut is_up = false;
        loop {
            interests.mark_unchanged(); // Before looking, so that a change meanwhile brings another pass.
            if let Some(moves) = &mut moves {
                moves.mark_unchanged();
            }
            self.pass(connection, &interest.merchants(), subscriptions).await?;
            if !std::mem::replace(&mut is_up, true) {
                link.is_up();
            }
            tokio::time::sleep(PASS_INTERVAL).await;
            let moved = async {
                match &mut moves {
                    None => std::future::pending().await,
                    Some(moves) => moves.changed().await,
                }
            };
            tokio::select! {
                changed = interests.changed() => changed?,
                moved = moved => moved?,
                () = subscriptions.taken.notified() => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    /// Subscribes to those who are missing, and unsubscribes from those who have gone. Whoever has moved to another server
    /// is not unsubscribed from: this one says itself when it no longer serves them.
    async fn pass(
        &self,
        connection: &MultiplexedConnection,
        wanted: &HashSet<MerchantId>,
        subscriptions: &Subscriptions,
    ) -> anyhow::Result<()> {
        let heard = subscriptions.heard().clone();
        for channels in self.served(wanted.difference(&heard)).chunks(SUBSCRIBE_CHANNELS_MAX) {
            match self.place {
                Place::Alone => connection.clone().subscribe(channels).await?,
                Place::Shard { .. } => self.each("SSUBSCRIBE", connection, channels).await?,
            }
        }
        let gone: Vec<String> = heard.difference(wanted).map(|merchant| self.channels.of(*merchant)).collect();
        for channels in gone.chunks(SUBSCRIBE_CHANNELS_MAX) {
            match self.place {
                Place::Alone => connection.clone().unsubscribe(channels).await?,
                Place::Shard { .. } => self.each("SUNSUBSCRIBE", connection, channels).await?,
            }
        }
        Ok(())
    }

    /// The channels of those merchants whom this server serves.
    fn served<'a>(&self, merchants: impl Iterator<Item = &'a MerchantId>) -> Vec<String> {
        let channels = merchants.map(|merchant| self.channels.of(*merchant));
        match &self.place {
            Place::Alone => channels.collect(),
            Place::Shard { address, atlas } => {
                let slots = atlas.now();
                channels.filter(|channel| slots.owner(channel) == Some(address)).collect()
            }
        }
    }

    /// A command for each channel, all at once: channels of different slots cannot share one. What answers is not told
    /// apart, for the server ends subscriptions unasked, and the library takes that for an answer. What is heard is known
    /// from what the server says of it, and [`LOOK_INTERVAL`] later the rest is tried again.
    async fn each(
        &self,
        verb: &'static str,
        connection: &MultiplexedConnection,
        channels: &[String],
    ) -> anyhow::Result<()> {
        let commands = channels.iter().map(|channel| async move {
            let mut command = redis::cmd(verb);
            command.arg(channel).exec_async(&mut connection.clone()).await
        });
        join_all(commands).await.into_iter().try_for_each(|answer| self.judge(answer).map(drop))
    }
}

/// Whom a connection hears, as its server tells it.
#[derive(Default)]
struct Subscriptions {
    heard: Mutex<HashSet<MerchantId>>,
    /// One of them is heard no more.
    taken: Notify,
}

impl Subscriptions {
    fn began(&self, merchant: Option<MerchantId>) {
        self.heard().extend(merchant);
    }

    fn ended(&self, merchant: Option<MerchantId>) {
        if merchant.is_some_and(|merchant| self.heard().remove(&merchant)) {
            self.taken.notify_one();
        }
    }

    fn heard(&self) -> MutexGuard<'_, HashSet<MerchantId>> {
        // A set of ids is whole after every operation, whoever panicked.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
