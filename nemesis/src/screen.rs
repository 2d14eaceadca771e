//! A screen: comes, listens, writes everything down, and comes back whenever it is cut off.
//!
//! It imitates the stock JavaScript client to the letter in what matters here: the private id and the last string that
//! ended an event go with the next CONNECT, and after a refusal it stays away.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use tillwire_channels::Position;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::line::{Appetite, Line as Wire, Transport};
use crate::record::{Change, Line, Memory, Record, Who};

/// What a screen is like.
#[derive(Clone, Debug)]
pub struct Manner {
    pub who: Who,
    pub token: String,
    pub door: SocketAddr,
    pub transport: Transport,
    pub bytes_per_second: Option<u32>,
    /// What it joins and leaves on the way.
    pub wanders: Vec<String>,
    /// Where it begins; at the head, if that is not said.
    pub after: Option<String>,
    pub seed: u64,
}

/// How long it waits before it comes back: the stock client's jitter, and less of its patience.
const BACK_MS: std::ops::Range<u64> = 50..500;
/// How long it waits before it joins or leaves.
const WANDER_MS: std::ops::Range<u64> = 400..3_000;
/// One that forgets remembers a position for so many events.
const FORGETS_EVENTS: u64 = 40;

pub struct Screen {
    lines: Arc<Mutex<Vec<Line>>>,
    seen: watch::Receiver<Seen>,
    who: Who,
    hurry: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub connections: u64,
    pub is_ready: bool,
    /// The number of the last entry that it knows of.
    pub seq: u64,
    /// It was told to stay away, and does.
    pub stays_away: bool,
}

impl Screen {
    pub fn comes(manner: Manner) -> Self {
        let (lines, hurry) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (see, seen) = watch::channel(Seen::default());
        let (who, seed) = (manner.who.clone(), manner.seed);
        let life = Life {
            lines: Arc::clone(&lines),
            hurry: hurry.clone(),
            see,
            rng: fastrand::Rng::with_seed(seed),
            pid: None,
            offset: None,
            brings: manner.after.clone(),
            joined: manner.who.channels.clone(),
            unsure: Vec::new(),
            asked: 0,
            heard: 0,
            manner,
        };
        Self { lines, seen, who, hurry, task: tokio::spawn(life.lives()) }
    }

    pub fn seen(&self) -> Seen {
        *self.seen.borrow()
    }

    /// What it wrote down last.
    pub fn last(&self) -> Option<Line> {
        lock(&self.lines).last().cloned()
    }

    /// From now on it reads as fast as everyone.
    pub fn hurries(&self) {
        self.hurry.store(true, Ordering::Relaxed);
    }

    /// It leaves for good; what it wrote down.
    pub async fn goes(self) -> Record {
        self.task.abort();
        let _ = self.task.await;
        Record { who: self.who, lines: std::mem::take(&mut *lock(&self.lines)) }
    }
}

struct Life {
    manner: Manner,
    lines: Arc<Mutex<Vec<Line>>>,
    hurry: Arc<AtomicBool>,
    see: watch::Sender<Seen>,
    rng: fastrand::Rng,
    pid: Option<String>,
    /// The last string that ended an event.
    offset: Option<String>,
    /// What it brings as `after`, if that is how it comes back.
    brings: Option<String>,
    /// What it has joined, as far as it was told.
    joined: Vec<String>,
    /// What it asked for in vain: the next `ready` will say.
    unsure: Vec<String>,
    asked: u64,
    heard: u64,
}

impl Life {
    async fn lives(mut self) {
        loop {
            let appetite = Appetite { bytes_per_second: self.manner.bytes_per_second, hurry: Arc::clone(&self.hurry) };
            let wire = Wire::open(self.manner.door, self.manner.transport, appetite);
            let Err(why) = self.listens(wire).await else { return };
            self.writes(Line::Left { why: format!("{why:#}") });
            self.see.send_modify(|seen| seen.is_ready = false);
            if self.see.borrow().stays_away {
                return;
            }
            sleep(Duration::from_millis(self.rng.u64(BACK_MS))).await;
        }
    }

