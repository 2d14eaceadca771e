//! One sender, many screens: as fast as they take it, or at a steady pace.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{LAST_MAX, LIVE_MAX, Stage, send_steadily};
use crate::client::crew::{Crew, Kit};
use crate::report::{Bill, Found, Measured};
use crate::stamps::Stamps;

const SCREENS: usize = 500;
/// How long a message may take to all screens before the driver goes on without.
const SEEN_MAX: Duration = Duration::from_secs(5);
/// What is sent before measuring begins: connections grow their buffers, and compilers compile.
const WARM_UP: Duration = Duration::from_secs(1);

/// So many messages are under way to every screen, and a quarter as many are sent whenever as many have been seen by
/// all. A server that is handed several at once may put them into one write; none waits for a timer.
pub async fn flat_out(stage: &Stage<'_>) -> Result<Measured> {
    measure(stage, Pace::FlatOut { window: stage.options.window }).await?.with("window", stage.options.window)
}

/// One message at a time.
pub async fn paced(stage: &Stage<'_>) -> Result<Measured> {
    measure(stage, Pace::Steady).await?.with("rate", stage.options.rate)
}

#[derive(Clone, Copy)]
enum Pace {
    FlatOut { window: u64 },
    Steady,
}

async fn measure(stage: &Stage<'_>, pace: Pace) -> Result<Measured> {
    let (screens, bytes) = (stage.screens(SCREENS), stage.options.bytes);
    let stamps = Stamps::create(&stage.stamps())?;
    let mut running = stage.subject.start(stage.run, 1).await?;
    let watched = running.watched.clone();
    let empty = Bill::of(&watched)?;
    let credit = match pace {
        Pace::FlatOut { window } => window / 4,
        Pace::Steady => 1,
    };
    let kit = Kit { stamps: &stage.stamps(), format: running.format(), resumes: false, credit };
    let mut crew = Crew::start(running.groups(screens), kit).await?;
    crew.live(LIVE_MAX).await?;
    let full = Bill::of(&watched)?;

    let mut next: u64 = 1;
    let bar = stage.bar(stage.options.seconds).with_message("sending");
    let mut bills = Vec::new();
    for length in [WARM_UP, Duration::from_secs(stage.options.seconds)] {
        bills.push((Bill::of(&watched)?, Instant::now(), next));
        let deadline = Instant::now() + length;
        match pace {
            Pace::FlatOut { window } => {
                while Instant::now() < deadline {
                    // With the next ones, no more than the window may be unseen.
                    let needed = (next - 1 + credit).saturating_sub(window);
                    crew.seen(needed, SEEN_MAX).await?;
                    running.send(next..next + credit, bytes, &stamps).await?;
                    next += credit;
                    bar.set_position(bills[bills.len() - 1].1.elapsed().as_secs());
                }
            }
            Pace::Steady => next = send_steadily(stage, &mut running, &stamps, next, length, &bar).await?,
        }
        // All of it, rounded down to what the clients report.
        crew.seen((next - 1) / credit * credit, LAST_MAX).await?;
    }
    bar.finish_and_clear();
    let ended = Bill::of(&watched)?;
    let (began, since, first) = &bills[1];
    let took = since.elapsed();
    let outcome = crew.finish(vec![next - 1; running.addresses.len()], LAST_MAX).await?;
    running.stop().await?;
    let found = Found {
        subject: stage.subject.name(),
        scenario: &stage.scenario,
        screens,
        messages: (next - first) * screens as u64 - outcome.sum.lost.min((next - first) * screens as u64),
        took,
        watched: &watched,
        bills: [&empty, &full, began, &ended],
        outcome: &outcome,
    };
    found.measured().with("payload_bytes", bytes)
}
