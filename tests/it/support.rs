//! What the stories are told with: private services, a hub on them, and screens.

pub mod account;
pub mod buses;
pub mod caller;
pub mod clients;
pub mod compose;
pub mod editor;
pub mod hub;
pub mod invariants;
pub mod ledger;
pub mod line;
pub mod metrics;
pub mod process;
pub mod providers;
pub mod push;
pub mod receiver;
pub mod screen;
pub mod services;
pub mod staged;
pub mod tap;
pub mod till;
pub mod tls;
pub mod vault;
pub mod watcher;
