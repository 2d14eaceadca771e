//! The roles that one binary can take. They never import one another.

pub mod demo;
pub mod doctor;
pub mod jobs;
pub mod journal;
pub mod migrate;
pub mod queues;
pub mod serve;
pub mod tail;
pub mod token;
pub mod vault;
