//! Events: facts about a merchant, in the past tense.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ts_rs::TS;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Moment;
use crate::ids::{OutletId, PaymentId, ProductId, RefundId, RegisterId, SaleId, StaffId, VariantId};
use crate::quantity::Quantity;
use crate::topic::{Channel, Topic};
use crate::view::View;

/// Something that happened to a merchant: complete on its own, never edited once released.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, TS)]
#[serde(tag = "type", content = "data")]
pub enum Event {
    #[serde(rename = "sale.opened")]
    SaleOpened(SaleOpened),
    #[serde(rename = "sale.completed")]
    SaleCompleted(SaleCompleted),
    #[serde(rename = "sale.voided")]
    SaleVoided(SaleVoided),
    #[serde(rename = "payment.captured")]
    PaymentCaptured(PaymentCaptured),
    #[serde(rename = "payment.changed")]
    PaymentChanged(PaymentChanged),
    #[serde(rename = "refund.changed")]
    RefundChanged(RefundChanged),
    #[serde(rename = "stock.changed")]
    StockChanged(StockChanged),
    #[serde(rename = "stock.reserved")]
    StockReserved(StockReserved),
    #[serde(rename = "product.changed")]
    ProductChanged(ProductChanged),
    #[serde(rename = "outlet.opened")]
    OutletOpened(OutletOpened),
    #[serde(rename = "register.enrolled")]
    RegisterEnrolled(RegisterEnrolled),
    #[serde(rename = "access.revoked")]
    AccessRevoked(AccessRevoked),
    #[serde(rename = "alert.raised")]
    AlertRaised(AlertRaised),
}

impl Event {
    /// The word of every variant.
    pub const KINDS: &'static [&'static str] = &[
        "sale.opened",
        "sale.completed",
        "sale.voided",
        "payment.captured",
        "payment.changed",
        "refund.changed",
        "stock.changed",
        "stock.reserved",
        "product.changed",
        "outlet.opened",
        "register.enrolled",
        "access.revoked",
        "alert.raised",
    ];

    /// The channels on which this event is heard.
    pub fn channels(&self) -> Vec<Channel> {
        vec![match self {
            Self::SaleOpened(sale) => Topic::Sales.at(sale.outlet).by(sale.register),
            Self::SaleCompleted(sale) => Topic::Sales.at(sale.outlet).by(sale.register),
            Self::SaleVoided(sale) => Topic::Sales.at(sale.outlet).by(sale.register),
            Self::PaymentCaptured(payment) => Topic::Payments.at(payment.outlet).by(payment.register),
            Self::PaymentChanged(payment) => Topic::Payments.at(payment.outlet).by(payment.register),
            Self::RefundChanged(refund) => Topic::Payments.at(refund.outlet).by(refund.register),
            Self::StockChanged(level) => Topic::Stock.at(level.outlet),
            Self::StockReserved(reserved) => Topic::Stock.at(reserved.outlet),
            Self::ProductChanged(_) => Topic::Catalog.everywhere(),
            Self::OutletOpened(opened) => Topic::Outlets.at(opened.outlet),
            Self::RegisterEnrolled(enrolled) => Topic::Outlets.at(enrolled.outlet),
            Self::AccessRevoked(_) => Topic::Access.everywhere(),
            Self::AlertRaised(alert) => match (alert.outlet, alert.register) {
                (Some(outlet), Some(register)) => Topic::Alerts.at(outlet).by(register),
                (Some(outlet), None) => Topic::Alerts.at(outlet),
                (None, _) => Topic::Alerts.everywhere(),
            },
        }]
    }

    /// The least view that hears of it at all.
    pub fn least_view(&self) -> View {
        match self {
            Self::SaleOpened(_)
            | Self::SaleCompleted(_)
            | Self::SaleVoided(_)
            | Self::StockChanged(_)
            | Self::StockReserved(_)
            | Self::ProductChanged(_)
            | Self::OutletOpened(_)
            | Self::RegisterEnrolled(_) => View::Display,
            Self::PaymentCaptured(_) | Self::PaymentChanged(_) | Self::RefundChanged(_) => View::Till,
            Self::AccessRevoked(_) | Self::AlertRaised(_) => View::Office,
        }
    }

    /// Where it happened.
    pub fn place(&self) -> (Option<OutletId>, Option<RegisterId>) {
        match self {
            Self::SaleOpened(sale) => (Some(sale.outlet), Some(sale.register)),
            Self::SaleCompleted(sale) => (Some(sale.outlet), Some(sale.register)),
            Self::SaleVoided(sale) => (Some(sale.outlet), Some(sale.register)),
            Self::PaymentCaptured(payment) => (Some(payment.outlet), Some(payment.register)),
            Self::PaymentChanged(payment) => (Some(payment.outlet), Some(payment.register)),
            Self::RefundChanged(refund) => (Some(refund.outlet), Some(refund.register)),
            Self::StockChanged(level) => (Some(level.outlet), None),
            Self::StockReserved(reserved) => (Some(reserved.outlet), None),
            Self::OutletOpened(opened) => (Some(opened.outlet), None),
            Self::RegisterEnrolled(enrolled) => (Some(enrolled.outlet), Some(enrolled.register)),
            Self::AlertRaised(alert) => (alert.outlet, alert.register),
            Self::ProductChanged(_) | Self::AccessRevoked(_) => (None, None),
        }
    }
}

