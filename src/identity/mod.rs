//! Identity: who someone is and what they may do.
//!
//! The door is [`Staff`]: a verified bearer, made by [`tokens::Verifier::verify`] and by nothing else. Whatever comes
//! later (log-in, OAuth, passkeys, API keys) ends in a `Staff`, and every edge asks it with [`Staff::may`].

mod permission;
pub mod staff;
pub mod tokens;

pub use permission::Permission;

use tillwire_channels::topic::Listener;
use tillwire_channels::{MerchantId, Moment, OutletId, RegisterId, Role, StaffId};

use crate::error::{Error, Result};
use crate::journal::Caller;

/// A verified bearer: whoever holds one has shown a token that was good a moment ago.
#[derive(Clone, Debug)]
pub struct Staff {
    pub merchant: MerchantId,
    pub id: StaffId,
    /// Which token it was: its `jti`.
    pub token: uuid::Uuid,
    pub role: Role,
    /// The outlets the bearer is bound to; empty for all.
    pub outlets: Vec<OutletId>,
    /// The register the bearer is bound to, if any.
    pub register: Option<RegisterId>,
    pub issued_at: Moment,
    pub expires_at: Moment,
    /// The request that it came with, if it was one.
    pub trace: Option<uuid::Uuid>,
}

impl Staff {
    /// Whether the role allows it, at whatever outlet.
    pub fn may(&self, permission: Permission) -> Result<()> {
        if permission.roles().contains(&self.role) { Ok(()) } else { Err(Error::Denied(permission)) }
    }

    /// Whether it is allowed at this outlet.
    pub fn may_at(&self, permission: Permission, outlet: OutletId) -> Result<()> {
        self.may(permission)?;
        if self.outlets.is_empty() || self.outlets.contains(&outlet) { Ok(()) } else { Err(Error::Denied(permission)) }
    }

    /// Whether it is allowed at every outlet: for what belongs to the merchant as a whole.
    pub fn may_everywhere(&self, permission: Permission) -> Result<()> {
        self.may(permission)?;
        if self.outlets.is_empty() { Ok(()) } else { Err(Error::Denied(permission)) }
    }

    /// The bearer as one who asks to listen.
    pub fn listener(&self) -> Listener<'_> {
        Listener { role: self.role, outlets: &self.outlets, register: self.register }
    }

    /// The bearer as one who acts.
    pub fn caller(&self) -> Caller {
        Caller { merchant: self.merchant, staff: self.id, issued_at: self.issued_at, trace: self.trace }
    }
}
