//! The Node app: a hub as people write it today, see `peers/node/node-app.mjs`.

use anyhow::{Context as _, Result};
use tillwire::embedded::Durability;
use tokio::process::Command;
use uuid::Uuid;

use super::process::Process;
use super::tillwire::DATABASE;
use super::{Running, Watched, build, services};
use crate::client::order::{Format, Group};
use crate::run::Run;
use crate::scenario::shop::{LINES, PRICE_MINOR, Sale, Shop, Stand};

const SCHEMA: &str = include_str!("../../peers/node/node-app.sql");
/// What is there of each variant: more than any run sells.
const STOCK: u32 = 1_000_000_000;

/// Two processes, one for the tills and one for the screens, and shops that are open.
pub async fn start(run: &Run, shops: usize, screens: usize) -> Result<Stand> {
    let peers = build::node_peers().await?;
    let cluster = services::postgres(run, Durability::Full).await?;
    let (redis, redis_port) = services::redis(run).await?;
    let port = cluster.tcp_port().context("a cluster with TCP")?;
    let owner = "tillwire_migrate";
    cluster.psql(DATABASE, &format!("set role {owner}; {SCHEMA}")).await.context("the schema of the Node app")?;

    let dir = run.folder("node-app")?;
    let mut running = Running::new(Format::AppSale);
    for (name, front) in [("node-app-tills", false), ("node-app-screens", true)] {
        let mut command = Command::new("node");
        command.arg(peers.join("node-app.mjs")).env("NODE_ENV", "production");
        command.env("DATABASE_URL", cluster.tcp_url(port, owner, DATABASE)?);
        command.env("REDIS_URL", format!("redis://127.0.0.1:{redis_port}"));
        let (process, port, voice) = Process::start_peer(name, &dir, &mut command).await?;
        running.watched.push(Watched { name: name.to_owned(), pid: process.pid, front });
        running.addresses.push(([127, 0, 0, 1], port).into());
        running.processes.push(process);
        running.kept.push(voice);
    }
    let (tills_at, screens_at) = (running.addresses[0], running.addresses[1]);
    let mut stand = Vec::new();
    let mut groups = Vec::new();
    for _ in 0..shops {
        let (merchant, register) = (Uuid::new_v4(), Uuid::new_v4());
        let variants: Vec<Uuid> = (0..LINES).map(|_| Uuid::new_v4()).collect();
        let rows: Vec<String> = variants.iter().map(|it| format!("('{merchant}', '{it}', {STOCK})")).collect();
        let open = format!("insert into merchants values ('{merchant}'); insert into stock values {}", rows.join(","));
        cluster.psql(DATABASE, &format!("set role {owner}; {open}")).await.context("opening a shop")?;
        let lines = variants
            .iter()
            .map(|it| serde_json::json!({ "variant": it, "quantity": 1, "unit_price_minor": PRICE_MINOR }));
        let body = serde_json::json!({
            "register": register,
            "lines": lines.collect::<Vec<_>>(),
            "tenders": [{ "method": "cash", "amount_minor": PRICE_MINOR * LINES as i64 }],
        });
        let uri = format!("http://{tills_at}/merchants/{merchant}/sales");
        stand.push(Shop { sales: vec![Sale { uri, token: None, body: body.to_string() }] });
        groups.push(Group {
            address: screens_at,
            auth: format!("{{\"merchant\":\"{merchant}\""),
            screens,
            base: 0,
            return_to: None,
            bytes_per_second: None,
        });
    }
    let postmaster = cluster.pids().first().context("a cluster that runs")?.as_raw().cast_unsigned();
    running.watched.push(Watched { name: "postgres".to_owned(), pid: postmaster, front: false });
    running.watched.push(Watched { name: redis.name.clone(), pid: redis.pid, front: false });
    running.processes.push(redis);
    running.cluster = Some(cluster);
    Ok(Stand { running, shops: stand, groups })
}
