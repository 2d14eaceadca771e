//! Coming back: what a screen's private id says, and what becomes of a screen that brings one.
//!
//! The stock JavaScript client keeps the `pid` of its first CONNECT reply and the last string that ended an event, and
//! brings both when it connects again. The `pid` is sealed and says all that is needed, so nothing is written when a
//! screen connects. Only what it joined and left afterwards is in the database.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tillwire_channels::{MerchantId, Moment, Position, RegisterId, StaffId};
use tillwire_socketio::SocketId;

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

    /// As which screen this bearer goes on, and where: at its offset, or where the journal stood when it first connected,
    /// for without an offset it has heard nothing yet. With one that is no position it has heard something else than us.
    ///
    /// # Errors
    /// A word for why it is a new screen instead.
    pub fn resume(
        &self,
        staff: &Staff,
        offset: Option<&str>,
        now: Moment,
    ) -> Result<(SocketId, Position), &'static str> {
        if !self.is_of(staff, now) {
            return Err("pid_of_another");
        }
        let position = offset.map_or(Ok(self.from), str::parse);
        position.ok().zip(self.screen.parse().ok()).map(|(position, id)| (id, position)).ok_or("malformed_offset")
    }

    /// Whether this bearer may go on where it was left. Staff share tills: another person's is not an error, only not
    /// theirs.
    fn is_of(&self, staff: &Staff, now: Moment) -> bool {
        (self.merchant, self.person, self.register) == (staff.merchant, staff.id, staff.register)
            && now.unix_timestamp() - self.made_at <= AGE_SECONDS_MAX
    }

    /// How long ago it was made.
    pub fn age(&self, now: Moment) -> Duration {
        Duration::from_secs((now.unix_timestamp() - self.made_at).try_into().unwrap_or_default())
    }

    /// What was joined when it connected.
    pub fn joined(&self) -> Vec<Joined> {
        self.channels.iter().copied().map(Joined::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tillwire_channels::{OutletId, Role, Tag, Topic};

    use super::super::seals::tests::keys;
    use super::*;

    fn id(number: u8) -> uuid::Uuid {
        uuid::Uuid::from_u128(number.into())
    }

    /// Few of each, so that two are now and then the same.
    fn bearer() -> impl Strategy<Value = (MerchantId, StaffId, Option<RegisterId>)> {
        let few = || (0..2_u8).prop_map(id);
        (few(), few(), prop::option::of(few()))
            .prop_map(|(merchant, person, register)| (MerchantId(merchant), StaffId(person), register.map(RegisterId)))
    }

    fn staff((merchant, id, register): (MerchantId, StaffId, Option<RegisterId>)) -> Staff {
        let (issued_at, expires_at, token) = (Moment::UNIX_EPOCH, Moment::UNIX_EPOCH, uuid::Uuid::nil());
        Staff {
            merchant,
            id,
            token,
            role: Role::Owner,
            outlets: Vec::new(),
            register,
            issued_at,
            expires_at,
            trace: None,
        }
    }

    fn position() -> impl Strategy<Value = Position> {
        (0..=i64::MAX as u64, 0..9_u32, any::<[u8; 8]>()).prop_map(|(seq, event, tag)| match event {
            0 => Position::of_entry(seq, Tag(tag)),
            event => Position::of_event(seq, event, Tag(tag)),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whoever_brings_its_own_id_in_time_goes_on_at_its_offset(
            (own, bearer, from) in (bearer(), bearer(), position()),
            offset in prop_oneof![
                Just(None),
                position().prop_map(|position| Some(position.to_string())),
                "\\PC{0,12}".prop_map(Some),
            ],
            outlets in prop::collection::vec(any::<u128>(), 0..4),
            (age, sealed_by, known) in (0..2 * AGE_SECONDS_MAX, 1..4_i16, prop::collection::btree_set(1..4_i16, 1..4)),
        ) {
            let screen = SocketId::random();
            let joined: Vec<Joined> =
                outlets.iter().map(|outlet| Topic::Sales.at(OutletId(uuid::Uuid::from_u128(*outlet))).into()).collect();
            let made_at = Moment::from_unix_timestamp(1_800_000_000).unwrap();
            let pid = Pid::new(&staff(own), screen.to_string(), from, &joined, made_at);
            let text = pid.seal(&keys(&[sealed_by])).unwrap();
            let known: Vec<i16> = known.into_iter().collect();
            let opened = Pid::open(&keys(&known), &text);
            prop_assert_eq!(opened.as_ref(), known.contains(&sealed_by).then_some(&pid));

            let now = Moment::from_unix_timestamp(1_800_000_000 + age).unwrap();
            let resumed = pid.resume(&staff(bearer), offset.as_deref(), now);
            let expected = match offset.as_deref().map(str::parse::<Position>) {
                _ if own != bearer || age > AGE_SECONDS_MAX => Err("pid_of_another"),
                None => Ok((screen, from)),
                Some(Ok(offset)) => Ok((screen, offset)),
                Some(Err(_)) => Err("malformed_offset"),
            };
            prop_assert_eq!(resumed, expected);
            prop_assert_eq!(pid.joined(), joined);
        }

        #[test]
        fn an_id_that_was_changed_cut_or_made_up_opens_nothing(
            (own, from, at, bit) in (bearer(), position(), any::<prop::sample::Index>(), 0..8_u8),
            made_up in "[A-Za-z0-9_-]{0,300}",
        ) {
            let keys = keys(&[1, 2]);
            let pid = Pid::new(&staff(own), SocketId::random().to_string(), from, &[], Moment::UNIX_EPOCH);
            let text = pid.seal(&keys).unwrap();
            prop_assert_eq!(Pid::open(&keys, &made_up), None);
            prop_assert_eq!(Pid::open(&keys, &text[..at.index(text.len())]), None);
            let mut changed = text.clone().into_bytes();
            changed[at.index(text.len())] ^= 1 << bit;
            // The last character's lowest bits are padding, which must be nothing.
            let changed = String::from_utf8_lossy(&changed);
            prop_assert_eq!(Pid::open(&keys, &changed), None, "{}", changed);
        }
    }
}
