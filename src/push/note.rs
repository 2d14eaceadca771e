//! Notes: what an event says to a person's device, in how many words, in which language and for how long.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tillwire_channels::{MerchantId, Moment, OutletId, Position, Stored, View, view};
use utoipa::ToSchema;

/// The longest title, in bytes.
const TITLE_BYTES_MAX: usize = 300;
/// The longest text, in bytes. With the title, all of it escaped, and what goes with them, it fits wherever it is sent.
const BODY_BYTES_MAX: usize = 1_000;
/// How much of the digest of a note's place names it: 32 characters, which is what Web Push allows.
const COLLAPSE_BYTES: usize = 24;

/// What a person may choose to be told about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    Payments,
    Alerts,
}

impl About {
    /// What an event of this type is about; nothing that anybody is told, for most.
    pub fn of(kind: &str) -> Option<Self> {
        match kind {
            "payment.captured" => Some(Self::Payments),
            "alert.raised" => Some(Self::Alerts),
            _ => None,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Payments => "payments",
            Self::Alerts => "alerts",
        }
    }

    /// How long after it was recorded somebody still wants to be told.
    pub fn age_max(self) -> Duration {
        match self {
            Self::Payments => Duration::from_secs(15 * 60),
            Self::Alerts => Duration::from_secs(24 * 3600),
        }
    }
}

/// The language of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Locale {
    #[default]
    Id,
    En,
}

impl Locale {
    pub fn word(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::En => "en",
        }
    }

    pub fn of(word: &str) -> Option<Self> {
        [Self::Id, Self::En].into_iter().find(|it| it.word() == word)
    }
}

/// What one device is sent.
#[derive(Clone, Debug)]
pub struct Message {
    pub merchant: MerchantId,
    /// Where in the journal it stands; none of a test.
    pub position: Option<Position>,
    /// The type of the event.
    pub kind: String,
    pub outlet: Option<OutletId>,
    pub title: String,
    pub body: String,
    /// Two with the same are one: the later takes the place of the earlier. 32 characters of URL-safe base64.
    pub collapse: String,
    pub expires_at: Moment,
}

/// What an app or a service worker is given.
#[derive(Debug, Serialize)]
pub struct Payload<'a> {
    pub merchant: MerchantId,
    pub position: Option<Position>,
    #[serde(rename = "type")]
    pub kind: &'a str,
    pub outlet: Option<OutletId>,
    pub title: &'a str,
    pub body: &'a str,
    pub tag: &'a str,
}

impl Message {
    /// What an event says, as a view sees it. `outlet_name` is where it happened.
    pub fn of(
        merchant: MerchantId,
        position: Position,
        event: &Stored,
        view: View,
        locale: Locale,
        outlet_name: Option<&str>,
        expires_at: Moment,
    ) -> Self {
        let data = seen_by(view, event);
        let (title, body) = match About::of(&event.kind) {
            Some(About::Payments) => payment(&data, locale, outlet_name),
            _ => alert(&data, locale, outlet_name),
        };
        Self {
            merchant,
            position: Some(position),
            kind: event.kind.to_string(),
            outlet: event.outlet,
            title: shown(&title, TITLE_BYTES_MAX),
            body: shown(&body, BODY_BYTES_MAX),
            collapse: collapse(merchant, &position.to_string()),
            expires_at,
        }
    }

    /// One that only shows that the device is reached, told from others by a key.
    pub fn test(merchant: MerchantId, key: &str, locale: Locale, expires_at: Moment) -> Self {
        let (title, body) = match locale {
            Locale::Id => ("Tillwire", "Pemberitahuan di perangkat ini berfungsi."),
            Locale::En => ("Tillwire", "Notifications reach this device."),
        };
        Self {
            merchant,
            position: None,
            kind: "push.test".to_owned(),
            outlet: None,
            title: title.to_owned(),
            body: body.to_owned(),
            collapse: collapse(merchant, &format!("test {key}")),
            expires_at,
        }
    }