    /// Until the connection ends.
    async fn listens(&mut self, mut wire: Wire) -> Result<()> {
        let mut auth = json!({ "token": self.manner.token, "channels": self.manner.who.channels });
        let brought = match self.manner.who.memory {
            Memory::Protocol => match &self.pid {
                Some(pid) => {
                    auth["pid"] = json!(pid);
                    self.offset.clone().inspect(|offset| auth["offset"] = json!(offset))
                }
                None => self.manner.after.clone().inspect(|after| auth["after"] = json!(after)),
            },
            Memory::Application | Memory::Forgetful => {
                self.brings.clone().inspect(|after| auth["after"] = json!(after))
            }
        };
        wire.say(format!("40{auth}"));
        let mut wander_at = self.next_wander();
        loop {
            let next = tokio::select! {
                next = wire.next() => Some(next?),
                () = sleep_until(wander_at) => None,
            };
            let Some((number, packet)) = next else {
                wander_at = self.next_wander();
                self.wanders(&wire);
                continue;
            };
            match packet.as_bytes().first() {
                Some(b'0') => {
                    let answer: Value = serde_json::from_str(&packet[1..])?;
                    let pid = answer["pid"].as_str().map(str::to_owned);
                    let recovered = pid.is_some() && pid == self.pid;
                    self.pid = pid;
                    self.writes(Line::Entered { recovered, brought: brought.clone() });
                    self.see.send_modify(|seen| seen.connections += 1);
                }
                Some(b'2') => self.hears(number, &packet[1..])?,
                Some(b'3') => self.is_answered(&packet[1..]),
                Some(b'4') => {
                    self.writes(Line::Refused { text: packet[1..].into() });
                    self.see.send_modify(|seen| seen.stays_away = true);
                    bail!("refused");
                }
                Some(b'1') => {
                    self.writes(Line::Refused { text: "disconnected".into() });
                    self.see.send_modify(|seen| seen.stays_away = true);
                    bail!("disconnected");
                }
                _ => bail!("an unexpected packet: {packet}"),
            }
        }
    }

    fn hears(&mut self, number: u64, text: &str) -> Result<()> {
        self.writes(Line::Heard { number, text: text.into() });
        let packet: Vec<Value> = serde_json::from_str(text)?;
        if packet.first().is_some_and(|name| name == "ready") {
            self.joined = texts(&packet[1]["joined"]);
            self.unsure.clear();
            self.see.send_modify(|seen| seen.is_ready = true);
        }
        if let Some(position) = packet.get(1..).and_then(|rest| rest.last()?.as_str()) {
            self.heard += 1;
            self.offset = Some(position.to_owned());
            if self.manner.who.memory != Memory::Forgetful || self.heard.is_multiple_of(FORGETS_EVENTS) {
                self.brings = self.offset.clone();
            }
            if let Ok(position) = position.parse::<Position>() {
                self.see.send_modify(|seen| seen.seq = position.seq);
            }
        }
        Ok(())
    }

    fn next_wander(&mut self) -> Instant {
        Instant::now() + Duration::from_millis(self.rng.u64(WANDER_MS))
    }

    /// Joins something that it has not joined, or leaves something that it has.
    fn wanders(&mut self, wire: &Wire) {
        if !self.see.borrow().is_ready || self.hurry.load(Ordering::Relaxed) {
            return;
        }
        let sure = self.manner.wanders.iter().filter(|channel| !self.unsure.contains(channel));
        let Some(channel) = self.rng.choice(sure.cloned().collect::<Vec<_>>()) else { return };
        let change = if self.joined.contains(&channel) { Change::Leave } else { Change::Join };
        self.asked += 1;
        wire.say(format!("42{}{}", self.asked, json!([change.name(), { "channels": [channel] }])));
        self.unsure.push(channel.clone()); // Until it is answered.
        self.writes(Line::Asked { id: self.asked, change, channel });
    }

    /// `7[{…}]`
    fn is_answered(&mut self, packet: &str) {
        let split = packet.find('[').unwrap_or(packet.len());
        let (id, text) = packet.split_at(split);
        let Ok(id) = id.parse() else { return };
        let answer: Vec<Value> = serde_json::from_str(text).unwrap_or_default();
        if let Some(joined) = answer.first().filter(|answer| answer["ok"] == true).map(|answer| &answer["joined"]) {
            let joined = texts(joined);
            // One is asked at a time for each channel; what this answer does not settle stays unsure.
            let lines = lock(&self.lines);
            let asked = lines.iter().rev().find_map(|line| match line {
                Line::Asked { id: asked, channel, .. } if *asked == id => Some(channel.clone()),
                _ => None,
            });
            drop(lines);
            self.unsure.retain(|channel| Some(channel) != asked.as_ref());
            self.joined = joined;
        }
        self.writes(Line::Answered { id, text: text.into() });
    }

    fn writes(&self, line: Line) {
        lock(&self.lines).push(line);
    }
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|it| Some(it.as_str()?.to_owned())).collect()
}

fn lock(lines: &Mutex<Vec<Line>>) -> MutexGuard<'_, Vec<Line>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}
