//! How brokers are started, alone or as a cluster: their command lines, their files, and what makes several nodes one.
//!
//! Nothing here starts, ends or remembers a process, so that whoever does that in another way can include this file.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long the nodes of a cluster may take to know one another.
const FORM_MAX: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// After how long a node that does not answer counts as dead among the others.
const REDIS_NODE_MILLISECONDS: u32 = 2_000;
const RABBITMQ_NODE_SECONDS: u32 = 10;
const SLOTS: u32 = 16_384;

/// A Redis server that keeps its data in its working directory.
pub fn redis_server(port: u16) -> Command {
    let mut command = Command::new(program("redis-server", &["/usr/bin/redis-server", "/usr/local/bin/redis-server"]));
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir", "."]);
    // What was written survives a kill; no child process writes snapshots.
    command.args(["--appendonly", "yes", "--appendfsync", "no", "--auto-aof-rewrite-percentage", "0", "--save", ""]);
    command
}

/// The same as a node of a cluster, which talks to the others at `cluster_port`.
pub fn redis_node(port: u16, cluster_port: u16) -> Command {
    let mut command = redis_server(port);
    command.args(["--cluster-enabled", "yes", "--cluster-port", &cluster_port.to_string()]);
    command.args(["--cluster-node-timeout", &REDIS_NODE_MILLISECONDS.to_string(), "--repl-diskless-sync-delay", "0"]);
    command
}