    pub fn payload(&self) -> Payload<'_> {
        let Self { merchant, position, kind, outlet, title, body, collapse, .. } = self;
        Payload { merchant: *merchant, position: *position, kind, outlet: *outlet, title, body, tag: collapse }
    }

    /// How long it is worth anything from now on. Not nothing: then a service would not keep it for a moment.
    pub fn lives_for(&self, now: Moment) -> Duration {
        Duration::try_from(self.expires_at - now).unwrap_or_default().max(Duration::from_secs(1))
    }
}

/// Names a place of a merchant's journal, and says nothing of either.
fn collapse(merchant: MerchantId, place: &str) -> String {
    let whole = digest(&SHA256, &[merchant.0.as_bytes(), place.as_bytes()].concat());
    BASE64_URL_SAFE_NO_PAD.encode(&whole.as_ref()[..COLLAPSE_BYTES])
}

/// An event's data, as far as a view shows it.
fn seen_by(view: View, event: &Stored) -> Value {
    let data = serde_json::from_str(event.data.get()).unwrap_or_default();
    match view.fields(&event.kind) {
        None => data,
        Some(paths) => view::keep(data, paths),
    }
}

fn payment(data: &Value, locale: Locale, outlet_name: Option<&str>) -> (String, String) {
    let method = data["method"].as_str().unwrap_or_default();
    let amount = data["amount_minor"].as_i64();
    let amount = amount.map(|minor| money(data["currency"].as_str().unwrap_or_default(), minor, locale));
    let how = match (locale, method) {
        (_, "qris") => "QRIS",
        (Locale::Id, "cash") => "tunai",
        (Locale::Id, "card") => "kartu",
        (Locale::Id, "transfer") => "transfer",
        (Locale::Id, "ewallet") => "dompet digital",
        (Locale::En, "cash") => "Cash",
        (Locale::En, "card") => "Card",
        (Locale::En, "transfer") => "Transfer",
        (Locale::En, "ewallet") => "E-wallet",
        _ => "",
    };
    let words = match locale {
        Locale::Id => ["Pembayaran", how, amount.as_deref().unwrap_or_default(), "diterima"].map(str::to_owned),
        Locale::En => {
            let of = amount.map(|amount| format!("of {amount}")).unwrap_or_default();
            [how, if how.is_empty() { "Payment" } else { "payment" }, &of, "received"].map(str::to_owned)
        }
    };
    let title = outlet_name.unwrap_or(match locale {
        Locale::Id => "Pembayaran",
        Locale::En => "Payment",
    });
    let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
    (title.to_owned(), words.join(" "))
}

fn alert(data: &Value, locale: Locale, outlet_name: Option<&str>) -> (String, String) {
    let title = data["title"].as_str().filter(|title| !title.is_empty()).unwrap_or(match locale {
        Locale::Id => "Peringatan",
        Locale::En => "Alert",
    });
    let title = outlet_name.map_or_else(|| title.to_owned(), |name| format!("{name}: {title}"));
    (title, data["detail"].as_str().unwrap_or_default().to_owned())
}

/// An amount as it is read aloud: `Rp 25.000`, `Rp 25,000`.
fn money(currency: &str, minor: i64, locale: Locale) -> String {
    let (thousands, point) = match locale {
        Locale::Id => ('.', ','),
        Locale::En => (',', '.'),
    };
    let decimals: u32 = if ["IDR", "JPY", "KRW", "VND"].contains(&currency) { 0 } else { 2 };
    let unit = 10_u64.pow(decimals);
    let (whole, rest) = (minor.unsigned_abs() / unit, minor.unsigned_abs() % unit);
    let digits = whole.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(thousands);
        }
        text.push(digit);
    }
    if decimals > 0 {
        text.push_str(&format!("{point}{rest:02}"));
    }
    let sign = if minor < 0 { "-" } else { "" };
    let currency = if currency == "IDR" { "Rp" } else { currency };
    format!("{currency} {sign}{text}").trim_start().to_owned()
}

