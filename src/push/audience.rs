//! Audience: to whom an event may be told. Nobody hears more by push than a screen of theirs would.

use std::collections::BTreeSet;

use tillwire_channels::topic::Listener;
use tillwire_channels::{Channel, Stored};

/// Whether somebody may hear an event: if there is a channel that they may join and that hears it, and their view is enough.
pub fn may_hear(listener: &Listener<'_>, event: &Stored) -> bool {
    listener.view() >= event.view && heard_on(event).into_iter().any(|channel| listener.may_join(channel))
}

/// The channels on which an event is heard: those that it names, and their beginnings. A topic that this node does not know
/// is heard by nobody.
pub fn heard_on(event: &Stored) -> BTreeSet<Channel> {
    let named = event.channels.iter().filter_map(|channel| channel.parse::<Channel>().ok());
    named.flat_map(|channel| [channel, Channel { register: None, ..channel }, channel.topic.everywhere()]).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tillwire_channels::{OutletId, RegisterId, Role};

    use super::*;

    #[test]
    fn who_could_join_is_told_and_nobody_else() {
        let (outlet, register) = (OutletId::new(), RegisterId::new());
        let event = |channels: &[&str], view: &str| -> Stored {
            let stored = json!({ "type": "payment.captured", "channels": channels, "view": view, "outlet": outlet,
                "register": register, "occurred_at": "2026-11-29T00:00:00Z", "data": {} });
            serde_json::from_str(&stored.to_string()).unwrap()
        };
        let paid = event(&[&format!("payments/{outlet}/{register}")], "till");
        let hears = |role, outlets: &[OutletId], register| may_hear(&Listener { role, outlets, register }, &paid);
        assert!(hears(Role::Owner, &[], None) && hears(Role::Manager, &[outlet], None));
        assert!(hears(Role::Cashier, &[outlet], Some(register)));
        assert!(!hears(Role::Cashier, &[outlet], Some(RegisterId::new())), "another till's");
        assert!(!hears(Role::Manager, &[OutletId::new()], None), "another outlet's");
        assert!(!hears(Role::Clerk, &[], None) && !hears(Role::Display, &[], None), "not the role's to hear");

        let owner = Listener { role: Role::Owner, outlets: &[], register: None };
        let cashier = Listener { role: Role::Cashier, outlets: &[], register: None };
        let secret = event(&["payments"], "office");
        assert!(may_hear(&owner, &secret) && !may_hear(&cashier, &secret), "the view is not enough");
        let unknown = event(&["horoscopes", "", "payments/none"], "display");
        assert!(!may_hear(&owner, &unknown), "nobody knows who may");
    }
}
