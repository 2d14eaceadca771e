//! Queues: what the durable path has at RabbitMQ, and how whoever works takes from it. This room knows no journal and no
//! handler: it carries bytes, and does with them what it is told.

pub mod depth;
mod headers;
pub mod intake;
pub mod moved;
mod out;
pub mod topology;
