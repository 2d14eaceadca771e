//! The journal: a merchant's numbered entries, in commit order, without holes, each chained to the one before.
//!
//! There is one way to write: [`Journal::write`] runs a command in a [`MerchantTx`], which commits its rows together
//! with one entry of all its events and with the idempotent answer. There is one way to read for others:
//! [`read`]. This room knows no rule of commerce, no HTTP and no socket; what was committed is announced on a channel
//! that [`crate::bus`] listens to.

pub mod chain;
mod entry;
pub mod find;
mod once;
pub mod pool;
pub mod read;
mod tx;
pub mod upkeep;
mod write;

pub use entry::{Committed, ENTRY_BYTES_MAX, Entry};
pub use once::Once;
pub use pool::Pools;
pub use tx::MerchantTx;
pub use write::{Journal, Written};

use tillwire_channels::{MerchantId, Moment, StaffId};

/// Who acts, for which merchant: what the journal needs of a verified token.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    pub merchant: MerchantId,
    pub staff: StaffId,
    /// When the token was issued: older ones than a revocation are dead.
    pub issued_at: Moment,
    /// By which request, where it was one.
    pub trace: Option<uuid::Uuid>,
}
