//! The nemesis: breaks what a hub stands on while tills sell and screens listen, by a plan that a seed decides, and
//! compares at the end what every screen was sent with the journal, and what every till was answered.
//!
//! It starts nothing itself: whoever does hands it a [stage](round::Stage). The short form is in `tests/it`, the long one
//! in `loadtest faults`. Reading order: [`schedule`], [`proxy`], [`victim`], [`shop`], [`till`], [`screen`], [`record`],
//! [`journal`], [`checker`], [`round`].

pub mod checker;
mod http;
pub mod journal;
mod line;
mod port;
pub mod proxy;
pub mod record;
pub mod round;
pub mod schedule;
mod screen;
pub mod shop;
pub mod stock;
mod till;
pub mod victim;

pub use port::free_port;
