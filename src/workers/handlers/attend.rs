//! Attending to one entry: each of its events that the handler hears, and that is not handled yet, is handled, and marked.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use futures_util::FutureExt as _;
use tillwire_channels::{MerchantId, Position};
use tracing::{Instrument as _, debug, info_span, warn};

use super::retries;
use super::turns::Turns;
use super::{Effect, Failure, HANDLE_MAX, Handler, Heard};
use crate::error::{Error, Result};
use crate::handled::letters::{Fate, Letter};
use crate::handled::marks;
use crate::journal::read::{self, Slice};
use crate::journal::{Entry, pool};
use crate::queues::intake::Verdict;
use crate::workers::subscribers::Steps;

/// No event of an entry is begun after so long: with [`HANDLE_MAX`] it bounds how long an entry may take.
const BEGIN_MAX: Duration = Duration::from_secs(20);
/// How long reading an entry may take.
const READ_MAX: Duration = Duration::from_secs(5);

/// A handler, and what its events are marked in.
pub struct Attendant<H> {
    handler: Arc<H>,
    pub(super) steps: Steps,
    pub(super) turns: Arc<Turns>,
}

impl<H> Clone for Attendant<H> {
    fn clone(&self) -> Self {
        Self { handler: self.handler.clone(), steps: self.steps.clone(), turns: self.turns.clone() }
    }
}

/// What came of attending to an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Attended {
    /// All that it asks for is done.
    Done,
    /// Some of it is not, and may go better later.
    Later { reason: String, asked: Option<Duration> },
    /// Some of it never will be.
    Never { reason: String },
}

impl Attended {
    /// What becomes of an entry that was tried so often, this time included.
    pub fn verdict(self, attempts: u32) -> Verdict {
        match self {
            Self::Done => Verdict::Done,
            Self::Never { reason } => Verdict::Dead { reason },
            Self::Later { reason, asked } => match retries::pause_after(attempts, asked) {
                Some(pause) => Verdict::Again { pause, reason },
                None => Verdict::Dead { reason },
            },
        }
    }

    /// The same, where it is put aside in the database; none if it is done.
    pub fn fate(self, attempts: u32) -> Option<(String, Fate)> {
        match self {
            Self::Done => None,
            Self::Never { reason } => Some((reason, Fate::Dead)),
            Self::Later { reason, asked } => {
                let pause = retries::pause_after(attempts, asked).map(retries::length);
                Some((reason, pause.map_or(Fate::Dead, Fate::Waits)))
            }
        }
    }
}

impl<H: Handler> Attendant<H> {
    pub fn new(handler: H, steps: Steps) -> Self {
        for outcome in ["made", "none", "later", "never"] {
            metrics::counter!("tillwire_handler_events_total", "handler" => H::NAME, "outcome" => outcome).increment(0);
        }
        for counter in ["tillwire_handler_cuts_total", "tillwire_handler_foreign_total"] {
            metrics::counter!(counter, "handler" => H::NAME).increment(0);
        }
        Self { handler: Arc::new(handler), steps, turns: Arc::default() }
    }

    /// Attends to an entry.
    ///
    /// # Errors
    /// If the database does not answer: nothing is known of it then, and some of it may be done.
    pub(super) async fn attend(&self, entry: &Entry) -> Result<Attended> {
        let events = match entry.events() {
            Ok(events) => events,
            Err(error) => return Ok(Attended::Never { reason: format!("{error:#}") }),
        };
        let heard: Vec<_> = (1..).zip(events).filter(|(_, event)| H::HEARS.contains(&&*event.kind)).collect();
        if heard.is_empty() {
            return Ok(Attended::Done);
        }
        let app = &self.steps.pools.app;
        let handled = self.steps.step(marks::of_entry(app, entry.merchant, H::NAME, entry.position())).await?;
        let (began, mut attended) = (Instant::now(), Attended::Done);
        for (number, event) in heard {
            if handled.contains(&number) {
                continue;
            }
            let heard = Heard {
                merchant: entry.merchant,
                position: Position::of_event(entry.seq, number, entry.tag),
                recorded_at: entry.recorded_at,
                trace: entry.trace,
                event: event.clone(),
            };
            let failure = match began.elapsed() {
                late if late > BEGIN_MAX => Failure::Later(anyhow!("the events before it took {late:.0?}"), None),
                _ => match self.handle(&heard).await {
                    Ok(Effect::Made) => {
                        self.mark(&heard).await?;
                        continue;
                    }
                    Ok(Effect::None) => continue,
                    Err(failure) => failure,
                },
            };
            attended = attended.and(&heard, failure);
        }
        Ok(attended)
    }

    /// Attends to the entry at a place, or says that there is none.
    pub(super) async fn attend_at(&self, merchant: MerchantId, position: Position) -> Result<Attended> {
        let reading = async {
            let mut sql = self.steps.pools.feed.acquire().await?;
            // From inside the entry, so that it comes first.
            let inside = Position { event: Some(1), ..position };
            read::after(&mut sql, merchant, inside, Slice { entries_max: 1, ..Slice::default() }).await
        };
        let read = self.steps.step(async { tokio::time::timeout(READ_MAX, reading).await? }).await;
        match read {
            Ok(read) => match read.entries.first() {
                Some(entry) => self.attend(entry).await,
                None => Ok(gone(position)),
            },
            Err(Error::SnapshotRequired(_) | Error::NotFound(_)) => Ok(gone(position)),
            Err(error) => Err(error),
        }
    }

