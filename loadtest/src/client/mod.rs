//! Screens: one process holds thousands of them in one thread, with one buffer and one clock, so that what is measured
//! is the server. It speaks Engine.IO 4 and Socket.IO 5 over WebSocket as far as servers here do, to all of them alike.

pub mod crew;
mod message;
pub mod order;
mod screen;
mod tally;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::stamps::{self, SentAt};
use order::{Done, Format, Order, Plan, Said};
use screen::{Heard, Screen};
use tally::Tally;

/// How much is read from a connection at once.
const BUFFER_BYTES: usize = 256 * 1024;
/// How often it looks at what has no event of its own.
const TICK: Duration = Duration::from_millis(20);
/// How many connections are looked at before the clock and the orders are.
const EVENTS_MAX: usize = 512;
const ORDERS: u64 = u64::MAX;
/// Spreads numbers that follow one another over a second, for it has no divisor in common with it.
const SPREAD_MS: u64 = 617;
/// Latencies up to a minute, to three digits.
const LATENCY_MAX_US: u64 = 60_000_000;

/// Runs a client process: the plan and then orders come by the standard input, answers leave by the standard output.
pub fn run() -> Result<()> {
    let mut orders = BufReader::new(File::from(std::io::stdin().as_fd().try_clone_to_owned()?));
    let mut line = String::new();
    orders.read_line(&mut line)?;
    let plan: Plan = serde_json::from_str(&line).context("reading the plan")?;
    let outcome = Client::new(plan, orders)?.run();
    if let Err(error) = &outcome {
        say(&Said::Failed(format!("{error:#}")))?;
    }
    outcome
}

fn say(said: &Said) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(said)?)?;
    Ok(out.flush()?)
}

struct Client {
    plan: Plan,
    orders: BufReader<File>,
    epoll: Epoll,
    screens: Vec<Option<Screen>>,
    /// Who is yet to be opened.
    waiting: VecDeque<Waiting>,
    /// Who was turned away, and when they may come back.
    later: Vec<(Instant, Waiting)>,
    /// Who is away until they are told to return.
    away: Vec<Waiting>,
    opening: usize,
    books: Books,
    said_live: bool,
    churn: Option<Churn>,
    finish: Option<(Vec<u64>, Instant)>,
    looked_at: Instant,
}

/// A screen that is not connected.
struct Waiting {
    slot: usize,
    group: usize,
    tally: Tally,
    position: Option<String>,
}

/// What is written down while reading.
struct Books {
    sent_at: SentAt,
    latency: Histogram<u64>,
    entry: Histogram<u64>,
    first_at: u64,
    last_at: u64,
    /// How many screens have seen each number.
    seen_by: Vec<usize>,
    /// The highest number that all have seen.
    seen: u64,
    /// How many screens that is.
    counting: usize,
    live: usize,
    cut: u64,
    turned_away: u64,
    /// When they were last told to come.
    came_at: Instant,
    live_by_second: Vec<u64>,
}

/// Screens that leave at a steady pace, while others come for them.
struct Churn {
    per_second: f64,
    began: Instant,
    turned: u64,
    /// The tallies of those who have left.
    left: Vec<Tally>,
}

impl Client {
    fn new(plan: Plan, orders: BufReader<File>) -> Result<Self> {
        let groups = plan.groups.iter().enumerate().flat_map(|(at, group)| std::iter::repeat_n(at, group.screens));
        let waiting = groups.enumerate().map(|(slot, group)| {
            let tally = Tally::from_the_start();
            Waiting { slot, group, tally, position: None }
        });
        let waiting: VecDeque<_> = waiting.collect();
        let counting = plan.groups.iter().filter(|it| it.bytes_per_second.is_none()).map(|it| it.screens).sum();
        let histogram = || Histogram::new_with_bounds(1, LATENCY_MAX_US, 3);
        let books = Books {
            sent_at: SentAt::open(&plan.stamps)?,
            latency: histogram()?,
            entry: histogram()?,
            first_at: u64::MAX,
            last_at: 0,
            seen_by: Vec::new(),
            seen: 0,
            counting,
            live: 0,
            cut: 0,
            turned_away: 0,
            came_at: Instant::now(),
            live_by_second: Vec::new(),
        };
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(orders.get_ref(), EpollEvent::new(EpollFlags::EPOLLIN, ORDERS))?;
        Ok(Self {
            screens: std::iter::repeat_with(|| None).take(waiting.len()).collect(),
            waiting,
            plan,
            orders,
            epoll,
            opening: 0,
            books,
            later: Vec::new(),
            away: Vec::new(),
            said_live: false,
            churn: None,
            finish: None,
            looked_at: Instant::now(),
        })
    }

