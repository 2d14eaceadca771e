//! HTTP clients for what is outside: no redirects, no proxies, and one that connects on a stranger's word only where an
//! [`Egress`] allows.

use std::net::ToSocketAddrs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{ClientBuilder, Response};
use tillwire_channels::Moment;
use time::format_description::well_known::Rfc2822;
use tokio::sync::Semaphore;

use super::Egress;

/// How long connecting may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long a connection to a stranger that nobody uses is kept: less than servers do.
const IDLE_MAX: Duration = Duration::from_secs(3);
/// How many names are looked up at once.
const LOOKUPS_MAX: usize = 32;

/// A client. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    /// Made when it is first needed: a machine without certificates to trust can be told nothing, and does all else.
    made: Arc<Mutex<Option<reqwest::Client>>>,
    recipe: Arc<dyn Fn() -> ClientBuilder + Send + Sync>,
}

impl Client {
    /// One for whatever URL a stranger gave and an egress took. An attempt may take so long, from the name to the last byte.
    pub fn judged(egress: Arc<Egress>, attempt_max: Duration, agent: &'static str) -> Self {
        let resolver = Arc::new(Judged::new(egress));
        Self::made_by(move || {
            plain(attempt_max, agent)
                .http1_only()
                .pool_max_idle_per_host(1)
                .pool_idle_timeout(IDLE_MAX)
                .dns_resolver(resolver.clone())
        })
    }

    /// One for a service that the operator named.
    pub fn to_service(attempt_max: Duration, agent: &'static str) -> Self {
        Self::made_by(move || plain(attempt_max, agent))
    }

    /// One that is made in another way, out of [`plain`] as the others are.
    pub fn made_by(recipe: impl Fn() -> ClientBuilder + Send + Sync + 'static) -> Self {
        Self { made: Arc::default(), recipe: Arc::new(recipe) }
    }

    /// # Errors
    /// If this machine trusts no certificates.
    pub fn get(&self) -> anyhow::Result<reqwest::Client> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*made {
            return Ok(client.clone());
        }
        let client =
            (self.recipe)().build().context("making a client: are there certificates to trust (ca-certificates)?")?;
        Ok(made.insert(client).clone())
    }
}

/// What all of them have in common.
pub fn plain(attempt_max: Duration, agent: &'static str) -> ClientBuilder {
    reqwest::Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .referer(false)
        .timeout(attempt_max)
        .connect_timeout(CONNECT_MAX)
        .user_agent(agent)
}

/// The beginning of an answer's body, as far as it comes.
pub async fn beginning(mut response: Response, bytes_max: usize) -> Vec<u8> {
    let mut kept = Vec::new();
    while let Ok(Some(data)) = response.chunk().await {
        kept.extend_from_slice(&data[..data.len().min(bytes_max - kept.len())]);
        if kept.len() == bytes_max {
            break;
        }
    }
    kept
}

/// How long `Retry-After` asks to wait: seconds, or a date.
pub fn retry_after(headers: &HeaderMap, now: Moment) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = Moment::parse(text, &Rfc2822).ok()?;
    (until - now).try_into().ok()
}

/// Resolves names, and lets nobody be led to an address that is not for everyone.
struct Judged {
    egress: Arc<Egress>,
    /// Held until a look-up's thread has ended, also when nobody waits for it any more: the hub's own names need threads, too.
    lookups: Arc<Semaphore>,
}

impl Judged {
    fn new(egress: Arc<Egress>) -> Self {
        Self { egress, lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }
}

impl Resolve for Judged {
    fn resolve(&self, name: Name) -> Resolving {
        let (egress, lookups) = (self.egress.clone(), self.lookups.clone());
        Box::pin(async move {
            let turn = lookups.acquire_owned().await?;
            let looking = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                (name.as_str(), 0).to_socket_addrs().map(Iterator::collect::<Vec<_>>)
            });
            let allowed = egress.allowed(looking.await??);
            if allowed.is_empty() {
                return Err("the name leads to an address that is not public".into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_asked_may_want_time_in_seconds_or_by_a_date() {
        let now = Moment::from_unix_timestamp(1_800_000_000).unwrap();
        let asks = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(asks("120"), Some(Duration::from_secs(120)));
        assert_eq!(asks("Fri, 15 Jan 2027 08:01:00 GMT"), Some(Duration::from_secs(60)));
        for text in ["-1", "soon", "", "Fri, 15 Jan 2027 07:00:00 GMT", "1e9"] {
            assert_eq!(asks(text), None, "{text}");
        }
    }
}
