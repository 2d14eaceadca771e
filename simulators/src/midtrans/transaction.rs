//! A transaction: what it is, where it stands, and how each endpoint and each notification tells of it.

use std::time::Duration;

use aws_lc_rs::digest::{SHA512, digest};
use serde_json::{Map, Value, json};

use super::refund::Refund;
use crate::account::MidtransAccount;
use crate::clock::Moment;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Pending,
    Authorize,
    Capture,
    Settlement,
    Deny,
    Cancel,
    Expire,
    PartialRefund,
    Refund,
    PartialChargeback,
    Chargeback,
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Authorize => "authorize",
            Self::Capture => "capture",
            Self::Settlement => "settlement",
            Self::Deny => "deny",
            Self::Cancel => "cancel",
            Self::Expire => "expire",
            Self::PartialRefund => "partial_refund",
            Self::Refund => "refund",
            Self::PartialChargeback => "partial_chargeback",
            Self::Chargeback => "chargeback",
        }
    }

    /// Whether its order id may not be used again.
    pub const fn holds_the_order(self) -> bool {
        !matches!(self, Self::Deny | Self::Cancel | Self::Expire)
    }

    /// Whether the customer's money has come.
    pub const fn is_paid(self) -> bool {
        matches!(self, Self::Capture | Self::Settlement | Self::PartialRefund)
    }
}

/// How it is paid.
#[derive(Clone)]
pub enum Method {
    Qris {
        acquirer: &'static str,
    },
    /// BCA, BNI, BRI and CIMB.
    Va {
        bank: &'static str,
        number: String,
    },
    Permata {
        number: String,
    },
    Echannel {
        bill_key: String,
    },
    Card(Box<Card>),
}

/// Mandiri's biller code for Midtrans.
pub const BILLER_CODE: &str = "70012";

impl Method {
    /// As answers call it.
    pub fn payment_type(&self) -> &'static str {
        match self {
            Self::Qris { .. } => "qris",
            Self::Va { .. } | Self::Permata { .. } => "bank_transfer",
            Self::Echannel { .. } => "echannel",
            Self::Card(_) => "credit_card",
        }
    }

    /// Of a virtual account or a bill: what a customer enters.
    pub fn number(&self) -> Option<&str> {
        match self {
            Self::Va { number, .. } | Self::Permata { number } => Some(number),
            Self::Echannel { bill_key } => Some(bill_key),
            Self::Qris { .. } | Self::Card(_) => None,
        }
    }
}

#[derive(Clone)]
pub struct Card {
    /// The first eight digits and the last four.
    pub masked: String,
    pub outcome: super::cards::Outcome,
    pub is_authorize: bool,
    pub is_3ds: bool,
    /// What the bank said: a code, and its words.
    pub said: Option<(&'static str, &'static str)>,
    pub approval_code: String,
}

/// What the customer's side did.
#[derive(Clone)]
pub struct Paid {
    /// The app or the bank, in lower case.
    pub issuer: String,
    pub at: Moment,
    pub cross_reference: String,
    pub shopeepay_reference: String,
}

pub struct Transaction {
    pub id: String,
    pub order_id: String,
    /// Whose it is.
    pub merchant_id: String,
    /// Whose it is said to be.
    pub shown_merchant: String,
    pub gross: i64,
    pub currency: String,
    pub method: Method,
    pub state: State,
    pub fraud: &'static str,
    pub created: Moment,
    pub expires: Option<Moment>,
    pub expiry_name: &'static str,
    pub paid: Option<Paid>,
    pub settled: Option<Moment>,
    /// When the money was ours to use.
    pub available: Option<Moment>,
    pub refunds: Vec<Refund>,
    pub charged_back: i64,
    /// Where its notifications go, if not where all do; and where they go as well.
    pub urls_instead: Option<Vec<String>>,
    pub urls_besides: Vec<String>,
    pub qr: String,
    pub qr_id: String,
    /// `metadata` and the custom fields, as they came.
    pub echoed: Map<String, Value>,
}

/// Who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    Status,
    Notification,
}

impl Transaction {
    /// One that waits for its money. It is in rupiah, has no end, no code to scan and nobody to tell but all who are told.
    pub fn new(id: String, order_id: String, merchant_id: &str, gross: i64, method: Method, created: Moment) -> Self {
        Self {
            id,
            order_id,
            merchant_id: merchant_id.to_owned(),
            shown_merchant: merchant_id.to_owned(),
            gross,
            currency: "IDR".into(),
            method,
            state: State::Pending,
            fraud: "accept",
            created,
            expires: None,
            expiry_name: "expiry_time",
            paid: None,
            settled: None,
            available: None,
            refunds: Vec::new(),
            charged_back: 0,
            urls_instead: None,
            urls_besides: Vec::new(),
            qr: String::new(),
            qr_id: String::new(),
            echoed: Map::new(),
        }
    }

