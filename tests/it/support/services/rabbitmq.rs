//! RabbitMQ: a virtual host for each test. And a cluster of it.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use tokio::time::timeout;

use super::commands::{self, Ports, program, rabbitmq_server, write_rabbitmq_files};
use super::{POLL_INTERVAL, READY_MAX, Service, chown_to, free_port, service_dir, unique, unprivileged};

const ANSWER_MAX: Duration = Duration::from_secs(10);
/// `guest:guest`, whom RabbitMQ admits from the loopback address only.
const GUEST: &str = "Z3Vlc3Q6Z3Vlc3Q=";

pub struct RabbitMq {
    /// Dropped, and so killed, before the registry of names it is written in.
    service: Service,
    _epmd: Arc<Service>,
    name: String,
    dir: PathBuf,
    ports: Ports,
}

/// The name of a node that is alone.
pub(super) const NAME: &str = "tillwire@localhost";

impl RabbitMq {
    /// The run's node.
    pub async fn shared() -> &'static RabbitMq {
        static SHARED: OnceCell<RabbitMq> = OnceCell::const_new();
        SHARED.get_or_init(RabbitMq::start_own).await
    }

    /// A node for a test that kills it.
    pub async fn start_own() -> RabbitMq {
        let dir = service_dir("rabbitmq");
        let ports = free_ports(free_port());
        let epmd = Arc::new(epmd(&dir, ports.epmd).await);
        let mut rabbitmq = Self::spawn(dir, ports, NAME.to_owned(), &[], epmd);
        rabbitmq.ready().await;
        rabbitmq
    }

    fn spawn(dir: PathBuf, ports: Ports, name: String, peers: &[String], epmd: Arc<Service>) -> RabbitMq {
        write_rabbitmq_files(&dir, ports, peers, "kue-lapis").expect("a node's files");
        if let (Some(user), false) = (unprivileged(), peers.is_empty()) {
            chown_to(&dir.join(".erlang.cookie"), &user);
        }
        let service = Service::spawn("rabbitmq", &dir, rabbitmq_server(&dir, ports, &name));
        RabbitMq { service, _epmd: epmd, name, dir, ports }
    }

    pub fn port(&self) -> u16 {
        self.ports.amqp
    }

    /// A virtual host that nobody else uses, by its name.
    pub async fn vhost(&self) -> String {
        let started = Instant::now();
        loop {
            // A cluster that has just come together takes its time. Whoever does not wait for the answer may never be let in.
            let name = unique("test");
            let path = format!("/api/vhosts/{name}");
            let (status, body) =
                management(self.ports.management, "PUT", &path, "", READY_MAX).await.expect("management");
            match status {
                201 | 204 => return name,
                // A node was too slow for it: then another is tried.
                500 if started.elapsed() < READY_MAX => {}
                _ => panic!("creating a virtual host: {status} {body}"),
            }
        }
    }

    pub fn url(&self, vhost: &str) -> String {
        self.url_through(self.ports.amqp, vhost)
    }

    /// The same through a proxy's port.
    pub fn url_through(&self, port: u16, vhost: &str) -> String {
        format!("amqp://guest:guest@127.0.0.1:{port}/{vhost}")
    }

    /// Asks the management API: for queues, connections and all that AMQP does not tell. Answers status and body.
    pub async fn management(&self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
        management(self.ports.management, method, path, body, ANSWER_MAX).await
    }

    pub fn kill(&mut self) {
        self.service.kill();
    }

    /// Starts the killed node again, on the same ports and data.
    pub async fn start_again(&mut self) {
        self.spawn_again();
        self.ready().await;
    }

    fn spawn_again(&mut self) {
        self.service = Service::spawn("rabbitmq", &self.dir, rabbitmq_server(&self.dir, self.ports, &self.name));
    }

    fn is_dead(&mut self) -> bool {
        self.service.has_ended()
    }

    /// How many nodes of its cluster it knows to run.
    async fn running_nodes(&self) -> usize {
        match self.management("GET", "/api/nodes?columns=running", "").await {
            Ok((200, body)) => body.matches("\"running\":true").count(),
            _ => 0,
        }
    }

    /// Raises the alarm of a node that is short of memory: it goes on accepting connections, and blocks who publishes.
    pub async fn alarm(&self) {
        self.ctl(&["set_vm_memory_high_watermark", "absolute", "1"]).await;
    }

    /// Ends the alarm.
    pub async fn relax(&self) {
        self.ctl(&["set_vm_memory_high_watermark", "0.6"]).await;
    }

    async fn ctl(&self, words: &[&str]) {
        let mut command = Command::new(program("rabbitmqctl", &["/usr/lib/rabbitmq/bin/rabbitmqctl"]));
        command.args(words).current_dir(&self.dir).env("HOME", &self.dir);
        command.env("RABBITMQ_NODENAME", &self.name).env("RABBITMQ_CONF_ENV_FILE", self.dir.join("none"));
        command.env("ERL_EPMD_PORT", self.ports.epmd.to_string());
        if let Some(user) = unprivileged() {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        let output = tokio::process::Command::from(command).output();
        let output = timeout(READY_MAX, output).await.expect("rabbitmqctl ends").expect("rabbitmqctl starts");
        assert!(output.status.success(), "rabbitmqctl {words:?}: {output:?}");
    }

    /// Connections stay open and nothing answers.
    pub fn pause(&self) {
        self.service.pause();
    }

    pub fn resume(&self) {
        self.service.resume();
    }

    async fn ready(&mut self) {
        let ports = self.ports;
        let is_ready = async || {
            TcpStream::connect(("127.0.0.1", ports.amqp)).await.is_ok()
                && management(ports.management, "GET", "/api/overview", "", ANSWER_MAX)
                    .await
                    .is_ok_and(|(status, _)| status == 200)
        };
        self.service.ready(is_ready).await;
    }
}

