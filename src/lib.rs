//! Tillwire: a real-time commerce hub. *Kasir → layar, live.*
//!
//! The rooms, in reading order. Imports go one way: `channels` ← `journal` ← `commerce` ← edges.

// What everything stands on.
mod batches;
pub mod config;
pub mod egress;
pub mod embedded;
pub mod error;
pub mod shutdown;
pub mod telemetry;
mod turns;

// The truth: who may write, what was written, and in which order.
pub mod accounts;
pub mod audit;
pub mod commerce;
pub mod handled;
pub mod identity;
pub mod jobs;
pub mod journal;
pub mod payments;
pub mod push;
pub mod reconciliation;
pub mod schema;
pub mod screens;
pub mod vault;
pub mod webhooks;

// The ways in and out.
mod brokers;
pub mod bus;
pub mod connectors;
pub mod gateway;
pub mod http;
pub mod queues;
pub mod relay;
pub mod workers;

// What a role is given, and the roles themselves.
pub mod hub;
mod listener;
pub mod node;
pub mod roles;
mod server;

// A client of its own hub, to try it with.
pub mod demo;