    pub fn names(&self) -> Vec<String> {
        vec![self.order_id.clone(), self.id.clone()]
    }

    /// What a customer reads or types: the text of a QR code, or a number.
    pub fn code_text(&self) -> &str {
        self.method.number().unwrap_or(&self.qr)
    }

    /// The body's `status_code`.
    pub fn code(&self, telling: Telling) -> &'static str {
        match (self.state, telling) {
            (State::Pending, _) => "201",
            (State::Capture | State::Authorize, _) if self.fraud == "challenge" => "201",
            (State::Deny, _) | (State::Cancel | State::Expire, Telling::Notification) => "202",
            (State::Expire, Telling::Status) => "407",
            _ => "200",
        }
    }

    pub fn refunded(&self) -> i64 {
        self.refunds.iter().map(|it| it.amount).sum()
    }

    pub fn gross_text(&self) -> String {
        rupiah(self.gross)
    }

    /// What every answer about it has.
    pub fn common(&self, code: &str, message: &str) -> Map<String, Value> {
        let mut all = fields(json!({
            "status_code": code,
            "status_message": message,
            "transaction_id": self.id,
            "order_id": self.order_id,
            "merchant_id": self.shown_merchant,
            "gross_amount": self.gross_text(),
            "currency": self.currency,
            "payment_type": self.method.payment_type(),
            "transaction_time": self.created.jakarta(),
            "transaction_status": self.state.as_str(),
            "fraud_status": self.fraud,
        }));
        if let Some(expires) = self.expires {
            all.insert(self.expiry_name.into(), expires.jakarta().into());
        }
        match &self.method {
            Method::Qris { acquirer } => {
                all.insert("acquirer".into(), (*acquirer).into());
            }
            Method::Va { bank, number } => {
                all.insert("va_numbers".into(), json!([{ "bank": bank, "va_number": number }]));
            }
            Method::Permata { number } => {
                all.insert("permata_va_number".into(), number.as_str().into());
            }
            Method::Echannel { bill_key } => {
                all.insert("biller_code".into(), BILLER_CODE.into());
                all.insert("bill_key".into(), bill_key.as_str().into());
            }
            Method::Card(card) => all.append(&mut fields(json!({
                "masked_card": card.masked,
                "bank": "bni",
                "card_type": "credit",
            }))),
        }
        all
    }

    /// The same with what became known later, as GET status and notifications tell it. It is not signed yet.
    pub fn told(&self, telling: Telling) -> Map<String, Value> {
        let message = match telling {
            Telling::Status => "Success, transaction is found",
            Telling::Notification => "midtrans payment notification",
        };
        let mut all = self.common(self.code(telling), message);
        if let Some(settled) = self.settled {
            all.insert("settlement_time".into(), settled.jakarta().into());
        }
        match (&self.method, &self.paid) {
            (Method::Qris { acquirer }, Some(paid)) => {
                let of_the_acquirer = if *acquirer == "gopay" { "gopay" } else { "shopeepay" };
                let on_us = paid.issuer == of_the_acquirer;
                all.insert("transaction_type".into(), if on_us { "on-us" } else { "off-us" }.into());
                all.insert("issuer".into(), paid.issuer.as_str().into());
                all.insert("merchant_cross_reference_id".into(), paid.cross_reference.as_str().into());
                if *acquirer != "gopay" {
                    all.insert("shopeepay_reference_number".into(), paid.shopeepay_reference.as_str().into());
                    all.insert("reference_id".into(), self.qr_id.as_str().into());
                }
            }
            (Method::Va { bank, .. }, Some(paid)) => {
                let amounts = match *bank {
                    "bni" => json!([{ "paid_at": paid.at.jakarta(), "amount": self.gross_text() }]),
                    _ => json!([]),
                };
                all.insert("payment_amounts".into(), amounts);
            }
            (Method::Card(card), _) if card.said.is_some() => {
                let (code, words) = card.said.unwrap_or_default();
                all.append(&mut fields(json!({ "channel_response_code": code, "channel_response_message": words })));
                if code == "00" {
                    all.insert("approval_code".into(), card.approval_code.as_str().into());
                    all.insert("eci".into(), if card.is_3ds { "05" } else { "07" }.into());
                }
            }
            _ => {}
        }
        if !self.refunds.is_empty() {
            all.insert("refund_amount".into(), rupiah(self.refunded()).into());
            all.insert("refunds".into(), self.refunds.iter().map(Refund::told).collect());
        }
        if self.charged_back > 0 {
            all.insert("chargeback_amount".into(), rupiah(self.charged_back).into());
        }
        all.append(&mut self.echoed.clone());
        all
    }
}

