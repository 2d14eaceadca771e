//! Handlers: one effect for each event, in no order. A handler is one decision and one outside effect; the loop around it is
//! written once.
//!
//! Where there is a broker, a handler takes [from its queue](queue); where there is none, it [follows](follow) the journals.
//! Either way an entry is [attended](attend) to by the same steps, and what could not be handled is tried again after longer and
//! longer pauses, and is then a dead letter: in the database, where people find it, have it [tried again](waiting) or drop it.

mod attend;
pub mod follow;
pub mod queue;
mod retries;
mod turns;
pub mod waiting;

use std::time::Duration;

use tillwire_channels::{MerchantId, Moment, Position, Stored};
use uuid::Uuid;

pub use self::attend::Attendant;
use crate::queues::topology::HandlerQueue;

/// How long handling one event may take.
pub const HANDLE_MAX: Duration = Duration::from_secs(20);

/// An event, as a handler is told it: at least once. Whoever must not do a thing twice tells it by merchant and position.
#[derive(Clone, Debug)]
pub struct Heard {
    pub merchant: MerchantId,
    /// The event's own.
    pub position: Position,
    pub recorded_at: Moment,
    /// The request that it came of, where that is known.
    pub trace: Option<Uuid>,
    pub event: Stored,
}

/// What came of handling an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Something was done outside, and should not be done again.
    Made,
    /// There was nothing to do, or what there was is written down already.
    None,
}

/// Why an event was not handled.
#[derive(Debug)]
pub enum Failure {
    /// It may go better later: it is tried again, after longer and longer pauses; after this one at least, if the other side
    /// asked for it.
    Later(anyhow::Error, Option<Duration>),
    /// It would never go better: it is a dead letter at once.
    Never(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Later(error, None)
    }
}

/// What one does outside because something happened here.
pub trait Handler: Send + Sync + 'static {
    /// As queues, rows and metrics name it: lowercase letters. It never changes.
    const NAME: &'static str;
    /// The types of events that it is told.
    const HEARS: &'static [&'static str];
    /// The same, for whoever declares its queue.
    const QUEUE: HandlerQueue = HandlerQueue { name: Self::NAME, hears: Self::HEARS };

    /// Does it, within [`HANDLE_MAX`]. Rows that are written because of the event are written once if
    /// [`mark`](crate::handled::marks::mark) says so in the same transaction.
    fn handle(&self, heard: &Heard) -> impl Future<Output = Result<Effect, Failure>> + Send;
}
