//! Webhooks: what the database keeps of a merchant's endpoints, and how one message is made, signed and sent.
//!
//! An endpoint is a cursor over the journal through a filter, as a screen is. It is told the events of its types one after the
//! other, each until it has answered with 2xx or its [`schedule`] has ended; while it fails, its later ones wait, and no
//! other endpoint's. A part of the journal that it is to be told once more has a cursor of its own. Who moves the cursors is
//! [`crate::workers`]'s matter.

pub mod attempts;
pub mod endpoints;
pub mod health;
pub mod leases;
pub mod mask;
pub mod message;
pub mod redeliveries;
pub mod schedule;
pub mod secrets;
pub mod sender;
pub mod signature;
pub mod skip;
pub mod trials;
