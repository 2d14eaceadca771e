//! Signing out: whose token was revoked or has expired, and whom this node cannot vouch for.

use std::collections::HashMap;

use tillwire_channels::event::AccessRevoked;
use tillwire_channels::wire::SignedOutReason;
use tillwire_channels::{Moment, StaffId};
use tillwire_socketio::CloseReason;

use super::{Feed, State};
use crate::gateway::audience::Screen;
use crate::gateway::packed::Packed;
use crate::gateway::tell;
use crate::identity::Staff;

/// How many seconds before its token expires a screen is told.
const EXPIRY_NOTICE_SECONDS: i64 = 60;

/// A screen whose token is no longer good comes back by itself, and may bring a better one.
const TOKEN_EXPIRED: CloseReason = CloseReason::Server { code: 4001, text: "token expired" };
/// This node cannot vouch for anyone; another may.
const UNVERIFIABLE: CloseReason = CloseReason::Server { code: 1013, text: "unverifiable" };

impl Feed {
    /// Whether the bearer's token is dead.
    pub fn is_revoked(&self, staff: &Staff) -> bool {
        is_revoked(&self.lock().revoked, staff)
    }

    /// Tells screens that their token is about to expire, and signs out those whose token has.
    pub fn expire(&self, now: Moment) {
        let mut state = self.lock();
        for screen in state.audience.iter_mut() {
            let left = (screen.staff.expires_at - now).whole_seconds();
            if left <= 0 {
                sign_out(screen, SignedOutReason::Expired);
            } else if left <= EXPIRY_NOTICE_SECONDS && !screen.warned {
                screen.warned = screen.socket.try_send(&[tell::token_expiring(left.unsigned_abs())]).is_ok();
            }
        }
    }

    /// Signs everyone out: this node has been cut off from the database for too long to vouch for them.
    pub fn dismiss(&self) {
        for screen in self.lock().audience.iter_mut() {
            sign_out(screen, SignedOutReason::Unverifiable);
        }
    }
}

/// Whom an entry revokes.
pub(super) fn revocations(packed: &Packed) -> Vec<AccessRevoked> {
    packed
        .events()
        .filter(|(_, event)| &*event.kind == "access.revoked")
        .filter_map(|(_, event)| serde_json::from_str(event.data.get()).ok())
        .collect()
}

/// Signs out who is revoked, before the entry that says so is told to anyone.
pub(super) fn obey(state: &mut State, revoked: Vec<AccessRevoked>) {
    for AccessRevoked { staff, issued_until } in revoked {
        let until = state.revoked.entry(staff).or_insert(issued_until);
        *until = issued_until.max(*until);
        for screen in state.audience.iter_mut() {
            if screen.staff.id == staff && screen.staff.issued_at <= issued_until {
                sign_out(screen, SignedOutReason::Revoked);
            }
        }
    }
}

pub(super) fn is_revoked(revoked: &HashMap<StaffId, Moment>, staff: &Staff) -> bool {
    revoked.get(&staff.id).is_some_and(|until| staff.issued_at <= *until)
}

/// Once for each screen: one that is closing is not told again.
pub(super) fn sign_out(screen: &mut Screen, reason: SignedOutReason) {
    if !screen.socket.is_connected() {
        return;
    }
    let _ = screen.socket.try_send(&[tell::signed_out(reason)]);
    match reason {
        // Only a person can help: the stock client does not come back from this by itself.
        SignedOutReason::Revoked => screen.socket.disconnect(),
        SignedOutReason::Expired => screen.socket.close(TOKEN_EXPIRED),
        SignedOutReason::Unverifiable => screen.socket.close(UNVERIFIABLE),
    }
    metrics::counter!("tillwire_gateway_signed_out_total", "reason" => format!("{reason:?}").to_lowercase())
        .increment(1);
}
