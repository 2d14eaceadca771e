//! What a message says of itself: which number it is, and when it was sent.

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use tillwire_channels::{Moment, PaymentId};

use super::order::Format;
use crate::numbered;
use crate::stamps::{self, SentAt};

pub struct Reading {
    pub number: u64,
    pub latency_ns: u64,
}

/// Reads a message; none if it is not one of those that are counted.
pub fn read(text: &[u8], format: Format, sent_at: &mut SentAt) -> Result<Option<Reading>> {
    match format {
        Format::Numbered | Format::Enveloped => numbered(text, sent_at),
        Format::TillwireSale => tillwire_sale(text),
        Format::TillwirePayment => tillwire_payment(text, sent_at),
        Format::AppSale => app_sale(text),
    }
}

fn numbered(text: &[u8], sent_at: &mut SentAt) -> Result<Option<Reading>> {
    const MARK: &[u8] = b"{\"n\":";
    let Some(at) = memchr::memmem::find(text, MARK) else { return Ok(None) };
    let digits = text[at + MARK.len()..].iter().take_while(|byte| byte.is_ascii_digit());
    let number = digits.fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    let latency_ns = stamps::now().saturating_sub(sent_at.of(number)?);
    Ok(Some(Reading { number, latency_ns }))
}

/// A packet's arguments, parsed as a client would.
fn parsed<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T> {
    let json = text.get(2..).unwrap_or_default();
    serde_json::from_slice(json).with_context(|| format!("reading {}", String::from_utf8_lossy(text)))
}

#[derive(Deserialize)]
struct Envelope<'a> {
    seq: u64,
    #[serde(with = "time::serde::rfc3339")]
    recorded_at: Moment,
    #[serde(borrow)]
    data: TillwireSale<'a>,
}

#[derive(Deserialize)]
struct TillwireSale<'a> {
    #[serde(borrow)]
    #[allow(dead_code)] // Parsed, since a screen would.
    number: &'a str,
    #[allow(dead_code)]
    total_minor: i64,
}

/// The entry's time is that of the statement that wrote it, just before COMMIT is sent: the clock begins a little early.
fn tillwire_sale(text: &[u8]) -> Result<Option<Reading>> {
    if !text.starts_with(b"42[\"sale.completed\"") {
        return Ok(None);
    }
    let (_, sale, _): (&str, Envelope<'_>, &str) = parsed(text)?;
    let recorded_ns = u64::try_from(sale.recorded_at.unix_timestamp_nanos())?;
    let _ = (sale.data.number, sale.data.total_minor);
    Ok(Some(Reading { number: sale.seq, latency_ns: wall_clock().saturating_sub(recorded_ns) }))
}

#[derive(Deserialize)]
struct PaymentEnvelope {
    data: TillwirePayment,
}

#[derive(Deserialize)]
struct TillwirePayment {
    payment: PaymentId,
    amount_minor: i64,
}

fn tillwire_payment(text: &[u8], sent_at: &mut SentAt) -> Result<Option<Reading>> {
    if !text.starts_with(b"42[\"payment.captured\"") {
        return Ok(None);
    }
    let (_, PaymentEnvelope { data }, _): (&str, PaymentEnvelope, &str) = parsed(text)?;
    let now = stamps::now();
    let _ = data.amount_minor; // Parsed, since a screen would.
    let number = numbered::number(data.payment.0);
    Ok(Some(Reading { number, latency_ns: now.saturating_sub(sent_at.of(number)?) }))
}

#[derive(Deserialize)]
struct AppSale {
    n: u64,
    /// Just before it committed, in microseconds since 1970.
    at_us: u64,
    #[allow(dead_code)]
    total_minor: i64,
}

fn app_sale(text: &[u8]) -> Result<Option<Reading>> {
    if !text.starts_with(b"42[\"sale.completed\"") {
        return Ok(None);
    }
    let (_, sale): (&str, AppSale) = parsed(text)?;
    Ok(Some(Reading { number: sale.n, latency_ns: wall_clock().saturating_sub(sale.at_us * 1_000) }))
}

/// Nanoseconds since 1970, by the clock that PostgreSQL and Node.js read on the same machine.
fn wall_clock() -> u64 {
    // It cannot fail: every Linux has this clock.
    let now = clock_gettime(ClockId::CLOCK_REALTIME).expect("a clock");
    now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::stamps::Stamps;

    #[test]
    fn a_payment_says_which_it_is_and_one_that_nobody_made_is_an_error() {
        let path = std::env::temp_dir().join(format!("tillwire-stamps-{}", Uuid::new_v4()));
        let stamps = Stamps::create(&path).unwrap();
        stamps.stamp(7..8).unwrap();
        let mut sent_at = SentAt::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut heard = |event: &str, number| {
            let payment = numbered::id(Uuid::new_v4(), number);
            let data = serde_json::json!({ "seq": 41, "data": { "payment": payment, "amount_minor": 15_000 } });
            let text = format!("42[\"{event}\",{data},\"41.2-9f3ac2d1\"]");
            read(text.as_bytes(), Format::TillwirePayment, &mut sent_at)
        };
        let reading = heard("payment.captured", 7).unwrap().unwrap();
        assert_eq!(reading.number, 7);
        assert!((1..60_000_000_000).contains(&reading.latency_ns), "{}", reading.latency_ns);
        assert!(heard("payment.changed", 7).unwrap().is_none(), "it is not paid yet");
        assert!(heard("payment.captured", 8).is_err(), "nobody made that one");
    }
}