/// Makes a cluster of Redis nodes that have just been started: so many of them are masters of equal parts, the others
/// their replicas. `nodes` are their ports, and those that they talk to one another at.
///
/// # Errors
/// If a node does not answer, or they do not become one.
pub async fn form_redis_cluster(nodes: &[(u16, u16)], masters: usize) -> io::Result<()> {
    let parts = u32::try_from(masters).expect("few masters");
    for (part, (port, _)) in (0..parts).zip(nodes) {
        let (first, last) = (SLOTS * part / parts, SLOTS * (part + 1) / parts - 1);
        redis_says_ok(*port, &format!("CLUSTER ADDSLOTSRANGE {first} {last}")).await?;
        // Or two of them might take the same epoch, and take time to notice.
        redis_says_ok(*port, &format!("CLUSTER SET-CONFIG-EPOCH {}", part + 1)).await?;
    }
    let first = nodes[0].0;
    for (port, cluster_port) in &nodes[1..] {
        redis_says_ok(first, &format!("CLUSTER MEET 127.0.0.1 {port} {cluster_port}")).await?;
    }
    let forming = async {
        for (port, _) in nodes {
            while lines_of(*port, "CLUSTER NODES").await?.len() < nodes.len() {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
        for (index, (port, _)) in nodes.iter().enumerate().skip(masters) {
            let id = redis_says(nodes[index % masters].0, "CLUSTER MYID").await?;
            while redis_says_ok(*port, &format!("CLUSTER REPLICATE {id}")).await.is_err() {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            // Before that it cannot take over.
            while !lines_of(*port, "INFO replication").await?.contains("master_link_status:up") {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
        for (port, _) in nodes {
            while !lines_of(*port, "CLUSTER INFO").await?.contains("cluster_state:ok") {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
        Ok(())
    };
    timeout(FORM_MAX, forming).await?
}

async fn redis_says_ok(port: u16, words: &str) -> io::Result<()> {
    let reply = redis_says(port, words).await?;
    if reply == "+OK" { Ok(()) } else { Err(io::Error::other(format!("{words}: {reply}"))) }
}

/// What Redis answers to a command, as a person would type it: the text, or the first line of what is not just a text.
pub async fn redis_says(port: u16, words: &str) -> io::Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(format!("{words}\r\n").as_bytes()).await?;
        let mut stream = BufReader::new(stream);
        let mut reply = String::new();
        stream.read_line(&mut reply).await?;
        if let Some(length) = reply.trim_end().strip_prefix('$').and_then(|length| length.parse().ok()) {
            let mut text = vec![0; length];
            stream.read_exact(&mut text).await?;
            return String::from_utf8(text).map_err(io::Error::other);
        }
        Ok(reply.trim_end().to_owned())
    };
    timeout(ANSWER_MAX, exchange).await?
}

async fn lines_of(port: u16, words: &str) -> io::Result<BTreeSet<String>> {
    Ok(redis_says(port, words).await?.lines().map(|line| line.trim_end().to_owned()).collect())
}

/// Where a RabbitMQ node listens.
#[derive(Clone, Copy)]
pub struct Ports {
    pub amqp: u16,
    pub management: u16,
    /// Erlang's own: between nodes, and for the registry of node names, which nodes of a cluster share.
    pub distribution: u16,
    pub epmd: u16,
}

/// The registry of node names. Started by us and not by the node, which would leave it behind as a daemon for the next one.
pub fn epmd(port: u16) -> Command {
    let mut epmd = Command::new(program("epmd", &["/usr/bin/epmd"]));
    epmd.args(["-address", "127.0.0.1", "-port", &port.to_string()]);
    epmd
}

/// Writes the files of a RabbitMQ node into its folder. `peers` are the names of all nodes of its cluster, itself among
/// them, which come together as they start, and share a secret; empty for one that is alone.
///
/// # Errors
/// If the folder cannot be written to.
pub fn write_rabbitmq_files(dir: &Path, ports: Ports, peers: &[String], secret: &str) -> io::Result<()> {
    let mut config = format!(
        "listeners.tcp.1 = 127.0.0.1:{}\n\
         management.tcp.ip = 127.0.0.1\n\
         management.tcp.port = {}\n\
         disk_free_limit.absolute = 50MB\n\
         log.file.level = warning\n",
        ports.amqp, ports.management
    );
    if !peers.is_empty() {
        config += "cluster_formation.peer_discovery_backend = classic_config\n\
                   cluster_partition_handling = pause_minority\n\
                   vm_memory_high_watermark.absolute = 256MB\n";
        for (index, peer) in peers.iter().enumerate() {
            config += &format!("cluster_formation.classic_config.nodes.{} = {peer}\n", index + 1);
        }
        let cookie = dir.join(".erlang.cookie");
        fs::write(&cookie, secret)?;
        fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400))?;
    }
    fs::write(dir.join("rabbitmq.conf"), config)?;
    fs::write(dir.join("enabled_plugins"), "[rabbitmq_management].\n")
}

/// A RabbitMQ node of this name, such as `tillwire@localhost`, on the files in `dir`, where its data is as well. Its `HOME`
/// must be that folder.
pub fn rabbitmq_server(dir: &Path, ports: Ports, name: &str) -> Command {
    // Debian's `rabbitmq-server` in the PATH is a wrapper that changes the user; the script behind it does not.
    let places = ["/usr/lib/rabbitmq/bin/rabbitmq-server", "/opt/homebrew/sbin/rabbitmq-server"];
    let mut command = Command::new(program("rabbitmq-server", &places));
    let erlang = format!(
        "-kernel inet_dist_use_interface {{127,0,0,1}} -kernel net_ticktime {RABBITMQ_NODE_SECONDS} +sbwt none"
    );
    command
        .env("RABBITMQ_NODENAME", name)
        .env("RABBITMQ_CONF_ENV_FILE", dir.join("none"))
        .env("RABBITMQ_CONFIG_FILE", dir.join("rabbitmq.conf"))
        .env("RABBITMQ_ADVANCED_CONFIG_FILE", dir.join("none"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("enabled_plugins"))
        .env("RABBITMQ_MNESIA_BASE", dir.join("data"))
        .env("RABBITMQ_LOG_BASE", dir.join("log"))
        .env("RABBITMQ_PID_FILE", dir.join("pid"))
        .env("RABBITMQ_DIST_PORT", ports.distribution.to_string())
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", erlang)
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("ERL_EPMD_PORT", ports.epmd.to_string())
        // Become the node, rather than wait for it in a shell.
        .env("RUNNING_UNDER_SYSTEMD", "true");
    command
}

/// The first of the program's usual places, else its name, for the PATH.
pub fn program(name: &str, places: &[&str]) -> PathBuf {
    places.iter().map(PathBuf::from).find(|place| place.exists()).unwrap_or_else(|| name.into())
}