/// A sale was opened: its lines are priced and reserved, and it waits for the rest of its payments. `sale.completed` or
/// `sale.voided` will say how it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, TS)]
pub struct SaleOpened {
    pub sale: SaleId,
    /// The receipt's number, unique for the merchant. It keeps it, however it ends.
    pub number: String,
    pub outlet: OutletId,
    pub register: RegisterId,
    pub currency: String,
    pub lines: Vec<SaleLine>,
    /// The lines before any discount.
    #[ts(type = "number")]
    pub subtotal_minor: i64,
    /// All discounts, of lines and of the sale.
    #[ts(type = "number")]
    pub discount_minor: i64,
    #[ts(type = "number")]
    pub total_minor: i64,
    /// What was paid as it was opened.
    pub tenders: Vec<Tender>,
    /// What is still to be paid.
    #[ts(type = "number")]
    pub due_minor: i64,
    /// When it ends by itself, if nothing of it is paid by then. Something may hold that up.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    #[ts(type = "string")]
    pub expires_at: Moment,
}

/// A sale was completed: its lines are out of stock and its total is paid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, TS, ToSchema)]
pub struct SaleCompleted {
    pub sale: SaleId,
    /// The receipt's number, unique for the merchant.
    pub number: String,
    pub outlet: OutletId,
    pub register: RegisterId,
    /// The day it counts for at the outlet, as `YYYY-MM-DD`.
    pub business_date: String,
    /// ISO 4217. Amounts are integers in its minor unit; the rupiah's is the rupiah.
    pub currency: String,
    pub lines: Vec<SaleLine>,
    /// The lines before any discount.
    #[ts(type = "number")]
    pub subtotal_minor: i64,
    /// All discounts, of lines and of the sale.
    #[ts(type = "number")]
    pub discount_minor: i64,
    #[ts(type = "number")]
    pub total_minor: i64,
    pub tenders: Vec<Tender>,
}

/// An open sale came to nothing: nothing of it was sold, and what was reserved for it is free. Its number is not used again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, TS)]
pub struct SaleVoided {
    pub sale: SaleId,
    pub number: String,
    pub outlet: OutletId,
    pub register: RegisterId,
    pub currency: String,
    #[ts(type = "number")]
    pub total_minor: i64,
    pub reason: VoidReason,
    /// What somebody said of it who voided it.
    pub note: Option<String>,
}

/// Why an open sale came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, TS)]
#[serde(rename_all = "snake_case")]
pub enum VoidReason {
    /// Somebody voided it.
    Voided,
    /// It was not paid in time.
    Expired,
}

