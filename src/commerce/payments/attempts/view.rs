//! Attempts as others see them: whoever asks for one, and screens.

use serde::{Deserialize, Serialize};
use tillwire_channels::event::{PaymentChanged, PaymentForced, PaymentShown, PaymentState};
use tillwire_channels::{Moment, OutletId, PaymentId, RegisterId, SaleId};
use utoipa::ToSchema;

use super::{Attempt, Closing};
use crate::commerce::payments::State;

/// An attempt, as answered.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PaymentView {
    pub id: PaymentId,
    pub sale: SaleId,
    pub outlet: OutletId,
    pub register: RegisterId,
    /// Who carries it.
    pub provider: String,
    /// `test` or `live`.
    pub mode: String,
    pub method: String,
    pub bank: Option<String>,
    pub amount_minor: i64,
    pub currency: String,
    pub state: State,
    /// What the customer is shown, as soon as the provider has said it.
    pub shown: Option<PaymentShown>,
    /// When it is called off by itself.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Moment,
    /// That it is being called off, and why. The provider has the last word.
    pub closing: Option<Closing>,
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub paid_at: Option<Moment>,
    /// Why it failed, or why the money that is held was not taken: a word of ours where the provider refused what it was asked for,
    /// else as it names it.
    pub failure: Option<String>,
    /// Whose app or card paid, if the provider says so.
    pub issuer: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Moment,
    /// Grows with every change, and at times without one.
    pub version: i64,
    /// Whether the card's money is held first, and taken by `…/capture`.
    #[serde(default)]
    pub hold: bool,
    /// What is taken of the money that is held, or is being taken, since somebody has said so.
    #[serde(default)]
    pub capture_minor: Option<i64>,
    /// That somebody has taken it for paid before its provider said so. Its sale is paid by it.
    #[serde(default)]
    pub forced: Option<PaymentForced>,
    /// The other sale that its money pays, since a person has said so: it was late for its own.
    #[serde(default)]
    pub accepted_for: Option<SaleId>,
}

impl From<Attempt> for PaymentView {
    fn from(it: Attempt) -> Self {
        Self {
            id: it.payment,
            sale: it.sale,
            outlet: it.outlet,
            register: it.register,
            provider: it.provider,
            mode: it.mode,
            method: it.method,
            bank: it.bank,
            amount_minor: it.amount_minor,
            currency: it.currency,
            state: it.state,
            shown: it.shown,
            expires_at: it.expires_at,
            closing: it.closing,
            paid_at: it.paid_at,
            failure: it.failure,
            issuer: it.issuer,
            created_at: it.created_at,
            version: it.version,
            hold: it.hold,
            capture_minor: it.capture_minor,
            forced: it.forced,
            accepted_for: it.accepted_for,
        }
    }
}

impl Attempt {
    /// What screens are told of it.
    pub fn changed(&self) -> PaymentChanged {
        PaymentChanged {
            payment: self.payment,
            sale: self.sale,
            outlet: self.outlet,
            register: self.register,
            provider: self.provider.clone(),
            method: self.method.clone(),
            bank: self.bank.clone(),
            amount_minor: self.amount_minor,
            currency: self.currency.clone(),
            state: self.state.into(),
            shown: self.shown.clone().filter(|_| self.state.is_open()),
            expires_at: self.expires_at,
            failure: self.failure.clone(),
            forced: self.forced.clone(),
            accepted_for: self.accepted_for,
        }
    }
}

/// As screens are told it.
impl From<State> for PaymentState {
    fn from(state: State) -> Self {
        match state {
            State::Created => Self::Created,
            State::Unknown => Self::Unknown,
            State::Pending => Self::Pending,
            State::Review => Self::Review,
            State::Authorized => Self::Authorized,
            State::Paid => Self::Paid,
            State::Settled => Self::Settled,
            State::PartiallyRefunded => Self::PartiallyRefunded,
            State::Refunded => Self::Refunded,
            State::Failed => Self::Failed,
            State::Canceled => Self::Canceled,
            State::Expired => Self::Expired,
            State::PaidLate => Self::PaidLate,
            State::Reversed => Self::Reversed,
            State::ChargedBack => Self::ChargedBack,
        }
    }
}
