//! Turns: how much is on its way to services outside at once, so that what hangs of one merchant does not hold up the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tillwire_channels::MerchantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// For how many merchants it is kept how many they have; beyond that, for those alone who have some.
const KEPT_MAX: usize = 256;

pub struct Turns {
    all: Arc<Semaphore>,
    of_one_max: usize,
    of: Mutex<HashMap<MerchantId, Arc<Semaphore>>>,
}

/// One that is held.
pub struct Turn<'a> {
    _of_one: OwnedSemaphorePermit,
    _of_all: SemaphorePermit<'a>,
}

/// One that is held by a task of its own.
pub struct OwnTurn {
    _of_one: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Turns {
    /// So many at once, and so many of them one merchant's.
    pub fn new(all_max: usize, of_one_max: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all_max)), of_one_max, of: Mutex::default() }
    }

    /// A merchant's turn, when one is free: first of its own, so that nobody else waits for those. None if there are none.
    pub async fn begin(&self, merchant: MerchantId) -> Option<Turn<'_>> {
        let of_one = self.of(merchant).acquire_owned().await.ok()?;
        Some(Turn { _of_one: of_one, _of_all: self.all.acquire().await.ok()? })
    }

    /// A merchant's turn if one is free, for whoever does not wait.
    pub fn begin_now(&self, merchant: MerchantId) -> Option<OwnTurn> {
        let of_one = self.of(merchant).try_acquire_owned().ok()?;
        Some(OwnTurn { _of_one: of_one, _of_all: self.all.clone().try_acquire_owned().ok()? })
    }

    fn of(&self, merchant: MerchantId) -> Arc<Semaphore> {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if of.len() >= KEPT_MAX {
            of.retain(|_, turns| Arc::strong_count(turns) > 1);
        }
        of.entry(merchant).or_insert_with(|| Arc::new(Semaphore::new(self.of_one_max))).clone()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const AT_ONCE_MAX: usize = 64;
    const OF_ONE_MAX: usize = 16;

    #[test]
    fn a_merchant_has_its_part_and_the_others_theirs() {
        let turns = Turns::new(AT_ONCE_MAX, OF_ONE_MAX);
        let merchants: Vec<MerchantId> = (0..4).map(|_| MerchantId::new()).collect();
        let begins = |merchant: MerchantId| turns.begin(merchant).now_or_never().flatten();
        let mut held: Vec<_> = (0..OF_ONE_MAX).map_while(|_| begins(merchants[0])).collect();
        assert!(held.len() == OF_ONE_MAX && begins(merchants[0]).is_none());
        for merchant in &merchants[1..] {
            held.extend((0..OF_ONE_MAX).map_while(|_| begins(*merchant)));
        }
        assert!(held.len() == AT_ONCE_MAX && begins(MerchantId::new()).is_none(), "all of them");
        held.remove(0);
        assert!(turns.begin_now(merchants[1]).is_none() && turns.begin_now(merchants[0]).is_some());
        assert!(begins(merchants[1]).is_none() && begins(merchants[0]).is_some());
        for _ in 0..2 * KEPT_MAX {
            turns.of(MerchantId::new());
        }
        assert!(turns.of.lock().unwrap().len() <= KEPT_MAX && begins(merchants[1]).is_none(), "what is held is known");
    }
}