impl VoidReason {
    /// The word on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Voided => "voided",
            Self::Expired => "expired",
        }
    }
}

/// A line of a sale.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, TS, ToSchema)]
pub struct SaleLine {
    /// From 1, as on the receipt.
    pub line: u32,
    pub variant: VariantId,
    pub sku: String,
    /// The name as it was on the day.
    pub name: String,
    pub quantity: Quantity,
    #[ts(type = "number")]
    pub unit_price_minor: i64,
    /// The line's own discount and its share of the sale's.
    #[ts(type = "number")]
    pub discount_minor: i64,
    #[ts(type = "number")]
    pub total_minor: i64,
}

/// How a sale was paid, or a part of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, TS, ToSchema)]
pub struct Tender {
    pub payment: PaymentId,
    pub method: Method,
    /// What it pays of the sale.
    #[ts(type = "number")]
    pub amount_minor: i64,
    /// What was handed over; more than the amount only for cash.
    #[ts(type = "number")]
    pub tendered_minor: i64,
    /// What was given back.
    #[ts(type = "number")]
    pub change_minor: i64,
}

/// A way to pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, TS, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    Cash,
    Card,
    Qris,
    // As ways to pay by providers are listed: whoever asks for one may say what they read there.
    #[serde(alias = "bank_transfer")]
    Transfer,
    Ewallet,
}

impl Method {
    /// The word on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cash => "cash",
            Self::Card => "card",
            Self::Qris => "qris",
            Self::Transfer => "transfer",
            Self::Ewallet => "ewallet",
        }
    }

    /// Reads the word.
    pub fn of(word: &str) -> Option<Self> {
        [Self::Cash, Self::Card, Self::Qris, Self::Transfer, Self::Ewallet].into_iter().find(|it| it.as_str() == word)
    }
}

/// Money arrived for a sale.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, TS)]
pub struct PaymentCaptured {
    pub payment: PaymentId,
    pub sale: SaleId,
    pub outlet: OutletId,
    pub register: RegisterId,
    pub method: Method,
    pub currency: String,
    #[ts(type = "number")]
    pub amount_minor: i64,
    #[ts(type = "number")]
    pub tendered_minor: i64,
    #[ts(type = "number")]
    pub change_minor: i64,
    /// What is due of its sale after that: at 0 it is paid. Entries from before it was told do not say.
    #[serde(default)]
    #[ts(type = "number | null")]
    pub due_minor: Option<i64>,
}

/// A payment that a provider carries has come to another state, or has something new to show. That it is paid is told by
/// `payment.captured`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, TS, ToSchema)]
pub struct PaymentChanged {
    pub payment: PaymentId,
    pub sale: SaleId,
    pub outlet: OutletId,
    pub register: RegisterId,
    /// Who carries it: `midtrans`, `xendit`. There will be others.
    pub provider: String,
    /// `qris`, `bank_transfer` or `card`. There will be others.
    pub method: String,
    /// Which bank a transfer goes to.
    pub bank: Option<String>,
    pub currency: String,
    #[ts(type = "number")]
    pub amount_minor: i64,
    pub state: PaymentState,
    /// What the customer is shown to pay with, while they can.
    pub shown: Option<PaymentShown>,
    /// When it is called off by itself.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    #[ts(type = "string")]
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Moment,
    /// Why it failed, or why the money that is held was not taken: a word of ours where its provider refused what it was asked for,
    /// else as it names it.
    pub failure: Option<String>,
    /// That somebody has taken it for paid before its provider said so. Its sale is paid by it.
    #[serde(default)]
    pub forced: Option<PaymentForced>,
    /// The other sale that its money pays, since a person has said so: it was late for its own.
    #[serde(default)]
    pub accepted_for: Option<SaleId>,
}

