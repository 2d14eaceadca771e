//! What waits in the database for another attempt: what could not be handled where there is no broker, and dead letters that a
//! person wants to be tried again.

use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::retries;
use super::{Attendant, Handler};
use crate::error::{Error, Result};
use crate::handled::cursors;
use crate::handled::letters::{self, Due};

/// How often it is looked whose turn it is.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the database may take to say it.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// How often it is told how many wait, and how many are dead.
const COUNT_EVERY: Duration = Duration::from_secs(10);
/// How many are tried at the same time.
const ABREAST_MAX: usize = 16;

pub struct Waiting<H> {
    attendant: Attendant<H>,
    /// As `tillwire_relay`, who may ask about all merchants.
    relay: PgPool,
    /// Whether the handler follows the journals itself.
    follows: bool,
}

impl<H: Handler> Waiting<H> {
    pub fn new(attendant: Attendant<H>, relay: PgPool, follows: bool) -> Self {
        Self { attendant, relay, follows }
    }

    /// Tries what is due, until `stop`.
    pub async fn run(&self, stop: &CancellationToken) {
        let (mut tasks, mut is_away, mut count_at) = (JoinSet::new(), false, Instant::now());
        loop {
            let counts = Instant::now() >= count_at;
            if counts {
                count_at = Instant::now() + COUNT_EVERY;
            }
            match self.look(counts).await {
                Ok(due) => {
                    is_away = false;
                    for due in whom_to_try(due, tasks.len()) {
                        let attendant = self.attendant.clone();
                        tasks.spawn(async move { attempt(&attendant, due).await });
                    }
                }
                Err(error) if std::mem::replace(&mut is_away, true) => {
                    debug!("What waits for {} still waits for the database: {error:#}", H::NAME);
                }
                Err(error) => warn!("What waits for {} waits for the database: {error:#}", H::NAME),
            }
            if stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
                break;
            }
            while tasks.try_join_next().is_some() {}
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn look(&self, counts: bool) -> anyhow::Result<Vec<Due>> {
        let looking = async {
            if counts {
                self.count().await?;
            }
            letters::due(&self.relay, H::NAME, ABREAST_MAX).await
        };
        tokio::time::timeout(LOOK_MAX, looking).await?.map_err(Error::into_anyhow)
    }

    async fn count(&self) -> Result<()> {
        let counts = letters::count(&self.relay).await?;
        let of_this = counts.into_iter().find(|count| count.handler == H::NAME).unwrap_or_default();
        metrics::gauge!("tillwire_handler_waiting", "handler" => H::NAME).set(of_this.waiting as f64);
        metrics::gauge!("tillwire_handler_dead_letters", "handler" => H::NAME).set(of_this.dead as f64);
        if self.follows {
            let lag = cursors::lag(&self.relay, H::NAME).await?;
            metrics::gauge!("tillwire_handler_backlog", "handler" => H::NAME).set(lag.entries as f64);
        }
        Ok(())
    }
}

/// Of those that are due, beside so many that are under way. One that somebody may have died of is tried when nothing else is,
/// and any of them: or those who were tried with the one that kills would be taken for killers, too.
fn whom_to_try(mut due: Vec<Due>, under_way: usize) -> Vec<Due> {
    let suspects: Vec<Due> = due.iter().copied().filter(|due| due.is_suspect).collect();
    if suspects.is_empty() {
        due.truncate(ABREAST_MAX - under_way.min(ABREAST_MAX));
        return due;
    }
    match under_way {
        0 => vec![suspects[fastrand::usize(..suspects.len())]],
        _ => Vec::new(),
    }
}

/// One whose lease is lost on the way is tried again by whoever has it by then.
async fn attempt<H: Handler>(attendant: &Attendant<H>, due: Due) {
    if let Err(error) = try_one(attendant, due).await {
        debug!(handler = H::NAME, "What waited could not be tried: {:#}", error.into_anyhow());
    }
}

async fn try_one<H: Handler>(attendant: &Attendant<H>, due: Due) -> Result<()> {
    let steps = &attendant.steps;
    let app = &steps.pools.app;
    let Some(held) = steps.step(letters::take(app, due, retries::ATTEMPTS_MAX)).await? else { return Ok(()) };
    let attended = attendant.attend_at(due.merchant, held.position).await?;
    match attended.fate(held.attempts) {
        None => steps.write(|| letters::settle(app, &held)).await,
        Some((reason, fate)) => steps.write(|| letters::put_back(app, &held, &reason, fate)).await,
    }
}

#[cfg(test)]
mod tests {
    use tillwire_channels::MerchantId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_suspect_is_tried_alone() {
        let due = |is_suspect| Due { merchant: MerchantId::new(), letter: Uuid::new_v4(), is_suspect };
        let (good, bad, worse) = (due(false), due(true), due(true));
        assert_eq!(whom_to_try(vec![good; 20], 4).len(), ABREAST_MAX - 4);
        assert!(whom_to_try(vec![good, bad], 1).is_empty());
        let tried = whom_to_try(vec![good, bad, worse], 0);
        assert!(tried == [bad] || tried == [worse]);
    }
}
