//! Brokers: how Redis and RabbitMQ are reached, whatever is then carried over them.

pub mod amqp;
pub mod link;
pub mod urls;
pub mod wire;
