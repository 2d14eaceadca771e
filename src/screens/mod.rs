//! Screens, as far as the database keeps anything of them, for any node to know: what gateways write and REST reads.
//!
//! Nothing here is journaled: it is about connections, not about the merchant's business.

pub mod joined;
pub mod keys;
pub mod presence;
pub mod seen;
