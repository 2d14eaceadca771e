//! Payments: what a provider carries for a sale.

pub mod state;
