//! What a screen has written down: all that was said on its connections, in the order in which it heard it.

use serde::Serialize;
use tillwire_channels::View;

/// Whose it is, and what it was to hear.
#[derive(Clone, Debug, Serialize)]
pub struct Who {
    pub name: String,
    /// Which of the shops it belongs to.
    pub shop: usize,
    pub view: View,
    /// What it joins when it connects.
    pub channels: Vec<String>,
    pub memory: Memory,
}

/// How a screen comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Memory {
    /// With the private id and the last offset, as the stock JavaScript client does by itself.
    Protocol,
    /// With the last position as `after`, as other clients do.
    Application,
    /// The same, but with a position from a while ago, as after a reload.
    Forgetful,
}

#[derive(Clone, Debug, Serialize)]
pub struct Record {
    pub who: Who,
    pub lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// CONNECT was answered. `brought` is the position that it came with.
    Entered { recovered: bool, brought: Option<String> },
    /// An event as it came: `["name",…]`. Acknowledgements are numbered with them; heartbeats, which may come inside a large
    /// entry, are not.
    Heard { number: u64, text: Box<str> },
    /// It asked to join or to leave.
    Asked { id: u64, change: Change, channel: String },
    /// What it was answered.
    Answered { id: u64, text: Box<str> },
    /// It was told to stay away.
    Refused { text: Box<str> },
    /// A connection ended, or there was none.
    Left { why: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Join,
    Leave,
}

impl Change {
    /// The word on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Leave => "leave",
        }
    }
}
