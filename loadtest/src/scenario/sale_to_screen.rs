//! From the till's commit to the screens of its shop, with sales arriving at a steady pace whether or not the hub keeps
//! up. Tills ask one process over REST, screens are connected to another, and what lies between is the subject's own.
//!
//! The clock starts just before COMMIT is sent and stops when the client has parsed the event.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use tillwire::embedded::Durability;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::shop::{self, Opened, Shop, Stand};
use super::{LAST_MAX, LIVE_MAX, Stage};
use crate::client::crew::{Crew, Kit};
use crate::client::order::{Format, Group};
use crate::report::{Bill, Found, Measured, Quantiles};
use crate::run::Run;
use crate::stamps::Stamps;
use crate::subject::tillwire::Base;
use crate::subject::{Running, Subject, Watched, build, node_app};

/// How many sales may be unanswered. Those that come beyond wait at the till.
const UNANSWERED_MAX: usize = 256;

pub(super) async fn run(stage: &Stage<'_>) -> Result<Measured> {
    let shops = stage.merchants();
    let screens = stage.screens(shops * 50);
    let stamps = stage.stamps();
    Stamps::create(&stamps)?;
    let Stand { running, shops, groups } = match stage.subject {
        Subject::NodeApp => node_app::start(stage.run, shops, screens / shops).await?,
        _ => open(stage.run, shops, screens / shops).await?,
    };
    let screens = groups.iter().map(|group| group.screens).sum();
    let watched = running.watched.clone();
    let empty = Bill::of(&watched)?;
    let bases: Vec<u64> = groups.iter().map(|group| group.base).collect();
    let kit = Kit { stamps: &stamps, format: running.format(), resumes: false, credit: u64::MAX };
    let mut crew = Crew::start(groups, kit).await?;
    crew.live(LIVE_MAX).await?;
    let full = Bill::of(&watched)?;

    let began = Instant::now();
    let sold = sell(stage, shops).await?;
    let last = bases.iter().zip(&sold.by_shop).map(|(base, sold)| base + sold).collect();
    let outcome = crew.finish(last, LAST_MAX).await?;
    let (took, ended) = (began.elapsed(), Bill::of(&watched)?);
    running.stop().await?;
    let found = Found {
        subject: stage.subject.name(),
        scenario: &stage.scenario,
        screens,
        messages: outcome.sum.received,
        took,
        watched: &watched,
        bills: [&empty, &full, &full, &ended],
        outcome: &outcome,
    };
    let measured = found.measured().with("sales", sold.by_shop.iter().sum::<u64>())?;
    let measured = measured.with("sales_refused", sold.refused)?.with("sale_us", Quantiles::of(&sold.latency))?;
    measured.with("rate", stage.options.sales_per_second)?.with("merchants", bases.len())
}

struct Sold {
    by_shop: Vec<u64>,
    refused: u64,
    /// From the till's request to its answer.
    latency: Histogram<u64>,
}

/// Sells in every shop in turn.
async fn sell(stage: &Stage<'_>, shops: Vec<Shop>) -> Result<Sold> {
    let client = shop::client();
    let turns = Arc::new(Semaphore::new(UNANSWERED_MAX));
    let mut sold = Sold { by_shop: vec![0; shops.len()], refused: 0, latency: Histogram::new(3)? };
    let mut asked = JoinSet::new();
    let mut pace = tokio::time::interval(Duration::from_secs(1) / u32::try_from(stage.options.sales_per_second)?);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let bar = stage.bar(stage.options.seconds).with_message("selling");
    for number in 0..stage.options.seconds * stage.options.sales_per_second {
        pace.tick().await;
        let number = usize::try_from(number)?;
        let (at, turn) = (number % shops.len(), number / shops.len());
        let sale = shops[at].sales[turn % shops[at].sales.len()].clone();
        let (client, place) = (client.clone(), turns.clone().acquire_owned().await?);
        asked.spawn(async move {
            let _place = place;
            let began = Instant::now();
            let answer = sale.ring_up(&client).await;
            (at, began.elapsed(), answer.is_ok())
        });
        while let Some(answered) = asked.try_join_next() {
            sold.take(answered?)?;
        }
        bar.set_position(number as u64 / stage.options.sales_per_second);
    }
    while let Some(answered) = asked.join_next().await {
        sold.take(answered?)?;
    }
    bar.finish_and_clear();
    Ok(sold)
}

impl Sold {
    fn take(&mut self, (shop, took, taken): (usize, Duration, bool)) -> Result<()> {
        if taken {
            self.by_shop[shop] += 1;
            self.latency.record(u64::try_from(took.as_micros())?.max(1))?;
        } else {
            self.refused += 1;
        }
        Ok(())
    }
}

/// Opens shops in a hub of one `api` and one `gateway`, which hear of each other by Redis and RabbitMQ.
async fn open(run: &Run, shops: usize, screens: usize) -> Result<Stand> {
    let program = build::tillwire(run).await?;
    let base = Base::start(run, Durability::Full, true).await?;
    let dir = run.folder("tillwire")?;
    let api = base.node(&program, "api", "tillwire-api", &dir).await?;
    let gateway = base.node(&program, "gateway", "tillwire-gateway", &dir).await?;
    let client = shop::client();
    let (mut stand, mut groups) = (Vec::new(), Vec::new());
    for _ in 0..shops {
        let Opened { shop, auth, seq, .. } = shop::open(&base, api.address, &client).await?;
        stand.push(shop);
        let (address, return_to, bytes_per_second) = (gateway.address, None, None);
        groups.push(Group { address, auth, screens, base: seq, return_to, bytes_per_second });
    }
    let mut running = Running::new(Format::TillwireSale);
    for (node, front) in [(api, false), (gateway, true)] {
        let (name, pid) = (node.process.name.clone(), node.process.pid);
        running.watched.push(Watched { name, pid, front });
        running.processes.push(node.process);
    }
    running.watched.extend(base.watched()?);
    running.processes.extend(base.brokers);
    running.cluster = Some(base.cluster);
    Ok(Stand { running, shops: stand, groups })
}
