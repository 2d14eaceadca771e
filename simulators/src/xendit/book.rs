//! All that is known of Xendit: accounts, requests, payments, refunds, sessions, reports and what moved.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::rate::Rates;
use super::refunds::Refund;
use super::reports::Report;
use super::request::{Payment, Request};
use super::sessions::Session;
use super::transactions::Row;
use crate::account::{ACCOUNTS_MAX, XenditAccount, is_same};

/// How much of each is remembered: the oldest go.
const KEPT_MAX: usize = 50_000;
const REPORTS_MAX: usize = 100;

/// Things by id, in the order in which they came, no more than so many.
pub struct Shelf<T> {
    all: HashMap<String, T>,
    ages: VecDeque<String>,
    most: usize,
}

impl<T> Shelf<T> {
    fn new(most: usize) -> Self {
        Self { all: HashMap::new(), ages: VecDeque::new(), most }
    }

    pub fn add(&mut self, id: String, it: T) {
        if self.ages.len() == self.most
            && let Some(oldest) = self.ages.pop_front()
        {
            self.all.remove(&oldest);
        }
        self.ages.push_back(id.clone());
        self.all.insert(id, it);
    }

    pub fn get(&self, id: &str) -> Option<&T> {
        self.all.get(id)
    }

    pub fn get_mut(&mut self, id: &str) -> Option<&mut T> {
        self.all.get_mut(id)
    }

    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.ages.iter().filter_map(|id| self.all.get(id))
    }
}

pub struct Xendit {
    /// Where it is reached, without a slash at the end.
    pub base: String,
    accounts: Vec<Arc<XenditAccount>>,
    pub rates: Rates,
    pub requests: Shelf<Request>,
    pub payments: Shelf<Payment>,
    pub refunds: Shelf<Refund>,
    pub sessions: Shelf<Session>,
    pub rows: Shelf<Row>,
    pub reports: Shelf<Report>,
    /// The newest request of a reference, and the one of a code.
    references: HashMap<String, String>,
    pub codes: HashMap<String, String>,
}

impl Xendit {
    pub fn new(base: String, accounts: Vec<XenditAccount>, rate_max: Option<u32>) -> Self {
        Self {
            base,
            accounts: accounts.into_iter().map(Arc::new).collect(),
            rates: Rates::new(rate_max),
            requests: Shelf::new(KEPT_MAX),
            payments: Shelf::new(KEPT_MAX),
            refunds: Shelf::new(KEPT_MAX),
            sessions: Shelf::new(KEPT_MAX),
            rows: Shelf::new(2 * KEPT_MAX),
            reports: Shelf::new(REPORTS_MAX),
            references: HashMap::new(),
            codes: HashMap::new(),
        }
    }

    /// Adds an account, or changes the one with this business id.
    ///
    /// # Errors
    /// If there are too many, or another has this key.
    pub fn put(&mut self, account: XenditAccount) -> Result<(), String> {
        let mut others = self.accounts.iter().filter(|it| it.business_id != account.business_id);
        if others.any(|it| it.secret_key == account.secret_key) {
            return Err("secret_key must be of no other business".into());
        }
        match self.accounts.iter().position(|it| it.business_id == account.business_id) {
            Some(at) => self.accounts[at] = Arc::new(account),
            None if self.accounts.len() == ACCOUNTS_MAX => return Err(format!("there are {ACCOUNTS_MAX} accounts")),
            None => self.accounts.push(Arc::new(account)),
        }
        Ok(())
    }

    pub fn account(&self, business_id: &str) -> Option<Arc<XenditAccount>> {
        self.accounts.iter().find(|it| it.business_id == business_id).cloned()
    }

    pub fn account_of_key(&self, secret_key: &str) -> Option<Arc<XenditAccount>> {
        self.accounts.iter().find(|it| is_same(&it.secret_key, secret_key)).cloned()
    }

    pub fn add_request(&mut self, request: Request) {
        // What is forgotten here is found by nobody: both point to the shelf.
        for map in [&mut self.references, &mut self.codes] {
            if map.len() > 2 * KEPT_MAX {
                map.retain(|_, id| self.requests.all.contains_key(id));
            }
        }
        self.references.insert(request.reference.clone(), request.id.clone());
        if !request.code.is_empty() {
            self.codes.insert(request.code.clone(), request.id.clone());
        }
        self.requests.add(request.id.clone(), request);
    }

    /// The newest request of this reference, of any account.
    pub fn of_reference(&self, reference: &str) -> Option<&Request> {
        self.requests.get(self.references.get(reference)?)
    }

    /// By whatever it is known: its id, its reference, one of its payments or refunds, its session, its code.
    pub fn request_of(&self, id: &str) -> Option<&Request> {
        let known = self.requests.get(id).map(|it| it.id.as_str());
        let by_payment = || self.payments.get(id).map(|it| it.request.as_str());
        let by_refund = || self.refunds.get(id).map(|it| it.request.as_str());
        let by_session = || self.sessions.get(id)?.request.as_deref();
        let by_name = || self.references.get(id).or_else(|| self.codes.get(id)).map(String::as_str);
        let found = known.or_else(by_payment).or_else(by_refund).or_else(by_session).or_else(by_name)?;
        self.requests.get(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shelf_forgets_what_came_first() {
        let mut shelf = Shelf::new(2);
        for (id, it) in [("a", 1), ("b", 2), ("c", 3)] {
            shelf.add(id.to_owned(), it);
        }
        assert_eq!((shelf.get("a"), shelf.iter().copied().collect::<Vec<_>>()), (None, vec![2, 3]));
    }
}
