//! Whose journals have moved: a hint for whoever follows journals, who would else find it when they next look.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use tillwire_channels::MerchantId;
use tokio::sync::Notify;

/// How many merchants are kept in mind. Whoever comes on top is found by looking.
const MERCHANTS_MAX: usize = 8_192;

/// A set of merchants, each named once however often their journals moved since somebody last took it. It never waits.
#[derive(Debug, Default)]
pub struct Moved {
    merchants: Mutex<HashSet<MerchantId>>,
    rings: Notify,
}

impl Moved {
    /// This journal has moved.
    pub fn name(&self, merchant: MerchantId) {
        let mut merchants = self.merchants.lock().unwrap_or_else(PoisonError::into_inner);
        if merchants.len() < MERCHANTS_MAX && merchants.insert(merchant) {
            self.rings.notify_one();
        }
    }

    /// Waits until somebody is named, and takes so many of them.
    pub async fn take(&self, merchants_max: usize) -> Vec<MerchantId> {
        loop {
            // Before looking, so that whoever is named meanwhile is not missed.
            let rings = self.rings.notified();
            let taken = self.take_now(merchants_max);
            if !taken.is_empty() {
                return taken;
            }
            rings.await;
        }
    }

    /// Takes so many of those who are named.
    pub fn take_now(&self, merchants_max: usize) -> Vec<MerchantId> {
        let mut merchants = self.merchants.lock().unwrap_or_else(PoisonError::into_inner);
        if merchants.len() <= merchants_max {
            return merchants.drain().collect();
        }
        let taken: Vec<MerchantId> = merchants.iter().take(merchants_max).copied().collect();
        taken.iter().for_each(|merchant| _ = merchants.remove(merchant));
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[tokio::test]
    async fn whoever_is_named_is_taken_once_however_often_and_however_few_at_a_time() {
        let moved = Moved::default();
        let merchants: BTreeSet<MerchantId> = (0..10).map(|_| MerchantId::new()).collect();
        for merchant in merchants.iter().chain(&merchants) {
            moved.name(*merchant);
        }
        let mut taken = BTreeSet::new();
        for expected in [4, 4, 2] {
            let some = moved.take(4).await;
            assert_eq!(some.len(), expected);
            taken.extend(some);
        }
        assert_eq!(taken, merchants);
        assert!(moved.take_now(4).is_empty());
    }

    #[tokio::test]
    async fn whoever_waits_is_woken() {
        let moved = Moved::default();
        let merchant = MerchantId::new();
        let naming = async {
            tokio::task::yield_now().await;
            moved.name(merchant);
        };
        assert_eq!(tokio::join!(moved.take(4), naming).0, [merchant]);
    }

    #[test]
    fn no_more_are_kept_in_mind_than_there_is_room_for() {
        let moved = Moved::default();
        (0..MERCHANTS_MAX + 5).for_each(|_| moved.name(MerchantId::new()));
        assert_eq!(moved.take_now(usize::MAX).len(), MERCHANTS_MAX);
    }
}
