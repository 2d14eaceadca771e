//! Who suffers: a process and the way to it, and what becomes of both.

use std::time::Duration;

use anyhow::Result;
use futures_util::future::{LocalBoxFuture, join_all};
use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until};

use crate::proxy::Proxy;
use crate::schedule::{Fault, Step, Target};

/// A process, or several that are one service. Whoever started it knows how to do these things.
pub trait Process {
    /// Ends it at once, and waits until it is gone.
    fn kill(&mut self) -> LocalBoxFuture<'_, Result<()>>;

    /// Tells it to go, and waits until it has.
    ///
    /// # Errors
    /// If it does not go in order, in time.
    fn terminate(&mut self) -> LocalBoxFuture<'_, Result<()>>;

    /// Starts it again, and waits until it is ready.
    fn start_again(&mut self) -> LocalBoxFuture<'_, Result<()>>;

    /// Stops it where it stands. Its connections stay, and nobody answers.
    fn pause(&mut self) -> Result<()>;

    fn resume(&mut self) -> Result<()>;

    /// # Errors
    /// What is wrong with it, when nothing should be: it is gone, or something in it has panicked.
    fn is_well(&mut self) -> Result<()>;
}

pub struct Victim {
    pub target: Target,
    /// None where there are only connections.
    pub process: Option<Box<dyn Process>>,
    pub link: Proxy,
}

/// A step as it happened.
#[derive(Clone, Debug, Serialize)]
pub struct Suffered {
    #[serde(flatten)]
    pub step: Step,
    pub began_ms: u64,
    pub healed_ms: u64,
    /// What did not go as it should.
    pub failed: Option<String>,
}

/// Does to each victim what the schedule has for it. When this answers, all is healed.
pub async fn suffer(victims: &mut [Victim], steps: &[Step], told: &dyn Fn(&Step)) -> Vec<Suffered> {
    let began = Instant::now();
    let all = victims.iter_mut().map(|victim| async move {
        let (mut suffered, target) = (Vec::new(), victim.target);
        for step in steps.iter().filter(|step| step.target == target) {
            sleep_until(began + step.at).await;
            told(step);
            let began_ms = since(began);
            let failed = victim.suffers(step).await.err().map(|error| format!("{error:#}"));
            suffered.push(Suffered { step: *step, began_ms, healed_ms: since(began), failed });
        }
        suffered
    });
    let mut all: Vec<Suffered> = join_all(all).await.into_iter().flatten().collect();
    all.sort_by_key(|suffered| suffered.began_ms);
    all
}

impl Victim {
    /// One fault, to its end.
    async fn suffers(&mut self, step: &Step) -> Result<()> {
        let (link, lasts) = (&self.link, step.lasts);
        match step.fault {
            Fault::Cut => {
                link.cut();
                sleep(lasts).await;
            }
            Fault::Tear => {
                link.tear();
                sleep(lasts).await;
            }
            Fault::Silence => {
                link.silence();
                sleep(lasts).await;
                link.speak();
            }
            Fault::Delay { ms, jitter_ms } => {
                link.delay_unevenly(Duration::from_millis(ms), Duration::from_millis(jitter_ms));
                sleep(lasts).await;
                link.delay(Duration::ZERO);
            }
            Fault::Throttle { bytes_per_second } => {
                link.throttle(Some(bytes_per_second));
                sleep(lasts).await;
                link.throttle(None);
            }
            Fault::Kill | Fault::Terminate | Fault::Pause => {
                let Some(process) = &mut self.process else { return Ok(()) };
                process.is_well()?;
                match step.fault {
                    Fault::Pause => {
                        process.pause()?;
                        sleep(lasts).await;
                        process.resume()?;
                    }
                    Fault::Kill => {
                        process.kill().await?;
                        sleep(lasts).await;
                        process.start_again().await?;
                    }
                    _ => {
                        let went = process.terminate().await;
                        process.start_again().await?;
                        went?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}
