//! Redis: a key prefix for each test. And clusters of it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::commands::{form_redis_cluster, redis_node, redis_says, redis_server};
use super::{Service, free_port, service_dir, unique};

const ANSWER_MAX: Duration = Duration::from_secs(1);

pub struct Redis {
    service: Service,
    dir: PathBuf,
    pub port: u16,
    /// Where a node of a cluster talks to the others.
    cluster_port: Option<u16>,
}

impl Redis {
    /// The run's server.
    pub async fn shared() -> &'static Redis {
        static SHARED: OnceCell<Redis> = OnceCell::const_new();
        SHARED.get_or_init(Redis::start_own).await
    }

    /// A server for a test that kills it.
    pub async fn start_own() -> Redis {
        Self::start_as(None).await
    }

    async fn start_as(cluster_port: Option<u16>) -> Redis {
        let (dir, port) = (service_dir("redis"), free_port());
        let service = Service::spawn("redis", &dir, command(port, cluster_port));
        let mut redis = Redis { service, dir, port, cluster_port };
        redis.ready().await;
        redis
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Sends one command, as a person would type it, and answers with the text or the first line of the reply.
    pub async fn command(&self, words: &str) -> String {
        redis_says(self.port, words).await.expect("Redis answers")
    }

    /// The beginning of every key and channel of one test.
    pub fn prefix(&self) -> String {
        format!("{}:", unique("test"))
    }

    pub fn kill(&mut self) {
        self.service.kill();
    }

    /// Starts the killed server again, on the same port and data.
    pub async fn start_again(&mut self) {
        self.service = Service::spawn("redis", &self.dir, command(self.port, self.cluster_port));
        self.ready().await;
    }

    /// Connections stay open and nothing answers.
    pub fn pause(&self) {
        self.service.pause();
    }

    pub fn resume(&self) {
        self.service.resume();
    }

    async fn ready(&mut self) {
        let port = self.port;
        self.service.ready(async || timeout(ANSWER_MAX, answers(port)).await.is_ok_and(|pong| pong.is_ok())).await;
    }
}

fn command(port: u16, cluster_port: Option<u16>) -> Command {
    match cluster_port {
        None => redis_server(port),
        Some(cluster_port) => redis_node(port, cluster_port),
    }
}

/// A cluster for a test that kills its nodes: three masters of a third of the slots each, and as many replicas if wanted.
pub struct RedisCluster {
    pub nodes: Vec<Redis>,
}

pub const MASTERS: usize = 3;

impl RedisCluster {
    pub async fn start() -> RedisCluster {
        Self::start_of(MASTERS).await
    }

    /// The same with a replica of each master, which are the first three nodes.
    pub async fn start_with_replicas() -> RedisCluster {
        Self::start_of(2 * MASTERS).await
    }

    async fn start_of(count: usize) -> RedisCluster {
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(Redis::start_as(Some(free_port())).await);
        }
        let ports: Vec<_> = nodes.iter().filter_map(|node| Some((node.port, node.cluster_port?))).collect();
        form_redis_cluster(&ports, MASTERS).await.expect("nodes that become a cluster");
        RedisCluster { nodes }
    }

    /// All nodes, as a hub is told of them.
    pub fn urls(&self) -> String {
        self.nodes.iter().map(Redis::url).collect::<Vec<_>>().join(",")
    }

    /// The slot of a channel, as the cluster has it.
    pub async fn slot(&self, channel: &str) -> u16 {
        let slot = self.nodes[0].command(&format!("CLUSTER KEYSLOT {channel}")).await;
        slot.trim_start_matches(':').parse().expect("a slot")
    }

    /// Which of the masters a slot belonged to when the cluster was made.
    pub fn first_owner(slot: u16) -> usize {
        (0..MASTERS).find(|part| usize::from(slot) < 16_384 * (part + 1) / MASTERS).expect("a slot")
    }

    /// Moves a slot that holds no keys from one master to another, as `redis-cli --cluster reshard` does.
    pub async fn moves(&self, slot: u16, from: usize, to: usize) {
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        let (here, there) = (from.command("CLUSTER MYID").await, to.command("CLUSTER MYID").await);
        let steps = [
            (to, format!("IMPORTING {here}")),
            (from, format!("MIGRATING {there}")),
            (to, format!("NODE {there}")),
            (from, format!("NODE {there}")),
        ];
        for (node, step) in steps {
            assert_eq!(node.command(&format!("CLUSTER SETSLOT {slot} {step}")).await, "+OK");
        }
    }
}

async fn answers(port: u16) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut pong = [0; 5];
    stream.read_exact(&mut pong).await?;
    if &pong == b"+PONG" { Ok(()) } else { Err(std::io::Error::other("still loading")) }
}

#[tokio::test]
async fn redis_keeps_its_port_and_data_when_killed() {
    let mut redis = Redis::start_own().await;
    let mut client = TcpStream::connect(("127.0.0.1", redis.port)).await.unwrap();
    client.write_all(b"SET shop open\r\n").await.unwrap();
    client.read_exact(&mut [0; 5]).await.unwrap();

    redis.kill();
    assert!(TcpStream::connect(("127.0.0.1", redis.port)).await.is_err());
    redis.start_again().await;

    let mut client = TcpStream::connect(("127.0.0.1", redis.port)).await.unwrap();
    client.write_all(b"GET shop\r\n").await.unwrap();
    let mut reply = [0; 10];
    client.read_exact(&mut reply).await.unwrap();
    assert_eq!(&reply, b"$4\r\nopen\r\n");

    redis.pause();
    assert!(timeout(ANSWER_MAX, answers(redis.port)).await.is_err());
    redis.resume();
    answers(redis.port).await.unwrap();
}
