//! Connectors: the words of outside systems, and ours. A connector verifies, translates and says what to call; it holds no
//! rule of commerce and no SQL.
//!
//! A merchant's keys at a provider are its [`Connector`]: they make requests and read what comes back, in bytes, and do
//! nothing else. What each provider can do is [a table](ability), and how it goes about it [another](habits). The [`caller`] alone
//! goes out.

pub mod ability;
pub(crate) mod amount;
pub mod caller;
pub mod credentials;
mod digest;
pub mod fields;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
#[cfg(test)]
mod golden;
pub mod habits;
pub mod midtrans;
pub mod payment;
pub mod qr;
pub mod qris;
pub mod refusal;
pub mod report;
pub mod request;
pub mod xendit;

use std::fmt;

use reqwest::header::HeaderMap;

use self::credentials::Credentials;
use self::payment::{Charge, Known, KnownRefund, Listing, Refund};
use self::refusal::Refusal;
use self::report::{Notice, Page, Report};
use self::request::{Answer, Asked, Request};
use crate::error::Error;

/// The largest notification that is read, in bytes. Real ones have a few kilobytes.
pub const NOTICE_BYTES_MAX: usize = 256 * 1024;

/// One provider's words, with one merchant's keys there.
///
/// Everything is a function of its arguments alone. A request says what its answer has to be read as; what a [`Charge`] may
/// be is [`ability::check`]'s matter, and was settled before.
pub trait Connector: Send + Sync {
    /// Asks for a payment. The answer has what the customer is shown.
    fn charge(&self, charge: &Charge) -> Result<Request, Unable>;

    /// Asks how a payment stands.
    fn status(&self, payment: &Known) -> Result<Request, Unable>;

    /// Calls off a payment that nobody has paid, or gives up a card's hold.
    fn cancel(&self, payment: &Known) -> Result<Request, Unable>;

    /// Says that a payment's time is over.
    fn expire(&self, payment: &Known) -> Result<Request, Unable>;

    /// Takes money that a card's payment holds.
    fn capture(&self, payment: &Known, amount_minor: i64) -> Result<Request, Unable>;

    /// Gives money back.
    fn refund(&self, refund: &Refund) -> Result<Request, Unable>;

    /// Asks how a refund stands. Unless it is asked for by the provider's own name, the answer tells of all refunds of the
    /// payment, and one that it does not tell of is not there.
    fn refund_status(&self, refund: &KnownRefund) -> Result<Request, Unable>;

    /// Asks for a page of what was moved.
    fn settlements(&self, listing: &Listing) -> Result<Request, Unable>;

    /// What an answer says of the payment that was asked about.
    fn read(&self, asked: &Asked, answer: &Answer) -> Result<Report, Refusal>;

    /// What an answer to [`settlements`](Self::settlements) says.
    fn read_page(&self, answer: &Answer) -> Result<Page, Refusal>;

    /// Whether a notification proves to be the provider's: over the text as it was received, in constant time.
    fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), Forged>;

    /// What a notification says, whoever sent it.
    fn notice(&self, body: &[u8]) -> Result<Notice, Unreadable>;
}

impl Credentials {
    /// The provider's words, with these keys.
    pub fn connector(&self) -> &dyn Connector {
        match self {
            Self::Midtrans(keys) => keys,
            Self::Xendit(keys) => keys,
        }
    }
}

/// Why there is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unable {
    /// The provider has no such thing.
    NotOffered,
    /// The provider wants an id of its own for this, and has told us none.
    NoId,
}

impl From<Unable> for Error {
    fn from(unable: Unable) -> Self {
        match unable {
            Unable::NotOffered => Self::conflict("not_offered", "The provider cannot do this."),
            Unable::NoId => Self::conflict("not_known_there", "The provider has not named this payment yet."),
        }
    }
}

/// A notification that anybody may have sent. What about it is wrong is nobody's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forged;

/// A notification that says nothing that could be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Longer than [`NOTICE_BYTES_MAX`].
    TooLong,
    /// No object of JSON, or one that says something twice.
    NotJson,
    /// This field should be an amount in whole rupiah. What it is about can be read: which payment, and nothing of money.
    NotMoney(&'static str, Box<Notice>),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(out, "it is longer than {NOTICE_BYTES_MAX} bytes"),
            Self::NotJson => out.write_str("it is no object of JSON"),
            Self::NotMoney(field, _) => write!(out, "`{field}` is no amount in whole rupiah"),
        }
    }
}
