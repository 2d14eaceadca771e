//! Interest: the merchants that this node has feeds for.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use tillwire_channels::MerchantId;
use tokio::sync::watch;

/// The merchants that this node listens to. Buses watch it and subscribe accordingly.
pub struct Interest {
    merchants: Mutex<HashSet<MerchantId>>,
    /// Counts the changes; several may be seen as one.
    changes: watch::Sender<u64>,
}

impl Default for Interest {
    fn default() -> Self {
        Self { merchants: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl Interest {
    /// Listens to a merchant from now on.
    pub fn begin(&self, merchant: MerchantId) {
        if self.lock().insert(merchant) {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// Listens to a merchant no more.
    pub fn end(&self, merchant: MerchantId) {
        if self.lock().remove(&merchant) {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// The merchants listened to now.
    pub fn merchants(&self) -> HashSet<MerchantId> {
        self.lock().clone()
    }

    /// Whether this merchant is listened to.
    pub fn includes(&self, merchant: MerchantId) -> bool {
        self.lock().contains(&merchant)
    }

    /// Tells of changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<MerchantId>> {
        // A set of ids is whole after every operation, whoever panicked.
        self.merchants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
