//! Turns: of one merchant only so many entries are attended to at once, so that none has all the places.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tillwire_channels::MerchantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many entries of one merchant a handler attends to at once, on one node.
const OF_ONE_MAX: usize = 8;
/// How long an entry waits for those of its merchant before it gives its place to others.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// How many merchants are known before those who have nothing under way are forgotten.
const KNOWN_MAX: usize = 4_096;

#[derive(Default)]
pub struct Turns(Mutex<HashMap<MerchantId, Arc<Semaphore>>>);

impl Turns {
    /// A turn, held until it is dropped; none if all of the merchant's are taken for a while.
    pub async fn take(&self, merchant: MerchantId) -> Option<OwnedSemaphorePermit> {
        let own = self.own(merchant);
        tokio::time::timeout(WAIT_MAX, own.acquire_owned()).await.ok()?.ok()
    }

    fn own(&self, merchant: MerchantId) -> Arc<Semaphore> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.retain(|_, turns| Arc::strong_count(turns) > 1);
        }
        known.entry(merchant).or_insert_with(|| Arc::new(Semaphore::new(OF_ONE_MAX))).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_merchant_that_takes_its_time_leaves_places_to_others() {
        let (turns, merchant, other) = (Turns::default(), MerchantId::new(), MerchantId::new());
        let mut held = Vec::new();
        for _ in 0..OF_ONE_MAX {
            held.push(turns.take(merchant).await.unwrap());
        }
        assert!(turns.take(merchant).await.is_none());
        assert!(turns.take(other).await.is_some());
        held.pop();
        assert!(turns.take(merchant).await.is_some());
    }

    #[tokio::test]
    async fn those_who_have_nothing_under_way_are_forgotten() {
        let turns = Turns::default();
        let _held = turns.take(MerchantId::new()).await.unwrap();
        for _ in 0..KNOWN_MAX * 2 {
            drop(turns.take(MerchantId::new()).await.unwrap());
        }
        assert!(turns.0.lock().unwrap().len() <= KNOWN_MAX);
    }
}