/// Puts the signature into what is told, over the texts as they stand there.
pub fn sign(told: &mut Map<String, Value>, server_key: &str) {
    let text = |name: &str| told.get(name).and_then(Value::as_str).unwrap_or_default();
    let signature = signature(text("order_id"), text("status_code"), text("gross_amount"), server_key);
    told.insert("signature_key".into(), signature.into());
}

/// Lower-case hexadecimal of SHA-512.
pub fn signature(order_id: &str, status_code: &str, gross_amount: &str, server_key: &str) -> String {
    let text = [order_id, status_code, gross_amount, server_key].concat();
    digest(&SHA512, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `48500.00`
pub fn rupiah(amount: i64) -> String {
    format!("{amount}.00")
}

/// The fields of a JSON object.
pub fn fields(object: Value) -> Map<String, Value> {
    match object {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// How long a transaction may wait for its money, by method: the usual, and the most.
pub fn life(method: &Method) -> (Duration, Duration) {
    const MINUTE: u64 = 60;
    const DAY: u64 = 24 * 60 * MINUTE;
    let (usual, most) = match method {
        Method::Qris { acquirer: "gopay" } => (15 * MINUTE, 7 * DAY),
        Method::Qris { .. } => (15 * MINUTE, 5 * DAY),
        // 3DS.
        Method::Card(_) => (10 * MINUTE, 10 * MINUTE),
        _ => (DAY, 180 * DAY),
    };
    (Duration::from_secs(usual), Duration::from_secs(most))
}

/// What an account's transactions may be, in rupiah.
pub fn limits(method: &Method) -> (i64, i64) {
    match method {
        Method::Qris { .. } => (1, crate::qris::AMOUNT_MAX),
        Method::Card(_) => (10_000, 999_999_999),
        Method::Echannel { .. } => (1, 50_000_000_000),
        Method::Permata { .. } => (1, 9_999_999_999),
        Method::Va { bank: "bca", .. } => (10_000, 20_000_000_000),
        Method::Va { bank: "bri", .. } => (1, 20_000_000_000),
        Method::Va { bank: "cimb", .. } => (1, 250_000_000),
        Method::Va { .. } => (1, crate::AMOUNT_MAX),
    }
}

/// What a payment brings after the provider's fee, in rupiah. The fees are made up: 0.7 % of QRIS, 4 000 of a transfer,
/// 2.9 % and 2 000 of a card.
pub fn net(transaction: &Transaction) -> i64 {
    let gross = transaction.gross;
    gross
        - match transaction.method {
            Method::Qris { .. } => gross * 7 / 1_000,
            Method::Card(_) => gross * 29 / 1_000 + 2_000,
            _ => 4_000,
        }
}

/// Where notifications of a transaction go.
pub fn urls(transaction: &Transaction, account: &MidtransAccount) -> Vec<String> {
    let all = transaction.urls_instead.as_ref().unwrap_or(&account.webhook_urls);
    all.iter().chain(&transaction.urls_besides).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_vectors_hold() {
        let signature =
            |code| signature("POS01-260114-000123-a1", code, "48500.00", "SB-Mid-server-EXAMPLEKEY1234567890ab");
        assert_eq!(
            signature("200"),
            "db2a6559d04b65919bd98da2578556121517604e552112949d56676428f15d8f3d400e97466853ea7836c4ee4f38ae5d285b5fc023ec1e6ec101f0805b710f5e"
        );
        assert_eq!(
            signature("201"),
            "b0fea39ef72db3d5c2882ee87789b1c65b44f809055a1c9d25d21ac675aeafdde23aebd91b1c018c2400b699bad8e5a0bb0f04bbf5cf953cb717de09fd4c1d56"
        );
        assert_eq!(
            signature("202"),
            "96638cf6d153e4485503191dc3b1fe143378eb4ae6fc271940d85ed4723ee0366470ed934dc8885a3c6249da647c8a287cb8e5fe4a429859fd4fc7b25cd0c376"
        );
    }
}
