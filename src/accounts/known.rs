//! Accounts that were opened a moment ago, and what strangers may have kept of what they send to them: notifications come by the
//! hundred, true ones and others, and not each of them is worth a look at the database.
//!
//! Whoever acts on an account that is known here says its version in the same transaction: an account that was changed, by
//! whatever node, is opened anew. Credentials wipe themselves when they are dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tillwire_channels::MerchantId;
use uuid::Uuid;

use super::Account;
use crate::vault::KNOWN_FOR;

/// How many accounts are known at once.
const KNOWN_MAX: usize = 4_096;
/// How soon an account is opened again because something does not prove to be its provider's: its keys may be others by now.
const DOUBTED_AFTER: Duration = Duration::from_millis(100);
/// How many forgeries are kept of an account, by each node: in a minute, and in a day. They are kept for a week.
const FORGED_MAX: [(Duration, u32); 2] = [(Duration::from_secs(60), 10), (Duration::from_secs(24 * 60 * 60), 200)];

/// What is known of accounts.
#[derive(Default)]
pub struct KnownAccounts(Mutex<HashMap<(MerchantId, Uuid), Entry>>);

struct Entry {
    account: Arc<Account>,
    /// None once it is known that it was changed.
    opened_at: Option<Instant>,
    doubted_at: Instant,
    forged: [Window; FORGED_MAX.len()],
}

impl Entry {
    fn was_opened_within(&self, length: Duration) -> bool {
        self.opened_at.is_some_and(|at| at.elapsed() < length)
    }

    /// Whether forgeries are counted still: what is not known any more has none.
    fn counts_forgeries(&self) -> bool {
        let counted =
            |(window, (length, _)): (&Window, (Duration, u32))| window.count > 0 && window.since.elapsed() < length;
        self.forged.iter().zip(FORGED_MAX).any(counted)
    }
}

/// How many there were since a moment.
#[derive(Clone, Copy)]
struct Window {
    since: Instant,
    count: u32,
}

impl KnownAccounts {
    /// An account that was opened within the last minute.
    pub fn get(&self, merchant: MerchantId, account: Uuid) -> Option<Arc<Account>> {
        let known = self.lock();
        known.get(&(merchant, account)).filter(|it| it.was_opened_within(KNOWN_FOR)).map(|it| it.account.clone())
    }

    /// Whether it is to be opened again before something is said to be a forgery: one of many does so, every now and then.
    pub fn doubts(&self, merchant: MerchantId, account: Uuid) -> bool {
        let mut known = self.lock();
        let Some(entry) = known.get_mut(&(merchant, account)) else { return true };
        let is_due = entry.doubted_at.elapsed() >= DOUBTED_AFTER;
        if is_due {
            entry.doubted_at = Instant::now();
        }
        is_due
    }

    /// Keeps in mind what was just opened.
    pub fn learn(&self, merchant: MerchantId, account: Account) -> Arc<Account> {
        let (account, now) = (Arc::new(account), Instant::now());
        let (mut known, key) = (self.lock(), (merchant, account.id));
        let forged = known.get(&key).map(|it| it.forged);
        if forged.is_none() && known.len() >= KNOWN_MAX {
            known.retain(|_, it| it.was_opened_within(KNOWN_FOR) || it.counts_forgeries());
            let oldest = known.iter().min_by_key(|(_, it)| (it.counts_forgeries(), it.opened_at)).map(|(key, _)| *key);
            if let Some(oldest) = oldest.filter(|_| known.len() >= KNOWN_MAX) {
                known.remove(&oldest);
            }
        }
        let forged = forged.unwrap_or([Window { since: now, count: 0 }; FORGED_MAX.len()]);
        known.insert(key, Entry { account: account.clone(), opened_at: Some(now), doubted_at: now, forged });
        account
    }

    /// Opens it anew the next time.
    pub fn forget(&self, merchant: MerchantId, account: Uuid) {
        if let Some(entry) = self.lock().get_mut(&(merchant, account)) {
            // How many were forged is known still.
            entry.opened_at = None;
        }
    }

    /// Whether one more forgery is kept of an account, which counts as kept then.
    pub fn keeps_forgery(&self, merchant: MerchantId, account: Uuid) -> bool {
        self.keeps_forgery_at(merchant, account, Instant::now())
    }

