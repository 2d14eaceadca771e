//! Asking for a payment: at which account, how, and whether its provider carries such a one. Here it is written down; the
//! [desk](super::desk) asks for it then.

use std::time::Duration;

use secrecy::SecretString;
use tillwire_channels::PaymentId;
use tillwire_channels::event::Method as Tender;
use uuid::Uuid;

use super::desk::reference;
use crate::accounts;
use crate::commerce::payments::{self, Attempt, NewAttempt};
use crate::commerce::sales::Locked;
use crate::connectors::ability;
use crate::connectors::credentials::{Mode, Provider};
use crate::connectors::payment::{Bank, Card, Charge, Method};
use crate::error::{Error, Result};
use crate::journal::MerchantTx;
use crate::vault::Vault;

/// For how long a customer can pay, in seconds: a cashier waits for a quarter of an hour, unless the till says otherwise.
pub const LIFE_SECONDS: u32 = 15 * 60;
pub const LIFE_SECONDS_MIN: u32 = 60;
pub const LIFE_SECONDS_MAX: u32 = 7 * 24 * 60 * 60;

/// A payment that a till wants a provider to carry.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub payment: PaymentId,
    pub method: Method,
    /// All that is due and not being paid already, if this is none.
    pub amount_minor: Option<i64>,
    pub provider: Provider,
    pub mode: Mode,
    pub life_seconds: u32,
    pub card_token: Option<SecretString>,
    /// Whether the money is held first.
    pub hold: bool,
}

/// What a provider calls a tender of a till's.
///
/// # Errors
/// `bank_missing`, `bank_unexpected`, `unsupported_method`.
pub fn method(tender: Tender, bank: Option<Bank>) -> Result<Method> {
    match (tender, bank) {
        (Tender::Qris, None) => Ok(Method::Qris),
        (Tender::Card, None) => Ok(Method::Card),
        (Tender::Transfer, Some(bank)) => Ok(Method::BankTransfer(bank)),
        (Tender::Transfer, None) => Err(Error::invalid("bank_missing", "/bank", "To which bank is it transferred?")),
        (Tender::Qris | Tender::Card, Some(_)) => {
            Err(Error::invalid("bank_unexpected", "/bank", "Only a transfer goes to a bank."))
        }
        (Tender::Cash | Tender::Ewallet, _) => {
            let detail = "A provider carries `qris`, `transfer` and `card`; apps of banks and wallets pay by `qris`.";
            Err(Error::invalid("unsupported_method", "/method", detail))
        }
    }
}

/// Writes down a payment of a sale that is locked, for the desk to ask for.
///
/// # Errors
/// `sale_not_open`, `no_provider_account`, `live_account`, what [`ability::check`] and [`payments::begin`] refuse.
pub async fn begin(tx: &mut MerchantTx, vault: &Vault, sale: &Locked, wanted: &Wanted) -> Result<Attempt> {
    let (merchant, provider, mode) = (tx.merchant(), wanted.provider, wanted.mode);
    sale.require_open()?;
    let account = accounts::for_outlet(tx.sql(), vault, merchant, sale.outlet, provider, mode).await?;
    let account = account.ok_or_else(|| {
        let detail = format!("This outlet has no account for {} payments with {provider}.", mode.as_str());
        Error::conflict_at("no_provider_account", "/provider", detail)
    })?;
    // A sale that is paid with play money would look like any other.
    if mode == Mode::Test && accounts::is_live(tx.sql(), merchant, sale.outlet).await? {
        return Err(Error::conflict_at("live_account", "/mode", "This outlet is paid for real: test at another."));
    }
    let new = wanted.at(account.id);
    let asked = Charge {
        reference: reference(wanted.payment)?,
        method: wanted.method,
        amount_minor: 0, // It is known when nothing else is asked for meanwhile.
        currency: sale.currency.clone(),
        expires_in: new.expires_in_seconds.map(|seconds| Duration::from_secs(seconds.into())),
        at: tx.now(),
        shop: String::new(),
        card: wanted.card(),
        notify_url: None,
        labels: Default::default(),
    };
    let may_be_of = |amount_minor| {
        ability::check(provider, &Charge { amount_minor, ..asked.clone() })?;
        Ok(())
    };
    payments::begin(tx, sale, &new, &may_be_of).await
}

impl Wanted {
    fn at(&self, account: Uuid) -> NewAttempt {
        let settable = ability::ability(self.provider, self.method).and_then(|it| it.expiry.range_seconds);
        NewAttempt {
            payment: self.payment,
            account,
            provider: self.provider.as_str(),
            mode: self.mode.as_str(),
            method: self.method.as_str(),
            bank: self.method.bank().map(|bank| bank.as_str()),
            amount_minor: self.amount_minor,
            // Where the provider cannot be told, its own is longer than ours, and we call it off.
            expires_in_seconds: settable.map(|[from, to]| self.life_seconds.clamp(from, to)),
            life: time::Duration::seconds(self.life_seconds.into()),
            hold: self.hold,
        }
    }

    fn card(&self) -> Option<Card> {
        let is_card = self.hold || self.card_token.is_some();
        is_card.then(|| Card { token: self.card_token.clone(), hold: self.hold, ..Card::default() })
    }
}
