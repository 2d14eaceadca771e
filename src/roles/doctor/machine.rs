//! What a node needs of its machine: keys it can read, ports it can have, and enough file descriptors.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use nix::sys::resource::{Resource, getrlimit};
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Finding, within};
use crate::config::{Database, Listen, Push, Tokens};
use crate::gateway::address::Place;
use crate::http::REQUESTS_MAX;
use crate::identity::tokens::Verifier;
use crate::journal::pool;
use crate::push::services::Services;

/// Descriptors beside connections: the log, listeners, brokers, and some to spare.
const DESCRIPTORS_OTHER: u64 = 64;
/// What a gateway should have: a screen is a descriptor.
const DESCRIPTORS_GOOD: u64 = 16_384;
/// How much of a neighbour's answer we read, to see whether it is one of us.
const ANSWER_BYTES_MAX: u64 = 256 * 1024;
/// How long whoever holds a port may take to say who they are.
const ANSWER_MAX: Duration = Duration::from_secs(2);

pub fn token_keys(config: Tokens) -> Finding {
    match Verifier::open(&config.token_keys, config.realm.into()) {
        Err(error) => Finding::wrong(
            "token_keys",
            format!("{error:#}"),
            "Let --token-keys name what `tillwire token new-key` printed",
        ),
        Ok(verifier) if verifier.trusts_demo() => Finding::wrong(
            "token_keys",
            "the demo's key is among them, which is not secret",
            "Make one with `tillwire token new-key`",
        ),
        Ok(_) => Finding::good("token_keys", "they can be read, and the demo's is not among them"),
    }
}

/// Whether what is named of push services can be read: a node does not start without.
pub fn push(config: Push) -> Finding {
    match Services::open(&config.into()) {
        Err(error) => {
            Finding::wrong("push", format!("{error:#}"), "Let the flags name files that this process can read")
        }
        Ok(services) => match services.public_keys().kinds.as_slice() {
            [] => Finding::good("push", "no phone and no browser is sent anything"),
            kinds => Finding::good("push", format!("has what it needs to send to {}", kinds.join(", "))),
        },
    }
}

pub async fn ports(config: &Listen) -> [Finding; 2] {
    let (public, private) = tokio::join!(
        within("listen", "Let --listen name another", port("listen", "--listen", config.listen, "/healthz")),
        within(
            "metrics_listen",
            "Let --metrics-listen name another",
            port("metrics_listen", "--metrics-listen", config.metrics_listen, "/metrics")
        )
    );
    [public, private]
}

/// Where the node would say that other gateways find it.
pub async fn node_address(listen: &Listen, database: &Database) -> Finding {
    let place = Place {
        given: listen.node_address,
        listen: listen.listen,
        database: pool::place_of(database.database_url.expose_secret()),
    };
    let cure = "With more than one gateway, let --node-address name an address of this machine that the others reach";
    match place.find().await {
        Some(found) if found.ip().is_loopback() && !listen.listen.ip().is_loopback() => {
            let detail =
                format!("other gateways would look for this one at {found}, which only this machine can reach");
            Finding::warning("node_address", detail, cure)
        }
        Some(found) => Finding::good("node_address", format!("other gateways reach this one at {found}")),
        None => Finding::warning("node_address", "nothing says where other gateways reach this one", cure),
    }
}

async fn port(check: &'static str, flag: &str, address: SocketAddr, path: &str) -> anyhow::Result<Finding> {
    match TcpListener::bind(address).await {
        Ok(_) => Ok(Finding::good(check, format!("{address} is free"))),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let answer = tokio::time::timeout(ANSWER_MAX, ask(address, path)).await;
            if answer.is_ok_and(|answer| answer.is_ok_and(|answer| is_ours(&answer))) {
                Ok(Finding::good(check, format!("{address} is taken by a tillwire that is running")))
            } else {
                bail!("{address} is taken by another program")
            }
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let cure = format!("Let {flag} name a port above 1023, or give the process CAP_NET_BIND_SERVICE");
            Ok(Finding::wrong(check, format!("{address} is not for us"), cure))
        }
        Err(error) => Err(anyhow::Error::from(error).context(format!("listening on {address}"))),
    }
}

async fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Health checks carry a trace id, and every metric of ours its prefix.
fn is_ours(answer: &str) -> bool {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    head.starts_with("HTTP/1.1 200") && (head.contains("x-trace-id:") || body.contains("tillwire_"))
}

/// Every connection is a descriptor.
pub fn descriptors(config: &Database) -> Finding {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => {
            return Finding::warning("descriptors", format!("cannot be asked for: {error}"), "Look at `ulimit -n`");
        }
    };
    let connections = u64::from(config.database_connections + config.database_connections / 4 + 2);
    judge_descriptors(soft, hard, REQUESTS_MAX as u64 + connections + DESCRIPTORS_OTHER)
}

fn judge_descriptors(soft: u64, hard: u64, needed: u64) -> Finding {
    let cure = format!("Raise it, e.g. with `ulimit -n` (up to {hard}), LimitNOFILE= or nofile");
    if soft < needed {
        Finding::wrong(
            "descriptors",
            format!("at most {soft}; requests and the database alone may take {needed}"),
            cure,
        )
    } else if soft < DESCRIPTORS_GOOD {
        Finding::warning("descriptors", format!("at most {soft}: about {} screens", soft - needed), cure)
    } else {
        Finding::good("descriptors", format!("at most {soft}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn few_descriptors_are_noticed() {
        let verdict = |soft| judge_descriptors(soft, 1 << 20, 600).verdict;
        assert_eq!([verdict(599), verdict(600), verdict(1 << 20)], [Verdict::Wrong, Verdict::Warning, Verdict::Good]);
    }
}
