//! What subjects stand on: a PostgreSQL, a Redis and a RabbitMQ of the run's own, on free ports of the loopback address.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use tillwire::embedded::{self, Durability, Options, Source, Tcp};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::process::Process;
use crate::run::{Run, free_port};

const CONNECTIONS_MAX: u16 = 200;
pub const PASSWORD: &str = "tillwire";

pub async fn postgres(run: &Run, durability: Durability) -> Result<embedded::Postgres> {
    let options = Options {
        name: "pg".into(),
        home: Some(run.folder("postgres")?),
        source: Source::Any,
        durability,
        connections_max: CONNECTIONS_MAX,
        tcp: Some(Tcp { port: free_port()?, password: PASSWORD.into() }),
    };
    embedded::start(options, &|line| eprintln!("{line}")).await.context("starting a private PostgreSQL")
}

pub async fn redis(run: &Run) -> Result<(Process, u16)> {
    let (dir, port) = (run.folder("redis")?, free_port()?);
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    let mut process = Process::start("redis", &dir, &mut command)?;
    process.until(async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await?;
    Ok((process, port))
}

/// A broker and the registry of names that Erlang wants, and where AMQP is spoken.
pub async fn rabbitmq(run: &Run) -> Result<(Vec<Process>, u16)> {
    let dir = run.folder("rabbitmq")?;
    let (amqp, distribution, epmd_port) = (free_port()?, free_port()?, free_port()?);
    let config =
        format!("listeners.tcp.1 = 127.0.0.1:{amqp}\ndisk_free_limit.absolute = 50MB\nlog.file.level = warning\n");
    fs::write(dir.join("rabbitmq.conf"), config)?;
    fs::write(dir.join("enabled_plugins"), "[].\n")?;

    let mut command = Command::new("epmd");
    command.args(["-address", "127.0.0.1", "-port", &epmd_port.to_string()]);
    let mut epmd = Process::start("epmd", &dir, &mut command)?;
    epmd.until(async || TcpStream::connect(("127.0.0.1", epmd_port)).await.is_ok()).await?;

    // Debian's `rabbitmq-server` in the PATH changes the user; the script behind it does not.
    let debian = Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
    let mut command = Command::new(if debian.exists() { debian } else { Path::new("rabbitmq-server") });
    command
        .env("HOME", &dir)
        .env("RABBITMQ_NODENAME", "tillwire-loadtest@localhost")
        .env("RABBITMQ_CONF_ENV_FILE", dir.join("none"))
        .env("RABBITMQ_CONFIG_FILE", dir.join("rabbitmq.conf"))
        .env("RABBITMQ_ADVANCED_CONFIG_FILE", dir.join("none"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("enabled_plugins"))
        .env("RABBITMQ_MNESIA_BASE", dir.join("data"))
        .env("RABBITMQ_LOG_BASE", dir.join("log"))
        .env("RABBITMQ_PID_FILE", dir.join("pid"))
        .env("RABBITMQ_DIST_PORT", distribution.to_string())
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}")
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("ERL_EPMD_PORT", epmd_port.to_string())
        .env("RUNNING_UNDER_SYSTEMD", "true"); // Become the node, rather than wait for it in a shell.
    let mut process = Process::start("rabbitmq", &dir, &mut command)?;
    process.until(async || TcpStream::connect(("127.0.0.1", amqp)).await.is_ok()).await?;
    Ok((vec![process, epmd], amqp))
}
