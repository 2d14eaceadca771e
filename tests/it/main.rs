//! The one integration test binary: stories of a shop, told from outside, on real services that it starts itself.

mod buses;
mod clients;
mod demo;
mod deploy;
mod docs;
mod doctor;
mod embedded;
mod faults;
mod feeds;
mod gateway;
mod import;
mod journal;
mod operating;
mod page;
mod process;
mod reads;
mod rest;
mod restore;
mod retention;
mod sales;
mod services;
mod support;
mod tail;
mod tokens;
mod walls;
mod writes;