    fn keeps_forgery_at(&self, merchant: MerchantId, account: Uuid, now: Instant) -> bool {
        let mut known = self.lock();
        let Some(entry) = known.get_mut(&(merchant, account)) else { return false };
        for (window, (length, _)) in entry.forged.iter_mut().zip(FORGED_MAX) {
            if now.saturating_duration_since(window.since) >= length {
                *window = Window { since: now, count: 0 };
            }
        }
        let is_kept = entry.forged.iter().zip(FORGED_MAX).all(|(window, (_, max))| window.count < max);
        if is_kept {
            entry.forged.iter_mut().for_each(|window| window.count += 1);
        }
        is_kept
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(MerchantId, Uuid), Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Confirm;
    use crate::connectors::credentials::{Credentials, Mode, Provider};

    fn account(id: Uuid, version: i64) -> Account {
        let json = br#"{ "provider": "midtrans", "server_key": "SB-Mid-server-a", "merchant_id": "G1" }"#;
        Account {
            id,
            provider: Provider::Midtrans,
            mode: Mode::Test,
            credentials: Credentials::of_json(json).unwrap(),
            confirm: Confirm::Strict,
            enabled: true,
            outlet: None,
            version,
        }
    }

    #[test]
    fn what_was_opened_is_known_for_its_own_merchant_until_it_is_forgotten() {
        let (known, merchant, id) = (KnownAccounts::default(), MerchantId::new(), Uuid::new_v4());
        assert!(known.get(merchant, id).is_none() && known.doubts(merchant, id));
        known.learn(merchant, account(id, 1));
        assert_eq!(known.get(merchant, id).unwrap().version, 1);
        assert!(known.get(MerchantId::new(), id).is_none(), "another merchant's");
        assert!(!known.doubts(merchant, id), "it was just opened");
        std::thread::sleep(DOUBTED_AFTER);
        assert!(known.doubts(merchant, id) && !known.doubts(merchant, id), "one of many looks");
        known.forget(merchant, id);
        assert!(known.get(merchant, id).is_none());
        known.learn(merchant, account(id, 2));
        assert_eq!(known.get(merchant, id).unwrap().version, 2);
        for _ in 0..2 * KNOWN_MAX {
            known.learn(merchant, account(Uuid::new_v4(), 1));
        }
        assert!(known.lock().len() <= KNOWN_MAX);
    }

    #[test]
    fn how_many_were_forged_outlasts_many_other_accounts() {
        let (known, merchant, id) = (KnownAccounts::default(), MerchantId::new(), Uuid::new_v4());
        known.learn(merchant, account(id, 1));
        let max = FORGED_MAX[0].1;
        assert_eq!((0..2 * max).filter(|_| known.keeps_forgery(merchant, id)).count(), max as usize);
        known.forget(merchant, id);
        for _ in 0..KNOWN_MAX + 10 {
            known.learn(merchant, account(Uuid::new_v4(), 1));
        }
        known.learn(merchant, account(id, 1));
        assert!(!known.keeps_forgery(merchant, id) && known.lock().len() <= KNOWN_MAX);
    }

    #[test]
    fn of_a_flood_of_forgeries_few_are_kept_however_often_the_account_is_opened() {
        let (known, merchant, id, now) = (KnownAccounts::default(), MerchantId::new(), Uuid::new_v4(), Instant::now());
        assert!(!known.keeps_forgery(merchant, id), "nobody knows it");
        let other = known.learn(merchant, account(Uuid::new_v4(), 1)).id;
        let keeps = |account, after| known.keeps_forgery_at(merchant, account, now + Duration::from_secs(after));
        let mut kept = Vec::new();
        // Two hours, ten a second.
        for second in 1..7_200 {
            known.learn(merchant, account(id, 1));
            kept.push((0..10).filter(|_| keeps(id, second)).count());
        }
        assert_eq!(kept[..59].iter().sum::<usize>(), 10, "in the first minute");
        assert_eq!(kept.iter().sum::<usize>(), 200, "on this day");
        assert!(keeps(other, 7_200) && keeps(id, 90_000), "another account, and the next day");
    }
}
