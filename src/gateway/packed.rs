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
}

type PacketByView = [OnceLock<Encoded>; View::ALL.len()];

impl Packed {
    /// # Errors
    /// If the entry does not hold events: a journal that was tampered with.
    pub fn new(entry: Arc<Entry>) -> anyhow::Result<Self> {
        let packets = entry.events()?.iter().map(|_| PacketByView::default()).collect();
        Ok(Self { entry, packets })
    }

    /// The events with their numbers, from 1.
    pub fn events(&self) -> impl Iterator<Item = (u32, &Stored)> {
        // INVARIANT: `new` has read them.
        (1..).zip(self.entry.events().unwrap_or_default())
    }

    /// The packet of an event for a view, encoded when first asked for; `None` if there is no such event.
    pub fn packet(&self, number: u32, view: View) -> Option<&Encoded> {
        let at = number.checked_sub(1)? as usize;
        let (event, slot) = (self.entry.events().ok()?.get(at)?, &self.packets.get(at)?[view as usize]);
        if let Some(packet) = slot.get() {
            return Some(packet);
        }
        let of = (number, u32::try_from(self.packets.len()).ok()?);
        let envelope = event.envelope(view, self.entry.seq, of, self.entry.recorded_at).ok()?;
        let position = Position::of_event(self.entry.seq, number, self.entry.tag);
        let json = serde_json::to_string(&envelope).ok()?;
        Some(slot.get_or_init(|| Encoded::event_json(&event.kind, &[&json, &format!("\"{position}\"")])))
    }
}
