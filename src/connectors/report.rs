//! What a provider says, in our words: of a payment, when it is asked or by itself, and of what it has moved.

use serde::Serialize;
use tillwire_channels::Moment;
use utoipa::ToSchema;

use super::payment::{Bank, Ids};
use crate::commerce::payments::state::State;

/// What a provider says of one payment. What it did not say is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// None: it says of a refund alone, or names what is to be asked next in [`ids`](Self::ids), or is not believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// A refusal by a bank that may take back a payment it had confirmed.
    #[serde(skip_serializing_if = "is_false")]
    pub may_reverse: bool,
    /// As the provider names the state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
    /// Why it failed, as the provider names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// As we named the payment there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    pub ids: Ids,
    /// As the provider names the merchant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merchant: Option<String>,
    /// What was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount_minor: Option<i64>,
    /// What the customer has paid, or a card's hold that was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub captured_minor: Option<i64>,
    /// In capitals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refunds: Vec<RefundReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shown: Option<Shown>,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Moment>,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub paid_at: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fee_minor: Option<i64>,
    /// Whose app or card it was paid with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
fn is_false(it: &bool) -> bool {
    !*it
}

/// What a provider says of a refund.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefundReport {
    /// As we named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// As the provider names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// And the payment that it gives back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount_minor: Option<i64>,
    pub state: RefundState,
    /// Why it failed, as the provider names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// Where a refund stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundState {
    /// Taken on; the bank has not confirmed it.
    Pending,
    Succeeded,
    Failed,
    Canceled,
}

/// What a customer is shown to pay with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Shown {
    /// The text of a QR code, as the provider sent it: [`qris::check`](super::qris::check) it before it is shown.
    Qr { text: String },
    /// A number to transfer to.
    VirtualAccount { bank: Bank, number: String },
    /// Mandiri's bill payment: a company and a bill.
    Bill { biller_code: String, bill_key: String },
    /// A page to open.
    Redirect { url: String },
}

/// The longest address of a page.
const URL_BYTES_MAX: usize = 2_048;

impl Shown {
    /// A page, if it is one: what a provider sends is opened by a customer's browser.
    pub fn page(url: &str) -> Option<Self> {
        let is_page = url.len() <= URL_BYTES_MAX
            && url::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "https" | "http") && url.has_host());
        is_page.then(|| Self::Redirect { url: url.to_owned() })
    }
}

/// What a provider told by itself. It is a claim: what it says of money is asked for before anything moves, by the ids that
/// were known before, for those in it are claims as well; and the answer's reference is compared with ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    pub kind: Kind,
    /// As the provider names what happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// The same for each repetition, and another for anything else of the same payment.
    pub dedupe: String,
    pub claims: Report,
}

/// What a notification is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Payment,
    Refund,
    /// The page on which a card is entered.
    Session,
    /// Payments by a plan: nothing of ours. Midtrans signs nothing of them.
    Subscription,
    /// Something else, or a shape that nobody knows: kept, and without effect.
    Unknown,
}

/// A page of what a provider has moved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Page {
    pub rows: Vec<Row>,
    /// Rows that cannot be read, by what they call themselves: somebody has to look.
    pub unreadable: Vec<String>,
    /// Where the next page begins. None: this was the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Something that a provider has moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    pub id: String,
    pub kind: RowKind,
    /// Of the payment, as far as this row tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    pub ids: Ids,
    pub currency: String,
    pub amount_minor: i64,
    /// What the provider keeps of it, if it says so in whole units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fee_minor: Option<i64>,
    /// What is left of a payment that it pays out, if it says so in whole units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_minor: Option<i64>,
    pub settled: bool,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub settles_at: Option<Moment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    Payment,
    Refund,
    Chargeback,
    /// What has nothing to do with payments: a payout, a fee.
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_one_of_the_web() {
        for url in ["https://pay.example/3ds?a=b", "http://127.0.0.1:9000/page"] {
            assert_eq!(Shown::page(url), Some(Shown::Redirect { url: url.to_owned() }));
        }
        let long = format!("https://pay.example/{}", "a".repeat(URL_BYTES_MAX));
        for url in ["", "javascript:alert(1)", "data:text/html,x", "intent://pay", "//pay.example", "https://", &long] {
            assert_eq!(Shown::page(url), None, "{url}");
        }
    }
}