    /// Whatever the handler does, the loop around it goes on.
    async fn handle(&self, heard: &Heard) -> Result<Effect, Failure> {
        let span = info_span!(
            "handle",
            trace_id = heard.trace.map(|trace| trace.simple().to_string()),
            handler = H::NAME,
            merchant = %heard.merchant,
            position = %heard.position,
            event = &*heard.event.kind,
        );
        let began = Instant::now();
        let handling = AssertUnwindSafe(self.handler.handle(heard)).catch_unwind();
        let outcome = async {
            match tokio::time::timeout(HANDLE_MAX, handling).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err(anyhow!("the handler has panicked").into()),
                Err(_) => Err(anyhow!("it took longer than {HANDLE_MAX:?}").into()),
            }
            .inspect_err(|failure| match failure {
                Failure::Later(error, _) => debug!("Not handled yet: {error:#}"),
                Failure::Never(error) => warn!("It cannot be handled: {error:#}"),
            })
        }
        .instrument(span)
        .await;
        let word = match &outcome {
            Ok(Effect::Made) => "made",
            Ok(Effect::None) => "none",
            Err(Failure::Later(..)) => "later",
            Err(Failure::Never(_)) => "never",
        };
        metrics::counter!("tillwire_handler_events_total", "handler" => H::NAME, "outcome" => word).increment(1);
        metrics::histogram!("tillwire_handler_seconds", "handler" => H::NAME).record(began.elapsed());
        outcome
    }

    async fn mark(&self, heard: &Heard) -> Result<()> {
        let app = &self.steps.pools.app;
        self.steps
            .write(async || {
                let mut sql = pool::begin_of(app, heard.merchant).await?;
                marks::mark(&mut sql, heard.merchant, H::NAME, heard.position).await?;
                Ok(sql.commit().await?)
            })
            .await
    }

    /// A letter of this handler's.
    pub(super) fn letter(
        &self,
        entry: (MerchantId, Position),
        attempts: u32,
        (reason, fate): (String, Fate),
    ) -> Letter {
        let (merchant, position) = entry;
        Letter { merchant, handler: H::NAME.to_owned(), position, attempts, reason, fate }
    }
}

/// The entry is not in the journal: it is forgotten, or of another history.
fn gone(position: Position) -> Attended {
    Attended::Never { reason: format!("the journal does not hold {position} any more") }
}

impl Attended {
    /// What may go better later makes the whole entry worth another attempt: what is done by then is not done again.
    fn and(self, heard: &Heard, failure: Failure) -> Self {
        let named = |error: &anyhow::Error| format!("{} at {}: {error:#}", heard.event.kind, heard.position);
        match (self, failure) {
            (Self::Later { reason, asked }, Failure::Later(_, also)) => Self::Later { reason, asked: asked.max(also) },
            (later @ Self::Later { .. }, Failure::Never(_)) => later,
            (_, Failure::Later(error, asked)) => Self::Later { reason: named(&error), asked },
            (Self::Done, Failure::Never(error)) => Self::Never { reason: named(&error) },
            (never @ Self::Never { .. }, Failure::Never(_)) => never,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tillwire_channels::Moment;

    use super::*;

    fn heard() -> Heard {
        let event = json!({
            "type": "payment.captured", "channels": [], "view": "till", "occurred_at": "2026-11-30T10:00:00Z", "data": {}
        });
        let event = serde_json::from_value(event).unwrap();
        let position = "7.2-9f3ac2d1".parse().unwrap();
        Heard { merchant: MerchantId::new(), position, recorded_at: Moment::UNIX_EPOCH, trace: None, event }
    }

    fn after(failures: Vec<Failure>) -> Attended {
        failures.into_iter().fold(Attended::Done, |attended, failure| attended.and(&heard(), failure))
    }

    #[test]
    fn an_entry_is_worth_another_attempt_while_any_of_its_events_is() {
        let later = |asked| Failure::Later(anyhow!("busy"), asked);
        let never = || Failure::Never(anyhow!("no"));
        let reason = "payment.captured at 7.2-9f3ac2d1: busy".to_owned();
        let asked = Some(Duration::from_secs(9));
        for failures in [vec![never(), later(asked)], vec![later(asked), never()], vec![later(None), later(asked)]] {
            assert_eq!(after(failures), Attended::Later { reason: reason.clone(), asked });
        }
        assert_eq!(after(vec![never(), never()]), Attended::Never { reason: reason.replace("busy", "no") });
        assert_eq!(after(vec![]), Attended::Done);
    }

    #[test]
    fn what_never_goes_better_is_dead_at_once_and_the_rest_when_its_attempts_are_over() {
        let later = Attended::Later { reason: "busy".into(), asked: None };
        assert_eq!(later.clone().verdict(1), Verdict::Again { pause: 0, reason: "busy".into() });
        assert_eq!(later.clone().fate(2), Some(("busy".into(), Fate::Waits(Duration::from_secs(60)))));
        assert_eq!(later.verdict(retries::ATTEMPTS_MAX), Verdict::Dead { reason: "busy".into() });
        assert_eq!(Attended::Never { reason: "no".into() }.fate(1), Some(("no".into(), Fate::Dead)));
        assert_eq!(Attended::Done.fate(1), None);
    }
}
