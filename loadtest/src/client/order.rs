//! What a client process is told and what it answers: one JSON object a line.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The first line: what to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub groups: Vec<Group>,
    /// The address of the loopback network to connect from: each has its own ports.
    pub source: Ipv4Addr,
    /// When each message was sent, see [`crate::stamps`].
    pub stamps: PathBuf,
    pub format: Format,
    /// Whether screens send where they stood when they come back.
    pub resumes: bool,
    /// After how many messages that all have seen it says so.
    pub credit: u64,
    /// How many connections are being opened at a time.
    pub opening_max: usize,
}

/// Screens that are alike.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Group {
    pub address: SocketAddr,
    /// Where they come back to, if elsewhere.
    pub return_to: Option<SocketAddr>,
    /// What they connect with: the object of a CONNECT packet, without its last brace.
    pub auth: String,
    pub screens: usize,
    /// The number that was taken before the first one they are owed.
    pub base: u64,
    /// How fast they read.
    pub bytes_per_second: Option<u32>,
}

/// How a message says which one it is, and when it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// `{"n":…` somewhere in it; the time is in the stamps.
    Numbered,
    /// The same in an envelope of Tillwire's, whose screens are live when they are told `caught_up`.
    Enveloped,
    /// A `sale.completed` of Tillwire's: number and time are the entry's.
    TillwireSale,
    /// A `payment.captured` of Tillwire's, whose payment says the number; the time is in the stamps.
    TillwirePayment,
    /// A `sale.completed` of the Node app's: both are fields of it.
    AppSale,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Hang up.
    Leave,
    /// Come back, all at once.
    Return,
    /// So many a second leave and others come, from now on.
    Churn { per_second: f64 },
    /// Wait until each group has seen its last number, but not longer than that; answer and end.
    Finish { last: Vec<u64>, patience_ms: u64 },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Said {
    /// All screens are live.
    Live,
    /// All screens have seen every message up to this one.
    Seen(u64),
    Left,
    Failed(String),
    Done(Done),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    pub received: u64,
    pub lost: u64,
    pub repeated: u64,
    pub reordered: u64,
    /// When the first and the last message came, by the monotonic clock.
    pub first_at: u64,
    pub last_at: u64,
    /// Microseconds and how many messages took them.
    pub latency_us: Vec<(u64, u64)>,
    /// The same for becoming live, from the first byte sent.
    pub entry_us: Vec<(u64, u64)>,
    /// Screens that were cut off.
    pub cut: u64,
    /// How often one was told to come back later.
    pub turned_away: u64,
    /// How many became live in each second since they were last told to come.
    pub live_by_second: Vec<u64>,
    /// Screens that left and that came while messages were being sent.
    pub churned: u64,
}