fn free_ports(epmd: u16) -> Ports {
    Ports { amqp: free_port(), management: free_port(), distribution: free_port(), epmd }
}

/// Three nodes that are one broker.
pub struct RabbitMqCluster {
    pub nodes: Vec<RabbitMq>,
}

const NODES: usize = 3;

impl RabbitMqCluster {
    /// The run's cluster, whole, for as long as the guard is held: its tests kill nodes.
    pub async fn shared() -> MutexGuard<'static, RabbitMqCluster> {
        static SHARED: OnceCell<Mutex<RabbitMqCluster>> = OnceCell::const_new();
        let shared = SHARED.get_or_init(async || Mutex::new(RabbitMqCluster::start().await)).await;
        let mut cluster = shared.lock().await;
        cluster.mended().await;
        cluster
    }

    async fn start() -> RabbitMqCluster {
        let epmd_port = free_port();
        let epmd = Arc::new(epmd(&service_dir("epmd"), epmd_port).await);
        let peers: Vec<String> = (1..=NODES).map(|number| format!("tillwire-{number}@localhost")).collect();
        let node = |name: &String| {
            RabbitMq::spawn(service_dir("rabbitmq"), free_ports(epmd_port), name.clone(), &peers, epmd.clone())
        };
        RabbitMqCluster { nodes: peers.iter().map(node).collect() }
    }

    /// Starts what is dead, and waits until every node knows of every other.
    pub async fn mended(&mut self) {
        for node in &mut self.nodes {
            if node.is_dead() {
                node.spawn_again();
            }
            node.resume();
        }
        for node in &mut self.nodes {
            node.ready().await;
        }
        let waiting = async {
            for node in &self.nodes {
                while node.running_nodes().await < NODES {
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
            }
        };
        timeout(READY_MAX, waiting).await.expect("nodes that become a cluster");
    }

    /// A virtual host on every node, by its name.
    pub async fn vhost(&self) -> String {
        self.nodes[0].vhost().await
    }

    /// All nodes, as a hub is told of them.
    pub fn urls(&self, vhost: &str) -> String {
        self.nodes.iter().map(|node| node.url(vhost)).collect::<Vec<_>>().join(",")
    }
}

pub(super) async fn epmd(dir: &Path, port: u16) -> Service {
    let mut epmd = Service::spawn("epmd", dir, commands::epmd(port));
    epmd.ready(async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
    epmd
}

/// HTTP 1.0, so that the answer comes in one piece and ends the connection.
async fn management(
    port: u16,
    method: &str,
    path: &str,
    body: &str,
    answer_max: Duration,
) -> std::io::Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Basic {GUEST}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        status.map(|status| (status, body.to_owned())).ok_or_else(|| std::io::Error::other("no HTTP"))
    };
    timeout(answer_max, exchange).await?
}

#[tokio::test]
async fn rabbitmq_keeps_its_port_when_killed() {
    let mut rabbitmq = RabbitMq::start_own().await;
    rabbitmq.kill();
    assert!(TcpStream::connect(("127.0.0.1", rabbitmq.port())).await.is_err());
    rabbitmq.start_again().await;

    // What it was told just before it was killed may be lost, for it writes its tables down with a delay.
    let queue = format!("/api/queues/{}/orders", rabbitmq.vhost().await);
    let (status, body) = rabbitmq.management("PUT", &queue, r#"{"durable":true}"#).await.unwrap();
    assert_eq!(status, 201, "{body}");
    rabbitmq.pause();
    let asked = timeout(Duration::from_secs(1), rabbitmq.management("GET", &queue, "")).await;
    assert!(asked.is_err());
    rabbitmq.resume();
    rabbitmq.management("GET", &queue, "").await.unwrap();
}
