//! RabbitMQ: a virtual host for each test.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::{READY_MAX, Service, free_port, program, service_dir, unique, unprivileged};

const ANSWER_MAX: Duration = Duration::from_secs(10);
/// `guest:guest`, whom RabbitMQ admits from the loopback address only.
const GUEST: &str = "Z3Vlc3Q6Z3Vlc3Q=";

pub struct RabbitMq {
    /// Dropped, and so killed, before the registry of names it is written in.
    service: Service,
    _epmd: Service,
    dir: PathBuf,
    ports: Ports,
}

#[derive(Clone, Copy)]
pub(super) struct Ports {
    pub amqp: u16,
    pub management: u16,
    /// Erlang's own: between nodes, and for the registry of node names.
    pub distribution: u16,
    pub epmd: u16,
}

impl RabbitMq {
    /// The run's node.
    pub async fn shared() -> &'static RabbitMq {
        static SHARED: OnceCell<RabbitMq> = OnceCell::const_new();
        SHARED.get_or_init(RabbitMq::start_own).await
    }

    /// A node for a test that kills it.
    pub async fn start_own() -> RabbitMq {
        let dir = service_dir("rabbitmq");
        let ports = Ports { amqp: free_port(), management: free_port(), distribution: free_port(), epmd: free_port() };
        let config = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\n\
             management.tcp.ip = 127.0.0.1\n\
             management.tcp.port = {}\n\
             disk_free_limit.absolute = 50MB\n\
             log.file.level = warning\n",
            ports.amqp, ports.management
        );
        fs::write(dir.join("rabbitmq.conf"), config).expect("a configuration");
        fs::write(dir.join("enabled_plugins"), "[rabbitmq_management].\n").expect("a list of plugins");

        let epmd = epmd(&dir, ports).await;
        let service = Service::spawn("rabbitmq", &dir, rabbitmq_server(&dir, ports));
        let mut rabbitmq = RabbitMq { service, _epmd: epmd, dir, ports };
        rabbitmq.ready().await;
        rabbitmq
    }

    pub fn port(&self) -> u16 {
        self.ports.amqp
    }

    /// A virtual host that nobody else uses, by its name.
    pub async fn vhost(&self) -> String {
        let name = unique("test");
        let (status, body) = self.management("PUT", &format!("/api/vhosts/{name}"), "").await.expect("management");
        assert!(status == 201 || status == 204, "creating a virtual host: {status} {body}");
        name
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
        management(self.ports.management, method, path, body).await
    }

    pub fn kill(&mut self) {
        self.service.kill();
    }

    /// Starts the killed node again, on the same ports and data.
    pub async fn start_again(&mut self) {
        self.service = Service::spawn("rabbitmq", &self.dir, rabbitmq_server(&self.dir, self.ports));
        self.ready().await;
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
        command.env("RABBITMQ_NODENAME", "tillwire@localhost").env("RABBITMQ_CONF_ENV_FILE", self.dir.join("none"));
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
                && management(ports.management, "GET", "/api/overview", "").await.is_ok_and(|(status, _)| status == 200)
        };
        self.service.ready(is_ready).await;
    }
}

/// The registry of node names. Started by us and not by the node, which would leave it behind as a daemon for the next one.
pub(super) async fn epmd(dir: &Path, ports: Ports) -> Service {
    let mut epmd = Command::new(program("epmd", &["/usr/bin/epmd"]));
    epmd.args(["-address", "127.0.0.1", "-port", &ports.epmd.to_string()]);
    let mut epmd = Service::spawn("epmd", dir, epmd);
    epmd.ready(async || TcpStream::connect(("127.0.0.1", ports.epmd)).await.is_ok()).await;
    epmd
}

pub(super) fn rabbitmq_server(dir: &Path, ports: Ports) -> Command {
    // Debian's `rabbitmq-server` in the PATH is a wrapper that changes the user; the script behind it does not.
    let places = ["/usr/lib/rabbitmq/bin/rabbitmq-server", "/opt/homebrew/sbin/rabbitmq-server"];
    let mut command = Command::new(program("rabbitmq-server", &places));
    command
        .env("RABBITMQ_NODENAME", "tillwire@localhost")
        .env("RABBITMQ_CONF_ENV_FILE", dir.join("none"))
        .env("RABBITMQ_CONFIG_FILE", dir.join("rabbitmq.conf"))
        .env("RABBITMQ_ADVANCED_CONFIG_FILE", dir.join("none"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("enabled_plugins"))
        .env("RABBITMQ_MNESIA_BASE", dir.join("data"))
        .env("RABBITMQ_LOG_BASE", dir.join("log"))
        .env("RABBITMQ_PID_FILE", dir.join("pid"))
        .env("RABBITMQ_DIST_PORT", ports.distribution.to_string())
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}")
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("ERL_EPMD_PORT", ports.epmd.to_string())
        // Become the node, rather than wait for it in a shell.
        .env("RUNNING_UNDER_SYSTEMD", "true");
    command
}

/// HTTP 1.0, so that the answer comes in one piece and ends the connection.
async fn management(port: u16, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
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
    timeout(ANSWER_MAX, exchange).await?
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
