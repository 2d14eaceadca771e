//! All that is known of Midtrans: accounts, transactions, tokens of cards and answers that are kept.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::cards::Token;
use super::idempotency::Kept;
use super::transaction::{State, Transaction};
use crate::account::{ACCOUNTS_MAX, MidtransAccount, is_same};

/// How many transactions are remembered: the oldest go.
const TRANSACTIONS_MAX: usize = 50_000;
/// How many tokens of cards wait to be used.
const TOKENS_MAX: usize = 10_000;

pub struct Midtrans {
    /// Where it is reached, without a slash at the end.
    pub base: String,
    accounts: Vec<Arc<MidtransAccount>>,
    pub transactions: HashMap<String, Transaction>,
    /// The newest transaction of each order of a merchant.
    orders: HashMap<(String, String), String>,
    /// The newest transaction of each code that customers read or type.
    codes: HashMap<String, String>,
    ages: VecDeque<String>,
    tokens: HashMap<String, Token>,
    token_ages: VecDeque<String>,
    pub kept: Kept,
    pub refunds: u64,
}

impl Midtrans {
    pub fn new(base: String, accounts: Vec<MidtransAccount>) -> Self {
        Self {
            base,
            accounts: accounts.into_iter().map(Arc::new).collect(),
            transactions: HashMap::new(),
            orders: HashMap::new(),
            codes: HashMap::new(),
            ages: VecDeque::new(),
            tokens: HashMap::new(),
            token_ages: VecDeque::new(),
            kept: Kept::default(),
            refunds: 0,
        }
    }

    /// Adds an account, or changes the one with this merchant id.
    ///
    /// # Errors
    /// If there are too many, or another has this key.
    pub fn put(&mut self, account: MidtransAccount) -> Result<(), String> {
        let same = self.accounts.iter().position(|it| it.merchant_id == account.merchant_id);
        let others = self.accounts.iter().filter(|it| it.merchant_id != account.merchant_id);
        if others.clone().any(|it| it.server_key == account.server_key || it.client_key == account.client_key) {
            return Err("server_key and client_key must be of no other merchant".into());
        }
        match same {
            Some(at) => self.accounts[at] = Arc::new(account),
            None if self.accounts.len() == ACCOUNTS_MAX => return Err(format!("there are {ACCOUNTS_MAX} accounts")),
            None => self.accounts.push(Arc::new(account)),
        }
        Ok(())
    }

    pub fn accounts(&self) -> impl Iterator<Item = &Arc<MidtransAccount>> {
        self.accounts.iter()
    }

    pub fn account(&self, merchant_id: &str) -> Option<Arc<MidtransAccount>> {
        self.accounts.iter().find(|it| it.merchant_id == merchant_id).cloned()
    }

    pub fn account_of_key(&self, server_key: &str) -> Option<Arc<MidtransAccount>> {
        self.accounts.iter().find(|it| is_same(&it.server_key, server_key)).cloned()
    }

    pub fn account_of_client_key(&self, client_key: &str) -> Option<Arc<MidtransAccount>> {
        self.accounts.iter().find(|it| is_same(&it.client_key, client_key)).cloned()
    }

    pub fn add(&mut self, transaction: Transaction) {
        if self.ages.len() == TRANSACTIONS_MAX
            && let Some(oldest) = self.ages.pop_front()
            && let Some(gone) = self.transactions.remove(&oldest)
        {
            if self.codes.get(gone.code_text()) == Some(&oldest) {
                self.codes.remove(gone.code_text());
            }
            let order = (gone.merchant_id, gone.order_id);
            if self.orders.get(&order) == Some(&oldest) {
                self.orders.remove(&order);
            }
        }
        let order = (transaction.merchant_id.clone(), transaction.order_id.clone());
        self.orders.insert(order, transaction.id.clone());
        if !transaction.code_text().is_empty() {
            self.codes.insert(transaction.code_text().to_owned(), transaction.id.clone());
        }
        self.ages.push_back(transaction.id.clone());
        self.transactions.insert(transaction.id.clone(), transaction);
    }

    /// By transaction id or order id: of this merchant, or of any. Of any it may be the code that a customer reads, too.
    pub fn find(&self, merchant_id: Option<&str>, id: &str) -> Option<&Transaction> {
        let is_theirs = |it: &&Transaction| merchant_id.is_none_or(|merchant| it.merchant_id == merchant);
        if let Some(found) = self.transactions.get(id).filter(is_theirs) {
            return Some(found);
        }
        let merchants = self.accounts.iter().map(|it| it.merchant_id.as_str());
        let mut merchants = merchants.filter(|it| merchant_id.is_none_or(|merchant| *it == merchant));
        let of_the_order = merchants
            .find_map(|merchant| self.transactions.get(self.orders.get(&(merchant.to_owned(), id.to_owned()))?));
        of_the_order.or_else(|| self.transactions.get(self.codes.get(id).filter(|_| merchant_id.is_none())?))
    }

    pub fn find_mut(&mut self, merchant_id: Option<&str>, id: &str) -> Option<&mut Transaction> {
        let id = self.find(merchant_id, id)?.id.clone();
        self.transactions.get_mut(&id)
    }

    /// Oldest first.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &Transaction> {
        self.ages.iter().filter_map(|id| self.transactions.get(id))
    }

    /// Newest first, those that wait for their money.
    pub fn pending(&self) -> impl Iterator<Item = &Transaction> {
        self.all().rev().filter(|it| it.state == State::Pending)
    }

    pub fn add_token(&mut self, id: String, token: Token) {
        if self.token_ages.len() == TOKENS_MAX
            && let Some(oldest) = self.token_ages.pop_front()
        {
            self.tokens.remove(&oldest);
        }
        self.token_ages.push_back(id.clone());
        self.tokens.insert(id, token);
    }

    /// A token is used once.
    pub fn take_token(&mut self, id: &str) -> Option<Token> {
        self.tokens.remove(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::midtrans::transaction::Method;

    fn transaction(at: usize) -> Transaction {
        let (method, now) = (Method::Qris { acquirer: "gopay" }, Moment::of_the_machine());
        let transaction = Transaction::new(format!("t-{at}"), format!("o-{at}"), "G552010987", 1, method, now);
        Transaction { qr: format!("q-{at}"), ..transaction }
    }

    #[test]
    fn what_came_first_is_forgotten_by_all_its_names() {
        let mut book = Midtrans::new(String::new(), vec![MidtransAccount::default()]);
        (0..=TRANSACTIONS_MAX).for_each(|at| book.add(transaction(at)));
        for name in ["t-0", "o-0", "q-0"] {
            assert!(book.find(None, name).is_none(), "{name}");
        }
        for name in ["t-1", "o-1", "q-1"] {
            assert_eq!(book.find(None, name).map(|it| it.id.as_str()), Some("t-1"), "{name}");
        }
        let sizes = [book.transactions.len(), book.orders.len(), book.codes.len(), book.ages.len()];
        assert_eq!(sizes, [TRANSACTIONS_MAX; 4]);
    }
}
