//! What a person sees meanwhile: lines that stay, and one that says how it goes.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write, stdout};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tillwire_channels::Moment;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::pace::day;
use super::till::Number;
use super::year::Basket;

/// How often the line is redrawn on a terminal, and over how many of these the rate is taken.
const REDRAW: Duration = Duration::from_secs(1);
const WINDOW: usize = 10;
/// Elsewhere a line is written once in so many.
const LINES_EVERY: usize = 10;
/// To the line's beginning, and all of it away.
const ERASE: &str = "\r\x1b[2K";
/// What does not fit is cut and not wrapped, or it could not be erased.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// Where lines go. On a terminal the last one is redrawn.
pub struct Terminal {
    redraws: bool,
    /// Whether the cursor stands behind a line that is to be redrawn.
    open: AtomicBool,
}

impl Terminal {
    pub fn new() -> Self {
        Self { redraws: stdout().is_terminal(), open: AtomicBool::new(false) }
    }

    /// Writes a line that stays.
    pub fn say(&self, line: &str) {
        let erase = if self.open.swap(false, Relaxed) { ERASE } else { "" };
        write(&format!("{erase}{line}\n"));
    }

    /// Ends the line that was redrawn.
    pub fn close(&self) {
        if self.open.swap(false, Relaxed) {
            write("\n");
        }
    }

    fn redraw(&self, line: &str) {
        self.open.store(true, Relaxed);
        write(&format!("{ERASE}{NO_WRAP}{line}{WRAP}"));
    }
}

/// Whether anybody reads it is no concern of the shop's.
fn write(text: &str) {
    let mut out = stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// What this run has done so far.
#[derive(Default)]
pub struct Tally {
    sales: AtomicU64,
    rupiah: AtomicI64,
    deliveries: AtomicU64,
    errors: AtomicU64,
    last: Mutex<Option<(Number, Moment)>>,
}

impl Tally {
    pub fn sold(&self, number: Number, basket: &Basket) {
        self.sales.fetch_add(1, Relaxed);
        self.rupiah.fetch_add(basket.total_minor(), Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((number, basket.at));
    }

    pub fn delivered(&self) {
        self.deliveries.fetch_add(1, Relaxed);
    }

    pub fn failed(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    /// E.g. `1.0 sales/s · 1,234 sales · Rp 182,340,000 · 31 deliveries · 0 errors · 2017-01-12 of year 1`
    fn line(&self, rate: f64) -> String {
        let mut line = format!(
            "{rate:.1} sales/s · {} sales · Rp {} · {} deliveries · {} errors",
            grouped(self.sales.load(Relaxed)),
            grouped(self.rupiah.load(Relaxed).unsigned_abs()),
            grouped(self.deliveries.load(Relaxed)),
            grouped(self.errors.load(Relaxed)),
        );
        if let Some((number, at)) = *self.last.lock().unwrap_or_else(PoisonError::into_inner) {
            line += &format!(" · {} of year {}", day(at), number.year);
        }
        line
    }
}

/// Says how it goes, until it is dropped.
pub async fn watch(tally: &Tally, terminal: &Terminal) {
    let mut seen = VecDeque::from([(Instant::now(), 0)]);
    let mut ticks = interval(REDRAW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await; // The first comes at once, when there is nothing to say yet.
    for tick in 1_usize.. {
        ticks.tick().await;
        let (now, sales) = (Instant::now(), tally.sales.load(Relaxed));
        let (since, before) = seen[0];
        let rate = (sales - before) as f64 / (now - since).as_secs_f64();
        seen.push_back((now, sales));
        if seen.len() > WINDOW {
            seen.pop_front();
        }
        if terminal.redraws {
            terminal.redraw(&tally.line(rate));
        } else if tick.is_multiple_of(LINES_EVERY) {
            terminal.say(&tally.line(rate));
        }
    }
}

/// `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::year::Year;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn the_line_says_how_it_goes() {
        let year = Year::read(Some(1)).unwrap();
        let tally = Tally::default();
        assert_eq!(tally.line(0.0), "0.0 sales/s · 0 sales · Rp 0 · 0 deliveries · 0 errors");
        tally.sold(Number { year: 3, basket: 1 }, &year.baskets[0]);
        tally.failed();
        let total = grouped(year.baskets[0].total_minor().unsigned_abs());
        let line = format!("1.0 sales/s · 1 sales · Rp {total} · 0 deliveries · 1 errors · 2017-01-01 of year 3");
        assert_eq!(tally.line(1.04), line);
    }
}