/// A text as it may be shown: in one line, and cut.
fn shown(text: &str, bytes_max: usize) -> String {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut shown: String = text[..end].chars().map(|it| if it.is_control() { ' ' } else { it }).collect();
    if end < text.len() {
        shown.pop();
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::push::webpush::TEXT_BYTES_MAX;

    fn event(kind: &str, data: Value) -> Stored {
        let stored = json!({
            "type": kind, "channels": ["payments"], "view": "till", "outlet": OutletId::new(),
            "occurred_at": "2026-11-29T00:00:00Z", "data": data,
        });
        serde_json::from_str(&stored.to_string()).unwrap()
    }

    fn says(event: &Stored, view: View, locale: Locale, outlet_name: Option<&str>) -> Message {
        let position = "1041.2-9f3ac2d1".parse().unwrap();
        Message::of(MerchantId::new(), position, event, view, locale, outlet_name, Moment::now_utc())
    }

    #[test]
    fn a_payment_is_told_in_the_language_of_the_device() {
        let paid = event("payment.captured", json!({ "method": "qris", "currency": "IDR", "amount_minor": 25_000 }));
        let id = says(&paid, View::Till, Locale::Id, Some("Toko Roti"));
        assert_eq!((&*id.title, &*id.body), ("Toko Roti", "Pembayaran QRIS Rp 25.000 diterima"));
        let en = says(&paid, View::Till, Locale::En, None);
        assert_eq!((&*en.title, &*en.body), ("Payment", "QRIS payment of Rp 25,000 received"));
        let odd = event("payment.captured", json!({ "method": "barter", "amount_minor": "many" }));
        assert_eq!(says(&odd, View::Office, Locale::Id, None).body, "Pembayaran diterima");
        assert_eq!(says(&odd, View::Office, Locale::En, None).body, "Payment received");
        assert_eq!(
            says(&event("payment.captured", Value::Null), View::Office, Locale::En, None).body,
            "Payment received"
        );
    }

    #[test]
    fn amounts_are_written_as_they_are_there() {
        for (currency, minor, id, en) in [
            ("IDR", 0, "Rp 0", "Rp 0"),
            ("IDR", 1_234_567, "Rp 1.234.567", "Rp 1,234,567"),
            ("IDR", -5_000, "Rp -5.000", "Rp -5,000"),
            ("USD", 123_405, "USD 1.234,05", "USD 1,234.05"),
            ("JPY", 999, "JPY 999", "JPY 999"),
        ] {
            assert_eq!((&*money(currency, minor, Locale::Id), &*money(currency, minor, Locale::En)), (id, en));
        }
    }

    #[test]
    fn a_view_that_shows_nothing_says_nothing() {
        let alert =
            event("alert.raised", json!({ "title": "Kas kurang", "detail": "Rp 50.000", "severity": "critical" }));
        let office = says(&alert, View::Office, Locale::Id, Some("Toko Roti"));
        assert_eq!((&*office.title, &*office.body), ("Toko Roti: Kas kurang", "Rp 50.000"));
        let display = says(&event("thing.happened", json!({ "title": "secret" })), View::Display, Locale::En, None);
        assert_eq!((&*display.title, &*display.body), ("Alert", ""));
    }

    #[test]
    fn the_longest_note_fits_into_the_smallest_envelope() {
        for nasty in ["\"", "\\", "\u{1}", "é", "🥐", "\u{2028}"] {
            let long = nasty.repeat(10_000);
            let alert = event("alert.raised", json!({ "title": long, "detail": long }));
            let message = says(&alert, View::Office, Locale::Id, Some(&long));
            let bytes = serde_json::to_vec(&message.payload()).unwrap().len();
            assert!(bytes <= TEXT_BYTES_MAX, "{bytes} bytes of {nasty:?}");
            assert!(message.body.ends_with('…'));
        }
    }

    #[test]
    fn the_same_place_has_the_same_name_and_no_other_has() {
        let (one, other) = (MerchantId::new(), MerchantId::new());
        let names = [collapse(one, "1.1-00000000"), collapse(one, "1.2-00000000"), collapse(other, "1.1-00000000")];
        assert!(names.iter().all(|name| name.len() == 32));
        assert!(names[0] != names[1] && names[0] != names[2]);
        assert_eq!(names[0], collapse(one, "1.1-00000000"));
    }
}
