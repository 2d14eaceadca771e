//! The simulators, from outside: what each endpoint answers, what each webhook says and when, and whether the providers'
//! own clients can tell them from the real thing.

mod clients;
mod control;
mod docs;
mod faults;
mod midtrans;
mod process;
mod support;
mod webhooks;
mod xendit;
