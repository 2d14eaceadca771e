//! What the stories are told with: private services, and a hub on them.

pub mod hub;
pub mod services;
