//! Handlers: one effect for each event, in no order. A handler is one decision and one outside effect; the loop around it is
//! written once.

use std::time::Duration;

use tillwire_channels::{MerchantId, Moment, Position, Stored};

/// An event, as a handler is told it: at least once. Whoever must not do a thing twice tells it by merchant and position.
#[derive(Clone, Debug)]
pub struct Heard {
    pub merchant: MerchantId,
    /// The event's own.
    pub position: Position,
    pub recorded_at: Moment,
    pub event: Stored,
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

    /// Does it, once for each device, receipt or whatever it is that the event asks for.
    fn handle(&self, heard: &Heard) -> impl Future<Output = Result<(), Failure>> + Send;
}