    fn run(mut self) -> Result<()> {
        let mut events = vec![EpollEvent::empty(); EVENTS_MAX];
        let mut buffer = vec![0; BUFFER_BYTES];
        let timeout = EpollTimeout::try_from(TICK)?;
        let mut said = 0;
        loop {
            self.open_some()?;
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                match event.data() {
                    ORDERS if !self.obey()? => return Ok(()), // Whoever asked is gone.
                    ORDERS => {}
                    slot => self.read(usize::try_from(slot)?, &mut buffer)?,
                }
            }
            if self.books.seen / self.plan.credit > said / self.plan.credit {
                said = self.books.seen;
                say(&Said::Seen(said))?;
            }
            if !self.said_live && self.books.live == self.screens.len() {
                self.said_live = true;
                say(&Said::Live)?;
            }
            let since = self.looked_at.elapsed();
            if since >= TICK {
                self.looked_at += since;
                self.read_slowly(since, &mut buffer)?;
                self.turn_over()?;
                if let Some(done) = self.finished() {
                    return say(&Said::Done(done));
                }
            }
        }
    }

    fn open_some(&mut self) -> Result<()> {
        if !self.later.is_empty() {
            let now = Instant::now();
            self.waiting.extend(self.later.extract_if(.., |(due, _)| *due <= now).map(|(_, waiting)| waiting));
        }
        while self.opening < self.plan.opening_max
            && let Some(next) = self.waiting.pop_front()
        {
            let Plan { source, format, resumes, .. } = self.plan;
            let Waiting { slot, group, tally, position } = next;
            let which = (group, &self.plan.groups[group]);
            let screen = Screen::open(which, source, format, tally, position.as_deref(), resumes)?;
            self.epoll.add(&screen.stream, EpollEvent::new(EpollFlags::EPOLLIN, slot as u64))?;
            self.screens[slot] = Some(screen);
            self.opening += 1;
        }
        Ok(())
    }

    fn read(&mut self, slot: usize, buffer: &mut [u8]) -> Result<()> {
        let Some(screen) = self.screens[slot].as_mut().filter(|screen| !screen.cut) else { return Ok(()) };
        let (was_live, group) = (screen.is_live(), &self.plan.groups[screen.group]);
        let (books, format) = (&mut self.books, self.plan.format);
        let is_open = screen.read(buffer, |screen, heard| books.take(screen, group.base, format, heard))?;
        if let Some(after) = screen.turned_away {
            self.books.turned_away += 1;
            return self.comes_later(slot, after);
        }
        if !is_open {
            ensure!(screen.is_live(), "a screen was cut off before it was live");
            screen.cut = true; // It stays away: what it has not seen is lost.
            self.books.cut += 1;
        }
        if !was_live && screen.is_live() {
            self.opening -= 1;
        }
        // Those who read slowly are not told that there is something to read.
        let watched = group.bytes_per_second.is_none() || !was_live;
        if watched && (!is_open || (screen.is_live() && group.bytes_per_second.is_some())) {
            self.epoll.delete(&screen.stream)?;
        }
        Ok(())
    }

    /// One that was turned away comes back as it was, in the second after the time that it was told: those who were told the
    /// same do not come all at once.
    fn comes_later(&mut self, slot: usize, after: Duration) -> Result<()> {
        let Some(screen) = self.screens[slot].take() else { return Ok(()) };
        self.epoll.delete(&screen.stream)?;
        self.opening -= 1;
        let Screen { group, tally, position, .. } = screen;
        let spread = Duration::from_millis(slot as u64 * SPREAD_MS % 1_000);
        self.later.push((Instant::now() + after + spread, Waiting { slot, group, tally, position }));
        Ok(())
    }

    /// Lets those who read slowly read what they may since the last time.
    fn read_slowly(&mut self, since: Duration, buffer: &mut [u8]) -> Result<()> {
        if self.plan.groups.iter().all(|group| group.bytes_per_second.is_none()) {
            return Ok(());
        }
        for slot in 0..self.screens.len() {
            let Some(screen) = self.screens[slot].as_ref().filter(|screen| screen.is_live()) else { continue };
            let Some(rate) = self.plan.groups[screen.group].bytes_per_second else { continue };
            let budget = ((f64::from(rate) * since.as_secs_f64()).ceil() as usize).clamp(1, buffer.len());
            self.read(slot, &mut buffer[..budget])?;
        }
        Ok(())
    }

    /// Lets as many leave as should have by now, and others come for them.
    fn turn_over(&mut self) -> Result<()> {
        let Some(churn) = &mut self.churn else { return Ok(()) };
        let due = (churn.per_second * churn.began.elapsed().as_secs_f64()) as u64;
        while churn.turned < due && self.finish.is_none() {
            let slot = (churn.turned % self.screens.len() as u64) as usize;
            churn.turned += 1;
            // One that is still coming stays.
            let Some(screen) = self.screens[slot].take_if(|screen| screen.is_live() && !screen.cut) else { continue };
            self.epoll.delete(&screen.stream)?;
            churn.left.push(screen.tally);
            self.waiting.push_back(Waiting { slot, group: screen.group, tally: Tally::midway(), position: None });
        }
        Ok(())
    }

    /// Does what the orders say. Whether somebody is still there to give them.
    fn obey(&mut self) -> Result<bool> {
        loop {
            let mut line = String::new();
            if self.orders.read_line(&mut line)? == 0 {
                return Ok(false);
            }
            match serde_json::from_str(&line).context("reading an order")? {
                Order::Leave => {
                    for (slot, place) in self.screens.iter_mut().enumerate() {
                        let Some(screen) = place.take() else { continue };
                        self.epoll.delete(&screen.stream)?;
                        let Screen { group, tally, position, .. } = screen;
                        self.away.push(Waiting { slot, group, tally, position });
                    }
                    say(&Said::Left)?;
                }
                Order::Return => {
                    (self.books.live, self.said_live) = (0, false);
                    (self.books.came_at, self.books.live_by_second) = (Instant::now(), Vec::new());
                    self.waiting.extend(std::mem::take(&mut self.away));
                    for group in &mut self.plan.groups {
                        group.address = group.return_to.unwrap_or(group.address);
                    }
                }
                Order::Churn { per_second } => {
                    self.churn = Some(Churn { per_second, began: Instant::now(), turned: 0, left: Vec::new() });
                }
                Order::Finish { last, patience_ms } => {
                    self.finish = Some((last, Instant::now() + Duration::from_millis(patience_ms)));
                }
            }
            // What has come already brings no event any more.
            if self.orders.buffer().is_empty() {
                return Ok(true);
            }
        }
    }

    /// The result, once it was asked for and everything has come, or once patience has ended.
    fn finished(&self) -> Option<Done> {
        let (last, deadline) = self.finish.as_ref()?;
        let there = || self.screens.iter().flatten();
        let owed = |screen: &Screen| last[screen.group].saturating_sub(self.plan.groups[screen.group].base);
        let complete =
            || self.opening == 0 && there().all(|screen| screen.cut || screen.tally.is_complete(owed(screen)));
        if Instant::now() < *deadline && !complete() {
            return None;
        }
        let left = self.churn.iter().flat_map(|churn| &churn.left);
        let tallies = there().map(|screen| (&screen.tally, screen.tally.lost(owed(screen))));
        let books = &self.books;
        let mut done = Done {
            first_at: books.first_at,
            last_at: books.last_at,
            latency_us: counts(&books.latency),
            entry_us: counts(&books.entry),
            cut: books.cut,
            turned_away: books.turned_away,
            live_by_second: books.live_by_second.clone(),
            churned: self.churn.as_ref().map_or(0, |churn| churn.left.len() as u64),
            ..Done::default()
        };
        for (tally, lost) in tallies.chain(left.map(|tally| (tally, tally.lost_so_far()))) {
            done.received += tally.received;
            done.repeated += tally.repeated;
            done.reordered += tally.reordered;
            done.lost += lost;
        }
        Some(done)
    }
}