/// That somebody has taken a payment for paid which its provider has not confirmed yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, TS, ToSchema)]
pub struct PaymentForced {
    pub by: StaffId,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    #[ts(type = "string")]
    #[schema(value_type = String, format = DateTime)]
    pub at: Moment,
    /// In their own words.
    pub reason: String,
}

/// Where a payment stands that a provider carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, TS, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PaymentState {
    /// The provider has not answered yet.
    Created,
    /// The provider was asked and did not answer: it may know of the payment or not.
    Unknown,
    /// The customer can pay.
    Pending,
    /// The provider looks into it.
    Review,
    /// A card's money is held, and not taken yet.
    Authorized,
    /// Paid.
    Paid,
    /// The provider has passed the money on.
    Settled,
    PartiallyRefunded,
    Refunded,
    /// It was refused.
    Failed,
    /// It was called off.
    Canceled,
    /// Its time was over.
    Expired,
    /// Paid after it, or its sale, had ended: a person has to say what becomes of the money.
    PaidLate,
    /// The bank has taken back what it had confirmed.
    Reversed,
    /// The customer's bank has taken the money back.
    ChargedBack,
}

/// What a customer is shown to pay with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, TS, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PaymentShown {
    /// The text of a QR code.
    Qr { text: String },
    /// A number to transfer to.
    VirtualAccount { bank: String, number: String },
    /// Mandiri's bill payment: a company and a bill.
    Bill { biller_code: String, bill_key: String },
    /// A page to open.
    Redirect { url: String },
}

/// A refund of a payment that a provider carries was asked for, or has come to another state. Once `succeeded` it is what the
/// payment was refunded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, TS, ToSchema)]
pub struct RefundChanged {
    pub refund: RefundId,
    pub payment: PaymentId,
    /// The sale that the payment pays or, where it was late, once was for.
    pub sale: SaleId,
    pub outlet: OutletId,
    pub register: RegisterId,
    pub currency: String,
    #[ts(type = "number")]
    pub amount_minor: i64,
    pub state: RefundState,
    /// Why it failed: a word of ours where its provider refused what it was asked for, else as it names it.
    pub failure: Option<String>,
    /// What of the payment has been given back by now.
    #[ts(type = "number")]
    pub refunded_minor: i64,
}

/// Where a refund stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, TS, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefundState {
    /// The provider has not answered yet.
    Created,
    /// The provider was asked and did not answer: it may have taken it on or not.
    Unknown,
    /// The provider has taken it on, and the bank has not confirmed it.
    Pending,
    /// The money went back.
    Succeeded,
    /// It was refused: the money is where it was.
    Failed,
    /// It was called off at the provider: the money is where it was.
    Canceled,
}

/// The level of a variant at an outlet is now another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, TS)]
pub struct StockChanged {
    pub outlet: OutletId,
    pub variant: VariantId,
    pub sku: String,
    pub name: String,
    /// What is there now.
    pub on_hand: Quantity,
    /// By how much it changed; negative for what left.
    pub change: Quantity,
    pub reason: StockReason,
    /// The document that moved it: a sale, a delivery, a count.
    pub document: Option<Uuid>,
}

/// What open sales have reserved of some variants at an outlet is now something else. None of it has moved: what is there to
/// be sold is what is on hand, less this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, TS)]
pub struct StockReserved {
    pub outlet: OutletId,
    /// The sale that reserved it, or has let go of it.
    pub sale: SaleId,
    /// Each variant once.
    pub levels: Vec<ReservedLevel>,
}

/// How much of a variant is reserved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, TS)]
pub struct ReservedLevel {
    pub variant: VariantId,
    pub sku: String,
    pub name: String,
    /// How much is reserved now, by all open sales.
    pub reserved: Quantity,
    /// By how much that changed; negative for what was let go of.
    pub change: Quantity,
}

/// Why stock moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, TS, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StockReason {
    /// Sold.
    Sale,
    /// Bought in.
    Received,
    /// Corrected after a count.
    Counted,
    /// Broken, spoiled or stolen.
    Lost,
}

