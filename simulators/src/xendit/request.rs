//! A payment request and its payments: what they are, and how endpoints and webhooks tell of them.

use serde_json::{Map, Value, json};

use super::channel::{Channel, Kind as ChannelKind};
use crate::clock::Moment;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    RequiresAction,
    AcceptingPayments,
    Authorized,
    Succeeded,
    Failed,
    Canceled,
    Expired,
}

impl Status {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequiresAction => "REQUIRES_ACTION",
            Self::AcceptingPayments => "ACCEPTING_PAYMENTS",
            Self::Authorized => "AUTHORIZED",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Canceled => "CANCELED",
            Self::Expired => "EXPIRED",
        }
    }

    pub const fn is_open(self) -> bool {
        matches!(self, Self::RequiresAction | Self::AcceptingPayments)
    }
}

/// Which API it was made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    V3,
    /// Payments v2, whose clients are still about.
    V2,
}

pub struct Request {
    pub id: String,
    /// The account's business id.
    pub account: String,
    /// Whose it is said to be: the account's, or a sub-account's.
    pub business_id: String,
    pub reference: String,
    /// `PAY`, `PAY_AND_SAVE` or `REUSABLE_PAYMENT_CODE`.
    pub kind: &'static str,
    pub amount: Option<i64>,
    pub currency: String,
    pub is_manual: bool,
    pub channel: &'static Channel,
    /// As they are shown: without a card's number.
    pub properties: Value,
    /// The QR code's text or the virtual account's number.
    pub code: String,
    /// Of a card, which customer has to be asked.
    pub is_challenged: bool,
    pub status: Status,
    pub failure: Option<String>,
    pub latest_payment: Option<String>,
    pub created: Moment,
    pub updated: Moment,
    pub expires: Moment,
    /// What was said and is said again: description, customer, items, metadata…
    pub echoed: Map<String, Value>,
    pub api: Api,
}

impl Request {
    pub fn names(&self) -> Vec<String> {
        vec![self.reference.clone(), self.id.clone()]
    }

    pub fn is_reusable(&self) -> bool {
        self.kind == "REUSABLE_PAYMENT_CODE"
    }

    /// What a payment has of it as well.
    fn shared(&self) -> Map<String, Value> {
        let mut all = fields(json!({
            "business_id": self.business_id,
            "reference_id": self.reference,
            "payment_request_id": self.id,
            "type": self.kind,
            "country": "ID",
            "currency": self.currency,
            "capture_method": if self.is_manual { "MANUAL" } else { "AUTOMATIC" },
            "channel_code": self.channel.code,
            "channel_properties": self.properties,
        }));
        if let Some(amount) = self.amount {
            all.insert("request_amount".into(), amount.into());
        }
        all
    }

    /// The PaymentRequest.
    pub fn shown(&self, base: &str, latest: Option<&Payment>) -> Value {
        let mut all = self.shared();
        all.append(&mut fields(json!({
            "actions": self.actions(base),
            "status": self.status.as_str(),
            "created": self.created,
            "updated": self.updated,
        })));
        if let Some(failure) = &self.failure {
            all.insert("failure_code".into(), failure.as_str().into());
        }
        if let Some(id) = &self.latest_payment {
            all.insert("latest_payment_id".into(), id.as_str().into());
        }
        if self.channel.kind == ChannelKind::Card
            && let Some(payment) = latest.filter(|_| !self.status.is_open())
        {
            all.insert("latest_payment".into(), payment.shown(self));
        }
        all.append(&mut self.echoed.clone());
        Value::Object(all)
    }

    fn actions(&self, base: &str) -> Value {
        let action = |kind: &str, descriptor: &str, value: &str| json!([{ "type": kind, "descriptor": descriptor, "value": value }]);
        match self.channel.kind {
            _ if !self.status.is_open() => json!([]),
            ChannelKind::Qr => action("PRESENT_TO_CUSTOMER", "QR_STRING", &self.code),
            ChannelKind::Va => action("PRESENT_TO_CUSTOMER", "VIRTUAL_ACCOUNT_NUMBER", &self.code),
            ChannelKind::Card => action("REDIRECT_CUSTOMER", "WEB_URL", &format!("{base}/3ds/{}", self.id)),
        }
    }
}

pub struct Capture {
    pub id: String,
    pub amount: i64,
    pub at: Moment,
}

pub struct Payment {
    pub id: String,
    pub request: String,
    pub amount: i64,
    pub status: &'static str,
    pub captures: Vec<Capture>,
    pub failure: Option<String>,
    pub issuer: String,
    pub details: Value,
    pub created: Moment,
    pub updated: Moment,
    pub settled: Option<Moment>,
}

impl Payment {
    pub fn captured(&self) -> i64 {
        self.captures.iter().map(|it| it.amount).sum()
    }

    /// The Payment, as `GET /v3/payments/{id}` and webhooks have it.
    pub fn shown(&self, request: &Request) -> Value {
        let mut all = request.shared();
        let captures: Vec<Value> = self
            .captures
            .iter()
            .map(|it| json!({ "capture_timestamp": it.at, "capture_id": it.id, "capture_amount": it.amount }))
            .collect();
        all.append(&mut fields(json!({
            "payment_id": self.id,
            "captures": captures,
            "status": self.status,
            "created": self.created,
            "updated": self.updated,
        })));
        // A code that is used again and again asks for no amount.
        all.entry("request_amount").or_insert(self.amount.into());
        if let Some(failure) = &self.failure {
            all.insert("failure_code".into(), failure.as_str().into());
        }
        if !self.details.is_null() {
            all.insert("payment_details".into(), self.details.clone());
        }
        for name in ["metadata", "customer_id"] {
            if let Some(said) = request.echoed.get(name) {
                all.insert(name.into(), said.clone());
            }
        }
        Value::Object(all)
    }
}

/// The fields of a JSON object.
pub fn fields(object: Value) -> Map<String, Value> {
    match object {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
