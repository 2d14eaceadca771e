//! Payments on their way: who asks providers for them, and who is told by providers.
//!
//! Whoever wants one [asks](asking) for it, which is written down. A [desk](desk) attends to one payment at a time: it asks its
//! provider for what is to be done, and hands what came of it to [commerce](crate::commerce::payments). What providers tell by
//! themselves goes into an [inbox](inbox) before anybody reads it. Neither decides what a payment becomes.

pub mod asking;
mod captures;
mod claims;
pub mod desk;
pub mod inbox;
pub mod refunding;

pub use desk::Desk;
