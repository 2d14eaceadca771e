//! What was heard of a payment, and what came of it.

use serde::{Deserialize, Serialize};
use tillwire_channels::Moment;
use tillwire_channels::event::PaymentShown;

use super::attempts::{PaymentView, There};
use super::refunds::Told;
use super::state::State;

/// What a provider says of a payment, or what is known without it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// None if nothing is said of that.
    pub state: Option<State>,
    /// A bank's refusal, which takes back what it had confirmed.
    pub may_reverse: bool,
    /// Whether it is the answer to a question, and so the provider's last word. A notification may be an old one.
    pub asked: bool,
    pub there: There,
    /// Whom it is told of, if that is another merchant than the account's.
    pub stranger: Option<String>,
    pub amount_minor: Option<i64>,
    pub captured_minor: Option<i64>,
    pub currency: Option<String>,
    /// Its refunds, as far as something is said of them.
    pub refunds: Vec<Told>,
    pub shown: Option<PaymentShown>,
    /// That what the customer would be shown is not for this payment, and why.
    pub unfit: Option<String>,
    pub paid_at: Option<Moment>,
    pub failure: Option<String>,
    pub issuer: Option<String>,
    pub fee_minor: Option<i64>,
    /// Whether its bank may take it back for some minutes.
    pub reversible: bool,
    /// That its provider was asked how it stands, and holds the money: whatever it was asked to take, it has not.
    pub still_held: bool,
    /// That the provider does not take the money that it holds, and why.
    pub capture_refused: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Applied {
    pub outcome: Outcome,
    pub attempt: PaymentView,
}

impl Applied {
    /// Whether it has brought the news that there is money.
    pub fn is_money_found(&self) -> bool {
        self.outcome == Outcome::Moved && matches!(self.attempt.state, State::Paid | State::Settled | State::PaidLate)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The payment has come to another state.
    Moved,
    /// It stands as it stood.
    Same,
    /// It came late, and nothing follows from it.
    Stale,
    /// It cannot be, as far as we know: a person is told.
    Conflict,
    /// It does not fit the payment, and nothing follows from it: a person is told.
    Parked,
}