impl StockReason {
    /// The word on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sale => "sale",
            Self::Received => "received",
            Self::Counted => "counted",
            Self::Lost => "lost",
        }
    }

    /// Reads the word.
    pub fn of(word: &str) -> Option<Self> {
        [Self::Sale, Self::Received, Self::Counted, Self::Lost].into_iter().find(|it| it.as_str() == word)
    }
}

/// A product is new or was changed; this is all of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, TS)]
pub struct ProductChanged {
    pub product: ProductId,
    pub name: String,
    pub department: Option<String>,
    pub category: Option<String>,
    pub brand: Option<String>,
    pub package: Option<String>,
    pub currency: String,
    /// Whether it can be sold.
    pub active: bool,
    /// Counts the changes of this product, from 1.
    #[ts(type = "number")]
    pub version: i64,
    pub variants: Vec<VariantState>,
}

/// A variant, as an event or a snapshot shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, TS, ToSchema)]
pub struct VariantState {
    pub variant: VariantId,
    pub sku: String,
    /// What tells it from the product's other variants, if it has any.
    pub name: Option<String>,
    /// Its price for one unit.
    #[ts(type = "number")]
    pub price_minor: i64,
    pub barcodes: Vec<String>,
}

/// The merchant opened an outlet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, TS)]
pub struct OutletOpened {
    pub outlet: OutletId,
    pub code: String,
    pub name: String,
    /// An IANA name such as `Asia/Jakarta`.
    pub time_zone: String,
}

/// An outlet has a new register.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, TS)]
pub struct RegisterEnrolled {
    pub outlet: OutletId,
    pub register: RegisterId,
    pub code: String,
    pub name: String,
}

/// Someone's tokens are no longer good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, TS)]
pub struct AccessRevoked {
    pub staff: StaffId,
    /// Tokens issued up to this moment are dead.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    #[ts(type = "string")]
    pub issued_until: Moment,
}

/// Something that a person should look at. It is complete for whoever reads it, and holds no secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, TS)]
pub struct AlertRaised {
    /// What it is about, as a word for programs: `webhook_disabled`, `sale_not_paid`. There will be others.
    pub alert: String,
    pub severity: Severity,
    /// In a few words of plain English.
    pub title: String,
    /// In a sentence or two: what happened, and what to do.
    pub detail: String,
    /// The id of what it is about, such as the webhook's.
    pub subject: Option<String>,
    pub outlet: Option<OutletId>,
    pub register: Option<RegisterId>,
}

/// How soon somebody should look.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, TS, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// For the record.
    Info,
    /// Soon: something does not work as it should.
    Warning,
    /// Now: something is lost, or is about to be.
    Critical,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::EventKind;
    use crate::topic::TOPICS;

    #[test]
    fn every_variant_is_in_the_list_and_in_one_topic() {
        let variants: Vec<String> = EventKind::all().into_iter().map(|kind| kind.name).collect();
        assert_eq!(variants, Event::KINDS);
        let mut listed: Vec<&str> = TOPICS.iter().flat_map(|row| row.events).copied().collect();
        let mut variants = Event::KINDS.to_vec();
        listed.sort_unstable();
        variants.sort_unstable();
        assert_eq!(listed, variants);
    }

    #[test]
    fn an_event_is_heard_where_the_table_says() {
        for kind in EventKind::all() {
            for channel in kind.sample.channels() {
                let row = channel.topic.row();
                assert!(row.events.contains(&kind.name.as_str()), "{} is heard on {channel}", kind.name);
                assert_eq!(channel.to_string().parse(), Ok(channel), "{} is heard where nobody can join", kind.name);
            }
        }
    }

    #[test]
    fn whoever_may_join_a_topic_hears_all_of_it() {
        for kind in EventKind::all() {
            for role in kind.sample.channels().iter().flat_map(|channel| channel.topic.row().roles) {
                assert!(role.view() >= kind.sample.least_view(), "{role:?} joins and never hears {}", kind.name);
            }
        }
    }
}
