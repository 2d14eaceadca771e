//! Sales by REST as fast as they are answered: every till sells, waits for its answer and sells again. Beside them as many
//! clients of pgbench that run the very statements of such a sale, on the same PostgreSQL with the same shops: what is
//! left of its rate is what the hub costs.
//!
//! Here a till counts as a screen and its answer as a message.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tillwire::embedded::Durability;
use tokio::task::JoinSet;

use super::Stage;
use super::shop::{self, Client, Opened, Sale};
use crate::client::crew::Outcome;
use crate::report::{Bill, Found, Measured};
use crate::subject::tillwire::{Base, DATABASE, Node};
use crate::subject::{Subject, Watched, build, pgbench};

/// How long it is sold before measuring begins, if it is measured as long: PostgreSQL reads a small table from end to end,
/// and keeps to that plan while it grows, until it is told how large it has become.
const WARM_UP: Duration = Duration::from_secs(10);

pub(super) async fn run(stage: &Stage<'_>) -> Result<Measured> {
    let tills = usize::from(stage.options.tills);
    let length = Duration::from_secs(stage.options.seconds);
    let program = build::tillwire(stage.run).await?;
    let mut base = Base::start(stage.run, Durability::Full, false).await?;
    let dir = stage.run.folder("tillwire")?;
    let mut api = base.node(&program, "api", "tillwire-api", &dir).await?;
    let client = shop::client();
    let mut sales = Vec::new();
    for _ in 0..tills {
        let Opened { shop, .. } = shop::open(&base, api.address, &client).await?;
        sales.push(shop.sales.into_iter().next().context("a till")?);
    }
    sell(&client, sales.clone(), WARM_UP.min(length), &mut Outcome::new()?).await?;
    base.cluster.psql(DATABASE, "vacuum analyze").await?;

    let mut outcome = Outcome::new()?;
    let watched = watched(&base, &api, stage.subject)?;
    if stage.subject == Subject::Pgbench {
        api.process.kill().await?;
    }
    let began = Bill::of(&watched)?;
    let start = Instant::now();
    match stage.subject {
        Subject::Pgbench => pgbench::sell(stage.run, &base.cluster, tills, length, &mut outcome).await?,
        _ => sell(&client, sales, length, &mut outcome).await?,
    }
    let (took, ended) = (start.elapsed(), Bill::of(&watched)?);
    drop(api);
    base.cluster.stop().await?;
    let found = Found {
        subject: stage.subject.name(),
        scenario: &stage.scenario,
        screens: tills,
        messages: outcome.latency.len(),
        took,
        watched: &watched,
        bills: [&began, &began, &began, &ended],
        outcome: &outcome,
    };
    Ok(found.measured())
}

fn watched(base: &Base, api: &Node, subject: Subject) -> Result<Vec<Watched>> {
    let mut watched = base.watched()?;
    if subject == Subject::Tillwire {
        watched.push(Watched { name: api.process.name.clone(), pid: api.process.pid, front: true });
    }
    Ok(watched)
}

/// Every till sells until the time is over. A sale that is refused ends the run: all of them can be had.
async fn sell(client: &Client, sales: Vec<Sale>, length: Duration, outcome: &mut Outcome) -> Result<()> {
    let end = Instant::now() + length;
    let mut tills = JoinSet::new();
    for sale in sales {
        let client = client.clone();
        tills.spawn(async move {
            let mut answered = Vec::new();
            while Instant::now() < end {
                let asked = Instant::now();
                sale.ring_up(&client).await?;
                answered.push(asked.elapsed());
            }
            anyhow::Ok(answered)
        });
    }
    while let Some(till) = tills.join_next().await {
        for took in till?? {
            outcome.latency.record(u64::try_from(took.as_micros())?.max(1))?;
        }
    }
    Ok(())
}
