//! Redis: a pub/sub channel for each merchant, at one server or spread over the masters of a cluster.
//!
//! It speaks RESP3 (Redis 6 or later), in which what is heard comes as pushes: they are decoded where they are read, and
//! no queue of theirs can grow.

mod atlas;
mod cluster;
mod server;
mod station;

use anyhow::ensure;
use redis::AsyncConnectionConfig;
use secrecy::{ExposeSecret, SecretString};
use tillwire_channels::MerchantId;

pub use self::cluster::Cluster;
use self::server::Server;
use self::station::{Place, Station};
use super::ear::Ear;
use super::{Bus, Ends};
use crate::brokers::urls;

/// The bus's name, whichever of the two it is.
const NAME: &str = "redis";

/// A single server.
pub struct Redis {
    station: Station,
}

impl Redis {
    /// # Errors
    /// If it is no URL of a Redis. The message does not repeat it: it holds a password.
    pub fn new(url: &SecretString, prefix: &str) -> anyhow::Result<Self> {
        let urls = urls::split(url.expose_secret());
        ensure!(urls.len() == 1, "several nodes of Redis are a Redis Cluster: say so with --redis-cluster");
        let station = Station { server: Server::new(urls[0])?, channels: Channels::new(prefix), place: Place::Alone };
        Ok(Self { station })
    }

    /// Comes in and leaves again, to learn what keeps us out. Answers whether it is a node of a cluster.
    pub async fn greet(&self) -> anyhow::Result<bool> {
        self.station.server.greet().await?;
        let mut connection = self.station.server.connect(AsyncConnectionConfig::new()).await?;
        let hello: std::collections::HashMap<String, redis::Value> =
            redis::cmd("HELLO").query_async(&mut connection).await?;
        Ok(hello.get("mode") == Some(&redis::Value::BulkString(b"cluster".to_vec())))
    }
}

impl Bus for Redis {
    const NAME: &'static str = NAME;

    async fn run(self, ends: Ends) {
        let Ends { outgoing, heard, interest, stop } = ends;
        let ear = Ear { bus: NAME, heard, interest };
        // Whatever it is doing: dropping it closes both connections.
        stop.run_until_cancelled(self.station.run(outgoing, &ear)).await;
    }
}

/// The names of channels.
#[derive(Clone)]
struct Channels {
    /// What each begins with.
    prefix: String,
}

impl Channels {
    fn new(prefix: &str) -> Self {
        Self { prefix: format!("tillwire:{prefix}live:") }
    }

    /// The channel of a merchant.
    fn of(&self, merchant: MerchantId) -> String {
        format!("{}{merchant}", self.prefix)
    }

    /// Whose channel it is.
    fn merchant(&self, channel: &[u8]) -> Option<MerchantId> {
        std::str::from_utf8(channel).ok()?.strip_prefix(&self.prefix)?.parse().ok().map(MerchantId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_refused_without_being_repeated() {
        for url in [
            "redis//hub:geheim@host",
            "http://hub:geheim@host",
            "redis://hub:geheim@",
            "redis://hub:geheim@host,redis://other",
            "geheim",
            "unix:///geheim",
            "",
        ] {
            let Err(error) = Redis::new(&SecretString::from(url), "") else { panic!("{url} was taken") };
            assert!(!format!("{error:?}").contains("geheim"), "{error:?}");
        }
        for url in ["redis://host", "rediss://hub:geheim@host:6380/1", "valkey://host"] {
            let merchant = MerchantId::new();
            let channels = Redis::new(&SecretString::from(url), "shop-7:").unwrap().station.channels;
            assert_eq!(channels.of(merchant), format!("tillwire:shop-7:live:{merchant}"));
            assert_eq!(channels.merchant(channels.of(merchant).as_bytes()), Some(merchant));
            assert_eq!(channels.merchant(b"tillwire:live:x"), None);
        }
    }
}
