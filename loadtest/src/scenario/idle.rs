//! Screens that hear nothing, held by two processes: what each costs, and whether it is still there afterwards.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use super::{LAST_MAX, LIVE_MAX, Stage};
use crate::client::crew::{Crew, Kit};
use crate::report::{Bill, Found, Measured};
use crate::stamps::Stamps;

const SCREENS: usize = 20_000;
const FRONTS: usize = 2;
/// What shows at the end that every screen is still there.
const MESSAGES: u64 = 3;
const PAUSE: Duration = Duration::from_millis(500);

pub async fn run(stage: &Stage<'_>) -> Result<Measured> {
    let screens = stage.screens(SCREENS);
    let stamps = Stamps::create(&stage.stamps())?;
    let mut running = stage.subject.start(stage.run, FRONTS).await?;
    let watched = running.watched.clone();
    let empty = Bill::of(&watched)?;
    let kit = Kit { stamps: &stage.stamps(), format: running.format(), resumes: false, credit: 1 };
    let connecting = Instant::now();
    let mut crew = Crew::start(running.groups(screens), kit).await?;
    crew.live(LIVE_MAX).await?;
    let connected = connecting.elapsed();

    let began = Bill::of(&watched)?;
    let bar = stage.bar(stage.options.seconds).with_message("idle");
    for second in 0..stage.options.seconds {
        bar.set_position(second);
        sleep(Duration::from_secs(1)).await;
    }
    bar.finish_and_clear();
    let full = Bill::of(&watched)?;
    let since = Instant::now();
    for number in 1..=MESSAGES {
        running.send(number..number + 1, stage.options.bytes, &stamps).await?;
        crew.seen(number, LAST_MAX).await?;
        sleep(PAUSE).await;
    }
    let took = since.elapsed();
    let outcome = crew.finish(vec![MESSAGES; running.addresses.len()], LAST_MAX).await?;
    running.stop().await?;
    let found = Found {
        subject: stage.subject.name(),
        scenario: &stage.scenario,
        screens,
        messages: outcome.sum.received,
        took,
        watched: &watched,
        bills: [&empty, &full, &began, &full],
        outcome: &outcome,
    };
    let mut measured = found.measured().with("connects_per_s", (screens as f64 / connected.as_secs_f64()).round())?;
    // The bill was for silence.
    measured.server_cpu_us_per_message = None;
    let idle_cpu_ms: u64 = measured.processes.iter().filter(|it| it.front).map(|it| it.cpu_ms).sum();
    let per_second = idle_cpu_ms as f64 / stage.options.seconds as f64;
    measured.with("idle_cpu_ms_per_s", (per_second * 100.0).round() / 100.0)
}
