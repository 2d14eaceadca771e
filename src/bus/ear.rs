//! The way in: what a broker delivers is decoded, if its merchant is listened to, and handed to the feeds.

use std::sync::Arc;

use tracing::debug;

use super::{Interest, Queue, codec, count_dropped};

/// Where a bus brings what it hears. Cheap to clone, and never waits.
#[derive(Clone)]
pub struct Ear {
    pub bus: &'static str,
    pub heard: Queue,
    pub interest: Arc<Interest>,
}

impl Ear {
    pub fn hear(&self, message: &[u8]) {
        let bus = self.bus;
        match codec::decode(bus, message, |merchant| self.interest.includes(merchant)) {
            // Shares a routing key with one we listen to, or is one that we have just left.
            Ok(None) => {}
            Ok(Some(carried)) => {
                metrics::counter!("tillwire_bus_heard_total", "bus" => bus).increment(1);
                if !self.heard.put(carried) {
                    count_dropped(bus, "feeds_behind", 1);
                }
            }
            Err(error) => {
                debug!(bus, "Ignored a message of {} bytes on {bus}: {error:#}", message.len());
                count_dropped(bus, "undecodable", 1);
            }
        }
    }
}
