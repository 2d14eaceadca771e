//! Serving redeliveries: beside an endpoint's own cursor, a part of the journal once more, in order and to its end.

use std::sync::Arc;

use sqlx::PgPool;
use tillwire_channels::{MerchantId, Position};
use tracing::info;

use super::subscribers::{Steps, Subscriber, Told, Turn};
use super::webhooks::{count, verdict};
use crate::error::Result;
use crate::journal::Entry;
use crate::vault::Vault;
use crate::webhooks::attempts::Attempted;
use crate::webhooks::leases::Verdict;
use crate::webhooks::message::Message;
use crate::webhooks::redeliveries::leases::{self, Due, Held};
use crate::webhooks::sender::Sender;

pub struct Redeliveries {
    steps: Steps,
    /// As `tillwire_relay`, who may ask about all merchants.
    relay: PgPool,
    sender: Sender,
    vault: Arc<Vault>,
}

impl Redeliveries {
    pub fn new(steps: Steps, relay: PgPool, sender: Sender, vault: Arc<Vault>) -> Self {
        for outcome in ["done", "failed"] {
            metrics::counter!("tillwire_webhook_redeliveries_total", "outcome" => outcome).increment(0);
        }
        Self { steps, relay, sender, vault }
    }

    /// An attempt was in vain. When there is none left, the redelivery ends; its endpoint does not, which its own cursor
    /// speaks for.
    async fn give_way(&self, held: &Held, message: &Message, attempted: &Attempted) -> Result<()> {
        let app = &self.steps.pools.app;
        match verdict(held.attempts.unsigned_abs() + 1, attempted, fastrand::f64()) {
            Verdict::Later(pause) => {
                self.steps.write(|| leases::later(app, held, message, attempted, pause)).await?;
            }
            Verdict::Disabled(why) => {
                let last = Some((message, attempted));
                if self.steps.write(|| leases::failed(app, held, last, why)).await? {
                    ended(held, "failed");
                }
            }
        }
        Ok(())
    }
}

fn ended(held: &Held, outcome: &'static str) {
    metrics::counter!("tillwire_webhook_redeliveries_total", "outcome" => outcome).increment(1);
    let Due { merchant, endpoint, redelivery } = held.due;
    info!(%merchant, webhook = %endpoint, %redelivery, "A redelivery is {outcome}");
}

impl Subscriber for Redeliveries {
    const NAME: &'static str = "redeliveries";
    const SERVED_MAX: usize = 64;
    const OF_ONE_MAX: usize = 8;
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

    async fn deliver(&self, held: &mut Held, entries: &[Arc<Entry>], turn: &Turn) -> Result<Told> {
        let app = &self.steps.pools.app;
        if entries.is_empty() {
            // A restore took the rest of what was asked for.
            return self.cut(held, held.position).await;
        }
        for entry in entries {
            for (to, message) in held.target.messages(entry, held.position, Some(held.last)) {
                if turn.is_over() {
                    return Ok(Told::Part);
                }
                let attempted = self.sender.send(&held.target.url, &held.target.secrets, &message).await;
                count(&attempted);
                if !attempted.is_delivered() {
                    self.give_way(held, &message, &attempted).await?;
                    return Ok(Told::Over);
                }
                if !self.steps.write(|| leases::delivered(app, held, &message, &attempted, to)).await? {
                    return Ok(Told::Over);
                }
                (held.position, held.attempts) = (to, 0);
                if held.ends_at(to) {
                    ended(held, "done");
                    return Ok(Told::Over);
                }
            }
            held.position = entry.position();
            if held.ends_at(held.position) {
                // What came last is not heard by this endpoint.
                if self.steps.step(leases::passed(app, held)).await? {
                    ended(held, "done");
                }
                return Ok(Told::Over);
            }
        }
        Ok(Told::All)
    }

    /// What was asked for is not there any more, and something else would not be it.
    async fn cut(&self, held: &mut Held, _: Position) -> Result<Told> {
        let app = &self.steps.pools.app;
        if self.steps.write(|| leases::failed(app, held, None, "cut")).await? {
            ended(held, "failed");
        }
        Ok(Told::Over)
    }

    async fn passed(&self, held: &Held) -> Result<bool> {
        leases::passed(&self.steps.pools.app, held).await
    }

    async fn let_go(&self, held: Held) -> Result<()> {
        leases::let_go(&self.steps.pools.app, held).await
    }
}
