//! Coming back: what a screen's private id says, and what becomes of a screen that brings one.
//!
//! The stock JavaScript client keeps the `pid` of its first CONNECT reply and the last string that ended an event, and
//! brings both when it connects again. The `pid` is sealed and says all that is needed, so nothing is written when a
//! screen connects. Only what it joined and left afterwards is in the database.

use serde::{Deserialize, Serialize};
use tillwire_channels::{MerchantId, Moment, Position, RegisterId, StaffId};

use super::seals::{Keys, Purpose};
use crate::identity::Staff;
use crate::screens::joined::Joined;
use tillwire_channels::Channel;

/// How old a private id may get, in seconds. What was joined is forgotten a day later.
const AGE_SECONDS_MAX: i64 = 7 * 24 * 3600;

/// What a private id says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pid {
    #[serde(rename = "m")]
    merchant: MerchantId,
    #[serde(rename = "p")]
    person: StaffId,
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    register: Option<RegisterId>,
    /// The connection's public id, which it keeps.
    #[serde(rename = "s")]
    pub screen: String,
    /// When it was made, in seconds since 1970.
    #[serde(rename = "t")]
    made_at: i64,
    /// Where the journal stood then: a screen that was cut before it heard anything goes on from here.
    #[serde(rename = "f")]
    pub from: Position,
    /// What was joined when it connected.
    #[serde(rename = "c")]
    channels: Vec<Channel>,
}

impl Pid {
    pub fn new(staff: &Staff, screen: String, from: Position, joined: &[Joined], now: Moment) -> Self {
        Self {
            merchant: staff.merchant,
            person: staff.id,
            register: staff.register,
            screen,
            made_at: now.unix_timestamp(),
            from,
            channels: joined.iter().map(|joined| joined.channel).collect(),
        }
    }

    /// # Errors
    /// If it cannot be sealed.
    pub fn seal(&self, keys: &Keys) -> anyhow::Result<String> {
        keys.seal(Purpose::Pid, &serde_json::to_vec(self)?)
    }

    /// What a sealed text says; `None` if it is none of ours.
    pub fn open(keys: &Keys, text: &str) -> Option<Self> {
        serde_json::from_slice(&keys.open(Purpose::Pid, text)?).ok()
    }

    /// Whether this bearer may go on where it was left. Staff share tills: another person's is not an error, only not
    /// theirs.
    pub fn is_of(&self, staff: &Staff, now: Moment) -> bool {
        (self.merchant, self.person, self.register) == (staff.merchant, staff.id, staff.register)
            && now.unix_timestamp() - self.made_at <= AGE_SECONDS_MAX
    }

    /// What was joined when it connected.
    pub fn joined(&self) -> Vec<Joined> {
        self.channels.iter().copied().map(Joined::from).collect()
    }
}
