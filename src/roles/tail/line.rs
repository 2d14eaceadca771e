//! An event as a line: for people, or for programs.

use std::fmt::Write as _;

use serde::Serialize;
use tillwire_channels::event::{PaymentCaptured, ReservedLevel, SaleCompleted, SaleLine, StockChanged, Tender};
use tillwire_channels::{Event, Position, Stored, View};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::journal::Entry;

/// Whoever can read the database sees everything.
pub const VIEW: View = View::Office;
/// How many characters of an event are shown that this version does not know.
const UNKNOWN_CHARS_MAX: usize = 100;
const TIME: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");

/// As the change feed has it: `{"position": …, "event": …}`.
pub fn json(entry: &Entry, event: &Stored, (number, count): (u32, u32)) -> anyhow::Result<String> {
    #[derive(Serialize)]
    struct Positioned<'a, T> {
        position: Position,
        event: &'a T,
    }
    let envelope = event.envelope(VIEW, entry.seq, (number, count), entry.recorded_at)?;
    let position = Position::of_event(entry.seq, number, entry.tag);
    Ok(serde_json::to_string(&Positioned { position, event: &envelope })?)
}

/// `2026-11-23 09:12:44Z  1041.1-9f3ac2d1  sale.completed  at 5e0c…  JKT-R1-000017: 2 lines, 21500 IDR (cash)`
pub fn text(entry: &Entry, event: &Stored, (number, _): (u32, u32)) -> String {
    let time = entry.recorded_at.to_offset(time::UtcOffset::UTC).format(TIME).unwrap_or_default();
    let position = Position::of_event(entry.seq, number, entry.tag);
    // The last digits tell ids apart; the first are the time at which they were made.
    let outlet = event.outlet.map_or_else(|| "-".repeat(12), |outlet| outlet.to_string().split_off(24));
    let mut line = format!("{time}  {position:<18}  {:<17}  {outlet}  ", event.kind);
    // Names are typed in by people, and a terminal obeys control characters.
    line.extend(summary(event).chars().map(|it| if it.is_control() { char::REPLACEMENT_CHARACTER } else { it }));
    line
}

fn summary(event: &Stored) -> String {
    let typed = format!(r#"{{"type":{},"data":{}}}"#, serde_json::Value::from(&*event.kind), event.data.get());
    match serde_json::from_str(&typed) {
        Ok(Event::SaleOpened(sale)) => {
            let (due, currency) = (sale.due_minor, &sale.currency);
            format!("{}: {}, {due} {currency} due by {}", sale.number, counted(&sale.lines), sale.expires_at)
        }
        Ok(Event::SaleCompleted(sale)) => of_sale(&sale),
        Ok(Event::SaleVoided(sale)) => {
            let note = sale.note.map(|note| format!(", {note}")).unwrap_or_default();
            format!("{}: {}{note}", sale.number, sale.reason.as_str())
        }
        Ok(Event::PaymentCaptured(payment)) => of_payment(&payment),
        Ok(Event::PaymentChanged(payment)) => {
            let state = serde_json::to_value(payment.state).unwrap_or_default();
            let (amount, currency, method) = (payment.amount_minor, payment.currency, payment.method);
            format!("{amount} {currency}, {method} by {}: {}", payment.provider, state.as_str().unwrap_or_default())
        }
        Ok(Event::RefundChanged(refund)) => {
            let state = serde_json::to_value(refund.state).unwrap_or_default();
            let (amount, currency) = (refund.amount_minor, refund.currency);
            format!("{amount} {currency} of {}: {}", refund.payment, state.as_str().unwrap_or_default())
        }
        Ok(Event::StockChanged(level)) => of_stock(&level),
        Ok(Event::StockReserved(reserved)) => {
            let level =
                |it: &ReservedLevel| format!("{} ({}): {}, {} reserved", it.name, it.sku, it.change, it.reserved);
            reserved.levels.iter().map(level).collect::<Vec<_>>().join("; ")
        }
        Ok(Event::ProductChanged(product)) => {
            let skus: Vec<&str> = product.variants.iter().map(|variant| variant.sku.as_str()).collect();
            let (name, version) = (product.name, product.version);
            let gone = if product.active { "" } else { ", not for sale" };
            format!("{name} ({}), version {version}{gone}", skus.join(", "))
        }
        Ok(Event::OutletOpened(outlet)) => format!("{}: {}, {}", outlet.code, outlet.name, outlet.time_zone),
        Ok(Event::RegisterEnrolled(register)) => format!("{}: {}", register.code, register.name),
        Ok(Event::AccessRevoked(access)) => format!("tokens of {} up to {}", access.staff, access.issued_until),
        Ok(Event::AlertRaised(alert)) => format!("{}: {}", alert.title, alert.detail),
        Err(_) => event.data.get().chars().take(UNKNOWN_CHARS_MAX).collect(),
    }
}

fn of_sale(sale: &SaleCompleted) -> String {
    let SaleCompleted { number, lines, total_minor, currency, tenders, .. } = sale;
    let methods: Vec<&str> = tenders.iter().map(|Tender { method, .. }| method.as_str()).collect();
    let mut text = format!("{number}: {}, {total_minor} {currency}", counted(lines));
    if !methods.is_empty() {
        let _ = write!(text, " ({})", methods.join(", "));
    }
    text
}

fn counted(lines: &[SaleLine]) -> String {
    if lines.len() == 1 { "1 line".to_owned() } else { format!("{} lines", lines.len()) }
}

fn of_payment(payment: &PaymentCaptured) -> String {
    let PaymentCaptured { amount_minor, currency, method, change_minor, .. } = payment;
    let change = if *change_minor > 0 { format!(", {change_minor} given back") } else { String::new() };
    format!("{amount_minor} {currency}, {}{change}", method.as_str())
}

fn of_stock(level: &StockChanged) -> String {
    let StockChanged { sku, name, change, on_hand, reason, .. } = level;
    format!("{name} ({sku}): {change} {}, {on_hand} left", reason.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::value::to_raw_value;
    use tillwire_channels::{MerchantId, Moment, Tag};

    use super::*;

    #[test]
    fn a_line_is_one_line_and_no_terminal_obeys_it() {
        let data = serde_json::json!({ "message": "a\nb\u{1b}[2J", "long": "x".repeat(1_000) });
        let event = Stored {
            kind: "rain.fell".into(),
            channels: vec!["weather".into()],
            view: View::Office,
            outlet: None,
            register: None,
            occurred_at: Moment::UNIX_EPOCH,
            actor: None,
            data: to_raw_value(&data).unwrap(),
        };
        let entry = Entry::new(MerchantId::new(), 7, Tag::GENESIS, Tag([1; 8]), Moment::UNIX_EPOCH, "[]".into());
        let line = text(&entry, &event, (1, 1));
        assert!(line.starts_with("1970-01-01 00:00:00Z  7.1-01010101 "), "{line}");
        assert!(!line.contains(char::is_control) && line.chars().count() < 200, "{line}");
    }
}
