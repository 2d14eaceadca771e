//! Serving webhook endpoints: each is told what follows its cursor, one event after the other, and gives way when one was in
//! vain.

use std::sync::Arc;

use futures_util::FutureExt as _;
use sqlx::PgPool;
use tillwire_channels::{MerchantId, Position};
use tracing::info;

use super::subscribers::{Steps, Subscriber, Told, Turn};
use crate::error::Result;
use crate::journal::{Entry, Journal};
use crate::vault::Vault;
use crate::webhooks::attempts::{Answer, Attempted};
use crate::webhooks::leases::{self, Due, GivenUp, Held, Verdict};
use crate::webhooks::message::Message;
use crate::webhooks::schedule;
use crate::webhooks::sender::Sender;

/// The answer of a receiver that wants nothing any more.
const GONE: u16 = 410;

pub struct Webhooks {
    steps: Steps,
    /// Written over the connections of [`Steps`]: one that is disabled is told of.
    journal: Journal,
    /// As `tillwire_relay`, who may ask about all merchants.
    relay: PgPool,
    sender: Sender,
    vault: Arc<Vault>,
}

impl Webhooks {
    pub fn new(steps: Steps, journal: &Journal, relay: PgPool, sender: Sender, vault: Arc<Vault>) -> Self {
        for outcome in ["delivered", "refused", "failed"] {
            metrics::counter!("tillwire_webhook_attempts_total", "outcome" => outcome).increment(0);
        }
        for reason in ["gone", "failing"] {
            metrics::counter!("tillwire_webhook_disabled_total", "reason" => reason).increment(0);
        }
        metrics::counter!("tillwire_webhook_cuts_total").increment(0);
        Self { journal: journal.over(steps.pools.clone()), steps, relay, sender, vault }
    }

    /// An attempt was in vain.
    async fn give_way(&self, held: &Held, message: Message, attempted: Attempted) -> Result<()> {
        match verdict(held.attempts.unsigned_abs() + 1, &attempted, fastrand::f64()) {
            Verdict::Later(pause) => {
                let write = || leases::later(&self.steps.pools.app, held, &message, &attempted, pause);
                self.steps.write(write).await?;
            }
            Verdict::Disabled(why) => {
                let (merchant, webhook) = (held.due.merchant, held.due.endpoint);
                let given_up = GivenUp { held: held.clone(), message, attempted, why };
                let write = || {
                    let given_up = given_up.clone();
                    self.journal.act(merchant, move |tx| leases::disabled(tx, given_up.clone()).boxed())
                };
                if self.steps.write(write).await? {
                    metrics::counter!("tillwire_webhook_disabled_total", "reason" => why).increment(1);
                    info!(%merchant, %webhook, "A webhook is disabled: {why}");
                }
            }
        }
        Ok(())
    }
}

impl Subscriber for Webhooks {
    const NAME: &'static str = "webhooks";
    const SERVED_MAX: usize = 256;
    const OF_ONE_MAX: usize = 16;
    type Due = Due;
    type Held = Held;

    fn merchant(due: Due) -> MerchantId {
        due.merchant
    }

    fn position(held: &Held) -> Position {
        held.position
    }

    async fn due(&self, of: Option<&[MerchantId]>, busy: &[MerchantId], due_max: usize) -> Result<Vec<Due>> {
        leases::due(&self.relay, of, busy, Self::OF_ONE_MAX, due_max).await
    }

    async fn take(&self, due: Due) -> Result<Option<Held>> {
        leases::take(&self.steps.pools.app, &self.vault, due).await
    }

    /// One after the other: the merchant wants them in order.
    async fn deliver(&self, held: &mut Held, entries: &[Arc<Entry>], turn: &Turn) -> Result<Told> {
        for entry in entries {
            for (to, message) in held.target.messages(entry, held.position, None) {
                if turn.is_over() {
                    return Ok(Told::Part);
                }
                let attempted = self.sender.send(&held.target.url, &held.target.secrets, &message).await;
                count(&attempted);
                if !attempted.is_delivered() {
                    self.give_way(held, message, attempted).await?;
                    return Ok(Told::Over);
                }
                let write = || leases::delivered(&self.steps.pools.app, held, &message, &attempted, to);
                if !self.steps.write(write).await? {
                    return Ok(Told::Over);
                }
                (held.position, held.attempts) = (to, 0);
            }
            held.position = entry.position();
        }
        Ok(Told::All)
    }

    /// What is missing it is not told, and goes on: its owner would be told nothing else.
    async fn cut(&self, held: &mut Held, to: Position) -> Result<Told> {
        metrics::counter!("tillwire_webhook_cuts_total").increment(1);
        held.position = to;
        Ok(Told::All)
    }

    async fn passed(&self, held: &Held) -> Result<bool> {
        leases::passed(&self.steps.pools.app, held).await
    }

    async fn let_go(&self, held: Held) -> Result<()> {
        leases::let_go(&self.steps.pools.app, held).await
    }
}

/// What becomes of an endpoint after so many attempts in vain, the last of which came to this.
pub(super) fn verdict(attempts: u32, attempted: &Attempted, chance: f64) -> Verdict {
    let retry_after = match attempted.answer {
        Answer::Status { code: GONE, .. } => return Verdict::Disabled("gone"),
        Answer::Status { retry_after, .. } => retry_after,
        Answer::None(_) | Answer::Skipped => None,
    };
    schedule::pause(attempts, chance, retry_after).map_or(Verdict::Disabled("failing"), Verdict::Later)
}

pub(super) fn count(attempted: &Attempted) {
    metrics::counter!("tillwire_webhook_attempts_total", "outcome" => attempted.outcome()).increment(1);
    metrics::histogram!("tillwire_webhook_attempt_seconds").record(attempted.took);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tillwire_channels::Moment;

    use super::*;

    fn answered(code: u16, retry_after: Option<u64>) -> Attempted {
        let answer = Answer::Status { code, body: String::new(), retry_after: retry_after.map(Duration::from_secs) };
        Attempted::new(Moment::UNIX_EPOCH, Duration::ZERO, answer)
    }

    #[test]
    fn whoever_is_gone_is_disabled_at_once_and_whoever_fails_when_the_schedule_ends() {
        assert_eq!(verdict(1, &answered(410, None), 0.5), Verdict::Disabled("gone"));
        assert_eq!(verdict(1, &answered(500, None), 0.5), Verdict::Later(Duration::from_secs(5)));
        assert_eq!(verdict(1, &answered(302, None), 0.5), Verdict::Later(Duration::from_secs(5)));
        assert_eq!(verdict(1, &answered(429, Some(90)), 0.5), Verdict::Later(Duration::from_secs(90)));
        assert_eq!(verdict(schedule::ATTEMPTS_MAX, &answered(500, None), 0.5), Verdict::Disabled("failing"));
    }
}
