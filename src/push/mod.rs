//! Push: telling the phones and browsers of people who have no screen before them.
//!
//! A [device](devices) is where one person wants to be told, of what and when not. A [note](note) is what an event says to
//! them. Three services carry it, each by its own protocol: [Web Push](webpush), [FCM](fcm) and [APNs](apns). What they answer
//! is an [`Outcome`]. Who is told what, and that nobody is told twice, is [`crate::workers::push`]'s matter.

pub mod apns;
pub mod audience;
pub mod devices;
pub mod fcm;
mod keys;
pub mod note;
pub mod quiet;
pub mod registration;
pub mod services;
pub mod told;
pub mod webpush;

use std::time::Duration;

use tillwire_channels::Moment;
use tracing::debug;

/// How long one note may take, from waiting for its turn to the last byte of the answer; a token that is asked for first is
/// part of it.
pub const ATTEMPT_MAX: Duration = Duration::from_secs(8);
/// How much of an answer is read.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// Who we say that we are.
const AGENT: &str = concat!("Tillwire/", env!("CARGO_PKG_VERSION"), " (push)");

/// What came of sending a note to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The service has it.
    Sent,
    /// The registration is no more: from this moment on, if the service says so.
    Gone(Option<Moment>),
    /// The service will never take this note for this device.
    GivenUp(String),
    /// It may go better later; after this pause at least, if the service asked for it.
    Later(String, Option<Duration>),
    /// Enough is on its way already, of this merchant or of all: the service was not asked.
    Busy,
    /// The service does not take our word for who we are: somebody who runs this hub has to look.
    Refused(String),
}

impl Outcome {
    /// As metrics and answers name it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Gone(_) => "gone",
            Self::GivenUp(_) => "given_up",
            Self::Later(..) => "later",
            Self::Busy => "busy",
            Self::Refused(_) => "refused",
        }
    }

    /// Every word.
    pub const WORDS: [&'static str; 6] = ["sent", "gone", "given_up", "later", "busy", "refused"];
}

/// Nobody answered, or nobody was there. Why is for the log: people are told the outcome of what leads where they say, and
/// would learn what is there. The URL may hold what is nobody's business.
fn unanswered(error: reqwest::Error) -> Outcome {
    debug!("A push service did not answer: {:#}", anyhow::Error::new(error.without_url()));
    Outcome::Later("nobody answered".to_owned(), None)
}
