//! Redis: a key prefix for each test.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::{Service, free_port, program, service_dir, unique};

const ANSWER_MAX: Duration = Duration::from_secs(1);

pub struct Redis {
    service: Service,
    dir: PathBuf,
    pub port: u16,
}

impl Redis {
    /// The run's server.
    pub async fn shared() -> &'static Redis {
        static SHARED: OnceCell<Redis> = OnceCell::const_new();
        SHARED.get_or_init(Redis::start_own).await
    }

    /// A server for a test that kills it.
    pub async fn start_own() -> Redis {
        let (dir, port) = (service_dir("redis"), free_port());
        let service = Service::spawn("redis", &dir, redis_server(port));
        let mut redis = Redis { service, dir, port };
        redis.ready().await;
        redis
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Sends one command, as a person would type it, and answers with the first line of the reply.
    pub async fn command(&self, words: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("Redis listens");
        stream.write_all(format!("{words}\r\n").as_bytes()).await.expect("Redis reads");
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).await.expect("Redis answers");
        reply.trim_end().to_owned()
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
        self.service = Service::spawn("redis", &self.dir, redis_server(self.port));
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

fn redis_server(port: u16) -> Command {
    let mut command = Command::new(program("redis-server", &["/usr/bin/redis-server", "/usr/local/bin/redis-server"]));
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir", "."]);
    // What was written survives a kill; no child process writes snapshots.
    command.args(["--appendonly", "yes", "--appendfsync", "no", "--auto-aof-rewrite-percentage", "0", "--save", ""]);
    command
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
