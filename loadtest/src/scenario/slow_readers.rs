//! A few screens that read a kilobyte a second beside many that keep up: what they cost, and whom.
//!
//! What a slow one has not read yet is not lost; what was left out before something it did read is. Memory and the
//! kernel's buffers are looked at all the while, and latencies are those of the many.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{LAST_MAX, LIVE_MAX, Stage, send_steadily};
use crate::client::crew::{Crew, Kit};
use crate::report::{Bill, Found, Measured};
use crate::stamps::Stamps;
use crate::subject::kernel_send_bytes;

const SCREENS: usize = 1_000;
/// How often memory and buffers are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub async fn run(stage: &Stage<'_>) -> Result<Measured> {
    let screens = stage.screens(SCREENS);
    let stamps = Stamps::create(&stage.stamps())?;
    let mut running = stage.subject.start(stage.run, 1).await?;
    let watched = running.watched.clone();
    let empty = Bill::of(&watched)?;
    let kit = Kit { stamps: &stage.stamps(), format: running.format(), resumes: false, credit: 1 };
    let mut groups = running.groups(screens);
    let mut slow = groups[0].clone();
    (slow.screens, slow.bytes_per_second) = (stage.options.slow, Some(stage.options.slow_bytes));
    groups.push(slow);
    let mut crew = Crew::start(groups, kit).await?;
    crew.live(LIVE_MAX).await?;
    let full = Bill::of(&watched)?;

    let bar = stage.bar(stage.options.seconds).with_message("sending");
    let began = Instant::now();
    let length = Duration::from_secs(stage.options.seconds);
    let (addresses, mut rss, mut queued) = (running.addresses.clone(), full.front_rss(&watched), 0);
    let looking = async {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            rss = rss.max(Bill::of(&watched)?.front_rss(&watched));
            queued = queued.max(kernel_send_bytes(&addresses)?);
        }
    };
    let next = tokio::select! {
        next = send_steadily(stage, &mut running, &stamps, 1, length, &bar) => next?,
        failed = looking => return failed,
    };
    bar.finish_and_clear();
    crew.seen(next - 1, LAST_MAX).await?;
    let (took, ended) = (began.elapsed(), Bill::of(&watched)?);
    // Of the slow ones nothing is owed by now.
    let outcome = crew.finish(vec![next - 1, 0], LAST_MAX).await?;
    running.stop().await?;
    let grown = rss.max(ended.front_rss(&watched)).saturating_sub(full.front_rss(&watched));
    let found = Found {
        subject: stage.subject.name(),
        scenario: &stage.scenario,
        screens: screens + stage.options.slow,
        messages: outcome.sum.received,
        took,
        watched: &watched,
        bills: [&empty, &full, &full, &ended],
        outcome: &outcome,
    };
    let measured = found.measured().with("slow", stage.options.slow)?.with("rate", stage.options.rate)?;
    measured.with("rss_grown_bytes_max", grown)?.with("kernel_send_bytes_max", queued)
}
