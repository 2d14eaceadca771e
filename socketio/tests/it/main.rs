//! The crate from outside: real TCP, both transports, and a client of our own that does only what it is told.

mod engine;
mod joining;
mod limits;
mod peer;
mod recovery;
mod sending;
mod server;
mod socketio;
mod stopping;
mod websocket;
