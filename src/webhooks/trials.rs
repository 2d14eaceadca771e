//! Test messages: somebody waits for a stranger's answer, so few are under way, and of each merchant one.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tillwire_channels::MerchantId;

/// How many are under way on a node.
const UNDER_WAY_MAX: usize = 32;

/// Whose test messages are under way.
#[derive(Debug, Default)]
pub struct Trials(Mutex<HashSet<MerchantId>>);

/// One that is.
pub struct Turn {
    of: Arc<Trials>,
    merchant: MerchantId,
}

impl Trials {
    /// A turn, unless this merchant has one, or there are enough.
    pub fn begin(self: &Arc<Self>, merchant: MerchantId) -> Option<Turn> {
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = under_way.len() < UNDER_WAY_MAX && under_way.insert(merchant);
        is_free.then(|| Turn { of: self.clone(), merchant })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.of.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.merchant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merchant_has_one_at_a_time_and_all_together_few() {
        let trials = Arc::new(Trials::default());
        let merchant = MerchantId::new();
        let turn = trials.begin(merchant);
        assert!(turn.is_some() && trials.begin(merchant).is_none());
        let others: Vec<_> = (1..UNDER_WAY_MAX).map(|_| trials.begin(MerchantId::new())).collect();
        assert!(others.iter().all(Option::is_some) && trials.begin(MerchantId::new()).is_none());
        drop(turn);
        assert!(trials.begin(merchant).is_some());
    }
}
