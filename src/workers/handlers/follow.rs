//! A handler without a broker: it follows the journals itself, by a cursor of its own in each. An entry that cannot be handled
//! is put aside, and the cursor goes on: no order is promised.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sqlx::PgPool;
use tillwire_channels::{MerchantId, Position};

use super::{Attendant, Handler};
use crate::error::Result;
use crate::handled::cursors::{self, Due, Held};
use crate::handled::letters::{self, Fate, NEVER_SAID};
use crate::journal::Entry;
use crate::workers::subscribers::{Subscriber, Told, Turn};

/// How many entries of a journal are attended to at the same time.
const ABREAST_MAX: usize = 8;
/// After how many in a row who never gave a cursor back it is thought that they died of what follows it.
const SUSPECT_LOST: i32 = 2;
/// How long after its last word a lease is renewed: long before it expires.
const RENEW_AFTER: Duration = Duration::from_secs(5);

pub struct Follow<H> {
    attendant: Attendant<H>,
    /// As `tillwire_relay`, who may ask about all merchants.
    relay: PgPool,
}

impl<H: Handler> Follow<H> {
    pub fn new(attendant: Attendant<H>, relay: PgPool) -> Self {
        Self { attendant, relay }
    }

    /// Whoever follows from here seems to die of it. Each entry is put aside before it is attended to: there an attempt counts
    /// before it is made, and suspects are tried alone.
    async fn set_aside(&self, held: &mut Held, entries: &[Arc<Entry>]) -> Result<Told> {
        let steps = &self.attendant.steps;
        for entry in entries {
            let is_heard = |kind: &str| H::HEARS.contains(&kind);
            if entry.events().is_ok_and(|events| events.iter().any(|event| is_heard(&event.kind))) {
                let fate = (NEVER_SAID.to_owned(), Fate::Waits(Duration::ZERO));
                let letter = self.attendant.letter((entry.merchant, entry.position()), 0, fate);
                steps.write(|| letters::park(&steps.pools.app, &letter)).await?;
            }
            held.position = entry.position();
        }
        Ok(Told::Part)
    }

    async fn attend(&self, entry: &Entry) -> Result<()> {
        let Some(fate) = self.attendant.attend(entry).await?.fate(1) else { return Ok(()) };
        let letter = self.attendant.letter((entry.merchant, entry.position()), 1, fate);
        let steps = &self.attendant.steps;
        steps.write(|| letters::park(&steps.pools.app, &letter)).await
    }
}

impl<H: Handler> Subscriber for Follow<H> {
    const NAME: &'static str = H::NAME;
    const SERVED_MAX: usize = 32;
    const OF_ONE_MAX: usize = 1;
    type Due = Due;
    type Held = Held;

    fn merchant(due: Due) -> MerchantId {
        due.merchant
    }

    fn position(held: &Held) -> Position {
        held.position
    }

    async fn due(&self, of: Option<&[MerchantId]>, busy: &[MerchantId], due_max: usize) -> Result<Vec<Due>> {
        cursors::due(&self.relay, H::NAME, of, busy, due_max).await
    }

    async fn take(&self, due: Due) -> Result<Option<Held>> {
        cursors::take(&self.attendant.steps.pools.app, H::NAME, due).await
    }

    async fn deliver(&self, held: &mut Held, entries: &[Arc<Entry>], turn: &Turn) -> Result<Told> {
        if held.lost >= SUSPECT_LOST {
            return self.set_aside(held, entries).await;
        }
        let mut renewed_at = Instant::now();
        for some in entries.chunks(ABREAST_MAX) {
            if turn.is_over() {
                return Ok(Told::Part);
            }
            // All of them to their end, also where one fails: what they have done outside is to be written down.
            join_all(some.iter().map(|entry| self.attend(entry))).await.into_iter().collect::<Result<Vec<()>>>()?;
            held.position = some.last().map_or(held.position, |last| last.position());
            if renewed_at.elapsed() > RENEW_AFTER {
                if !self.attendant.steps.step(self.passed(held)).await? {
                    return Ok(Told::Over);
                }
                renewed_at = Instant::now();
            }
        }
        Ok(Told::All)
    }

    /// What is missing cannot be handled any more.
    async fn cut(&self, held: &mut Held, to: Position) -> Result<Told> {
        metrics::counter!("tillwire_handler_cuts_total", "handler" => H::NAME).increment(1);
        held.position = to;
        Ok(Told::All)
    }

    async fn passed(&self, held: &Held) -> Result<bool> {
        cursors::advance(&self.attendant.steps.pools.app, H::NAME, held, held.position).await
    }

    async fn let_go(&self, held: Held) -> Result<()> {
        cursors::let_go(&self.attendant.steps.pools.app, H::NAME, &held, held.position).await
    }
}
