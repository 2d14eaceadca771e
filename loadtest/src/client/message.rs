//! What a message says of itself: which number it is, and when it was sent.

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use tillwire_channels::Moment;

use super::order::Format;
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
