//! An entry ready for screens: each of its events is encoded once for each view that hears it, and shared.

use std::sync::{Arc, OnceLock};

use tillwire_channels::{Position, Stored, View};
use tillwire_socketio::Encoded;

use crate::journal::Entry;

/// An entry whose events are known to be readable.
#[derive(Debug)]
pub struct Packed {
    pub entry: Arc<Entry>,
    /// For each event, its packet for each view.
    packets: Box<[PacketByView]>,
    /// For each event, the name of the value that it brings, if it brings one. Known when first asked for.
    values: OnceLock<Box<[Option<Box<str>>]>>,
}

type PacketByView = [OnceLock<Encoded>; View::ALL.len()];

impl Packed {
    /// # Errors
    /// If the entry does not hold events: a journal that was tampered with.
    pub fn new(entry: Arc<Entry>) -> anyhow::Result<Self> {
        let packets = entry.events()?.iter().map(|_| PacketByView::default()).collect();
        Ok(Self { entry, packets, values: OnceLock::new() })
    }

    /// The events with their numbers, from 1.
    pub fn events(&self) -> impl Iterator<Item = (u32, &Stored)> {
        // INVARIANT: `new` has read them.
        (1..).zip(self.entry.events().unwrap_or_default())
    }

    /// The packet of an event for a view, encoded when first asked for; `None` if there is no such event.
    pub fn packet(&self, number: u32, view: View) -> Option<&Encoded> {
        let slot = &self.packets.get(index(number)?)?[view as usize];
        if let Some(packet) = slot.get() {
            return Some(packet);
        }
        let packet = self.encode(number, view, None)?;
        Some(slot.get_or_init(|| packet))
    }

    /// The same for one that stands for so many earlier ones.
    pub fn merged_packet(&self, number: u32, view: View, merged: u32) -> Option<Encoded> {
        self.encode(number, view, Some(merged))
    }

    fn encode(&self, number: u32, view: View, merged: Option<u32>) -> Option<Encoded> {
        let event = self.entry.events().ok()?.get(index(number)?)?;
        let of = (number, u32::try_from(self.packets.len()).ok()?);
        let mut envelope = event.envelope(view, self.entry.seq, of, self.entry.recorded_at).ok()?;
        envelope.merged = merged;
        let position = Position::of_event(self.entry.seq, number, self.entry.tag);
        let json = serde_json::to_string(&envelope).ok()?;
        Some(Encoded::event_json(&event.kind, &[&json, &format!("\"{position}\"")]))
    }

    /// The name of the value that an event brings, see [`Stored::value`].
    pub fn value(&self, number: u32) -> Option<&str> {
        let values = self.values.get_or_init(|| self.events().map(|(_, event)| event.value()).collect());
        values.get(index(number)?)?.as_deref()
    }
}

/// Where an event of this number is in its entry.
fn index(number: u32) -> Option<usize> {
    Some(number.checked_sub(1)? as usize)
}

#[cfg(test)]
pub(super) mod tests {
    use tillwire_channels::{Channel, MerchantId, Moment, Role, StaffId, Tag};

    use super::*;
    use crate::gateway::audience::{Joined, heard};
    use crate::identity::Staff;
    use crate::screens::joined;

    pub fn someone(role: Role) -> Staff {
        let (issued_at, expires_at) = (Moment::UNIX_EPOCH, Moment::UNIX_EPOCH);
        let (merchant, id) = (MerchantId::new(), StaffId::new());
        Staff {
            merchant,
            id,
            token: uuid::Uuid::new_v4(),
            role,
            outlets: Vec::new(),
            register: None,
            issued_at,
            expires_at,
            trace: None,
        }
    }

    #[test]
    fn an_event_is_encoded_once_for_each_view_and_shared() {
        let text = r#"[{
            "type": "sale.completed", "channels": ["sales"], "view": "display",
            "occurred_at": "2026-11-24T00:00:00Z", "data": { "total_minor": 7500, "tenders": [] }
        }]"#;
        let entry = Entry::new(MerchantId::new(), 1, Tag::GENESIS, Tag([1; 8]), Moment::UNIX_EPOCH, text.into());
        let packed = Packed::new(Arc::new(entry)).unwrap();
        let joined = [Joined::from(joined::Joined::from("sales".parse::<Channel>().unwrap()))];
        let before = Position::of_entry(0, Tag::GENESIS);
        let packet = |role| heard(&packed, &joined, &someone(role), before).last().unwrap();
        let (owner, manager, display) = (packet(Role::Owner), packet(Role::Manager), packet(Role::Display));
        assert!(owner.is(&manager));
        assert!(display.is(&packet(Role::Display)));
        assert!(!owner.is(&display));
        assert!(owner.text().contains("tenders") && !display.text().contains("tenders"));
    }
}
