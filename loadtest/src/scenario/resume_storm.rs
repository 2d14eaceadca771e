//! Screens that were away come back all at once, to a node that has never seen them, each with the position it had.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::Instant;

use super::{LAST_MAX, LIVE_MAX, Stage};
use crate::client::crew::{Crew, Kit};
use crate::report::{Bill, Found, Measured};
use crate::stamps::Stamps;
use crate::subject::tillwire;

const SCREENS: usize = 5_000;
/// What every screen has seen before it leaves, so that it has a position.
const BEFORE: u64 = 1;
const LEAVE_MAX: Duration = Duration::from_secs(30);

pub async fn run(stage: &Stage<'_>) -> Result<Measured> {
    let (screens, bytes) = (stage.screens(SCREENS), stage.options.bytes);
    let stamps = Stamps::create(&stage.stamps())?;
    let mut running = stage.subject.start(stage.run, 2).await?;
    let watched = running.watched.clone();
    let empty = Bill::of(&watched)?;
    let kit = Kit { stamps: &stage.stamps(), format: running.format(), resumes: true, credit: 1 };
    let mut groups = running.groups(screens);
    let all = groups.iter().map(|group| group.screens).sum();
    groups.truncate(1);
    groups[0].screens = all;
    groups[0].return_to = running.addresses.get(1).copied();
    let elsewhere = *running.metrics.get(1).context("a subject with a journal and metrics: tillwire")?;
    let mut crew = Crew::start(groups, kit).await?;
    crew.live(LIVE_MAX).await?;
    let full = Bill::of(&watched)?;
    running.send(1..BEFORE + 1, bytes, &stamps).await?;
    crew.seen(BEFORE, LAST_MAX).await?;
    crew.leave(LEAVE_MAX).await?;
    let last = BEFORE + stage.options.missed;
    running.commit(BEFORE + 1..last + 1, bytes, &stamps).await?;

    let reads_before = tillwire::counted(elsewhere, "tillwire_gateway_journal_reads_total").await?;
    let (began, storm) = (Bill::of(&watched)?, Instant::now());
    crew.come_back().await?;
    crew.live(LIVE_MAX).await?;
    let caught_up = storm.elapsed();
    let ended = Bill::of(&watched)?;
    let reads = tillwire::counted(elsewhere, "tillwire_gateway_journal_reads_total").await? - reads_before;
    let outcome = crew.finish(vec![last], LAST_MAX).await?;
    running.stop().await?;
    let found = Found {
        subject: stage.subject.name(),
        scenario: &stage.scenario,
        screens,
        messages: (outcome.sum.received).saturating_sub(BEFORE * screens as u64),
        took: caught_up,
        watched: &watched,
        bills: [&empty, &full, &began, &ended],
        outcome: &outcome,
    };
    let measured = found.measured().with("caught_up_s", (caught_up.as_secs_f64() * 100.0).round() / 100.0)?;
    // In the best second: those who were turned away come back when they were told to.
    let let_in = outcome.sum.live_by_second.iter().max().copied().unwrap_or_default();
    let measured = measured.with("let_in_per_s", let_in)?.with("turned_away", outcome.sum.turned_away)?;
    measured.with("missed", stage.options.missed)?.with("journal_reads", reads)
}
