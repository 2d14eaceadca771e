//! One Redis server: where it is, how it lets us in, and a connection to it.

use anyhow::{Context, ensure};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, ProtocolVersion};

use super::atlas::Address;
use crate::brokers::link::{self, ANSWER_MAX, CONNECT_MAX};

#[derive(Clone)]
pub struct Server {
    client: Client,
}

impl Server {
    /// # Errors
    /// If it is no URL of a Redis. The message does not repeat it: it holds a password.
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let is_tcp = ["redis://", "rediss://", "valkey://", "valkeys://"].iter().any(|scheme| url.starts_with(scheme));
        ensure!(is_tcp, "the URL of Redis must look like redis://user:password@host:6379, or rediss:// with TLS");
        let info = url.into_connection_info().context("reading the URL of Redis")?;
        ensure!(!info.addr().to_string().contains(','), "each node of Redis is named by a whole URL of its own");
        // Small messages must not wait for company: Nagle's algorithm costs 40 ms.
        let tcp = TcpSettings::default().set_nodelay(true);
        let session = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        Ok(Self { client: Client::open(info.set_tcp_settings(tcp).set_redis_settings(session))? })
    }

    /// Another server that lets us in as this one does, with TLS or without.
    pub fn at(&self, address: &Address) -> anyhow::Result<Self> {
        let info = self.client.get_connection_info().clone();
        let (host, port) = (address.host.clone(), address.port);
        let there = match info.addr().clone() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure, tls_params }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        Ok(Self { client: Client::open(info.set_addr(there))? })
    }

    /// Where it is; none for one that is not reached by TCP.
    pub fn address(&self) -> Option<Address> {
        match self.client.get_connection_info().addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                Some(Address { host: host.clone(), port: *port })
            }
            _ => None,
        }
    }

    pub fn speaks_tls(&self) -> bool {
        matches!(self.client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. })
    }

    /// Which of a server's databases is meant. Channels belong to none.
    pub fn database(&self) -> i64 {
        self.client.get_connection_info().redis_settings().db()
    }

    /// Comes in and leaves again, to learn what keeps us out.
    pub async fn greet(&self) -> anyhow::Result<()> {
        ping(&self.connect(AsyncConnectionConfig::new()).await?).await
    }

    pub async fn connect(&self, config: AsyncConnectionConfig) -> anyhow::Result<MultiplexedConnection> {
        let config = config.set_connection_timeout(Some(CONNECT_MAX)).set_response_timeout(Some(ANSWER_MAX));
        link::within(CONNECT_MAX, self.client.get_multiplexed_async_connection_with_config(&config)).await
    }
}

pub async fn ping(connection: &MultiplexedConnection) -> anyhow::Result<()> {
    match redis::cmd("PING").exec_async(&mut connection.clone()).await {
        // What it says of a slot was meant for another command, and yet it is there: see `Station::each`.
        Err(refusal) if refusal.is_cluster_error() => Ok(()),
        answer => Ok(answer?),
    }
}
