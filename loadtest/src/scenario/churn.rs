//! Screens that leave while others come for them. Nobody who stays, or has come, may miss what is sent.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{LAST_MAX, LIVE_MAX, Stage, send_steadily};
use crate::client::crew::{Crew, Kit};
use crate::report::{Bill, Found, Measured};
use crate::stamps::Stamps;

const SCREENS: usize = 500;
/// Those who have come last get the time to be live before the end is looked at.
const SETTLE: Duration = Duration::from_secs(1);

pub async fn run(stage: &Stage<'_>) -> Result<Measured> {
    let screens = stage.screens(SCREENS);
    let turnover = stage.options.turnover.map_or(screens as f64 / 10.0, f64::from);
    let stamps = Stamps::create(&stage.stamps())?;
    let mut running = stage.subject.start(stage.run, 1).await?;
    let watched = running.watched.clone();
    let empty = Bill::of(&watched)?;
    let kit = Kit { stamps: &stage.stamps(), format: running.format(), resumes: false, credit: u64::MAX };
    let mut crew = Crew::start(running.groups(screens), kit).await?;
    crew.live(LIVE_MAX).await?;
    let full = Bill::of(&watched)?;

    let bar = stage.bar(stage.options.seconds).with_message("churning");
    let began = Instant::now();
    crew.churn(turnover).await?;
    let length = Duration::from_secs(stage.options.seconds);
    let next = send_steadily(stage, &mut running, &stamps, 1, length, &bar).await?;
    bar.finish_and_clear();
    tokio::time::sleep(SETTLE).await;
    let outcome = crew.finish(vec![next - 1; running.addresses.len()], LAST_MAX).await?;
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
    found.measured().with("turnover", turnover)?.with("churned", outcome.sum.churned)?.with("rate", stage.options.rate)
}
