//! Payments that a provider carries: what is written down of them, and what follows from what a provider says.
//!
//! A payment belongs to a sale that is open. It is written down before anybody is asked, and whatever is heard of it since, by
//! whatever way and however often, goes through [one function](seen::apply): under the lock of its sale and its own, by the
//! table of [states](state). Money goes back by [refunds](refunds); what only a person can settle is a [task](tasks). Nothing here
//! calls anybody; who does finds out [what is to be done](held) and says what came of it.

pub mod attempts;
pub mod by_hand;
pub mod captures;
pub mod forces;
mod gone;
pub mod held;
pub mod looks;
pub mod refunds;
pub mod seen;
pub mod settling;
pub mod state;
pub mod tasks;
mod word;

pub use attempts::{Attempt, NewAttempt, PaymentView, begin, close, get, of_sale};
pub use captures::capture;
pub use forces::force;
pub use seen::apply;
pub use state::State;
pub use word::{Applied, Outcome, Seen};