impl Books {
    fn take(&mut self, screen: &mut Screen, base: u64, format: Format, heard: Heard<'_>) -> Result<()> {
        let text = match heard {
            Heard::Message(text) => text,
            Heard::Live => {
                self.live += 1;
                let second = usize::try_from(self.came_at.elapsed().as_secs())?;
                if self.live_by_second.len() <= second {
                    self.live_by_second.resize(second + 1, 0);
                }
                self.live_by_second[second] += 1;
                let took = u64::try_from(screen.began.elapsed().as_micros())?;
                return Ok(self.entry.record(took.clamp(1, LATENCY_MAX_US))?);
            }
        };
        let Some(reading) = message::read(text, format, &mut self.sent_at)? else { return Ok(()) };
        let now = stamps::now();
        self.first_at = self.first_at.min(now);
        self.last_at = now;
        // Whoever reads slowly is late by its own doing.
        if screen.counts {
            self.latency.record((reading.latency_ns / 1_000).clamp(1, LATENCY_MAX_US))?;
        }
        let number = reading.number.saturating_sub(base);
        let before = screen.tally.last();
        screen.tally.take(number);
        // What was skipped is not waited for.
        if screen.counts && number > before {
            self.count(usize::try_from(before + 1)?, usize::try_from(number)?);
        }
        Ok(())
    }

    fn count(&mut self, from: usize, to: usize) {
        if self.seen_by.len() <= to {
            self.seen_by.resize(to + 1, 0);
        }
        self.seen_by[from..=to].iter_mut().for_each(|count| *count += 1);
        while self.seen_by.get(self.seen as usize + 1).is_some_and(|count| *count >= self.counting) {
            self.seen += 1;
        }
    }
}

/// A histogram as what was counted.
fn counts(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    histogram.iter_recorded().map(|it| (it.value_iterated_to(), it.count_at_value())).collect()
}
