//! What each provider can do with each way to pay. It refuses what could never work before anybody is asked, and a screen
//! shows it.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::credentials::Provider;
use super::habits::habits;
use super::payment::{Bank, Charge, Method};
use crate::commerce::money::AMOUNT_MAX_MINOR;
use crate::commerce::payments::refunds::Terms;
use crate::error::{Error, Result};

/// The only currency that these providers' Indonesian accounts take here.
pub const CURRENCY: &str = "IDR";
/// The longest reference, in bytes: Midtrans' bound, and within Xendit's.
pub const REFERENCE_BYTES_MAX: usize = 50;

const MINUTE: u32 = 60;
const HOUR: u32 = 60 * MINUTE;
const DAY: u32 = 24 * HOUR;

/// One way to pay at one provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Ability {
    #[serde(flatten)]
    pub method: Method,
    pub shows: Shows,
    pub amount_min_minor: i64,
    pub amount_max_minor: i64,
    pub expiry: Expiry,
    pub refund: RefundKind,
    /// For how many days after the payment it can be refunded, where the provider names a bound. Of several, the shortest.
    pub refund_days: Option<u16>,
    /// Whether a refund is taken on first, and confirmed later.
    pub refund_confirmed_later: bool,
    /// Whether a payment that nobody has paid can be called off.
    pub cancel: bool,
    /// Whether the provider can be told that its time is over. If not, it is called off.
    pub expire: bool,
    /// Whether money can be held first, and taken later.
    pub capture: bool,
    /// Whether the provider, when it is asked, knows sooner or later what it would have told.
    pub status_sync: bool,
    /// For how long a bank may take back what it has confirmed, in seconds.
    pub reversible_seconds: Option<u32>,
}

/// What the customer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shows {
    Qr,
    VirtualAccount,
    Bill,
    Redirect,
}

/// For how long a customer can pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Expiry {
    /// Without a word of ours.
    pub default_seconds: u32,
    /// What may be chosen instead; nothing if this is absent.
    pub range_seconds: Option<[u32; 2]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefundKind {
    None,
    Full,
    /// As often as something is left.
    Partial,
}

const fn fixed(default_seconds: u32) -> Expiry {
    Expiry { default_seconds, range_seconds: None }
}

const fn chosen(default_seconds: u32, from: u32, to: u32) -> Expiry {
    Expiry { default_seconds, range_seconds: Some([from, to]) }
}

/// By transfer at Midtrans: 24 hours, or 20 seconds to 180 days.
const fn midtrans_transfer(bank: Bank, amount_min_minor: i64, amount_max_minor: i64) -> Ability {
    Ability {
        method: Method::BankTransfer(bank),
        shows: Shows::VirtualAccount,
        amount_min_minor,
        amount_max_minor,
        expiry: chosen(DAY, 20, 180 * DAY),
        refund: RefundKind::None,
        refund_days: None,
        refund_confirmed_later: false,
        cancel: true,
        expire: true,
        capture: false,
        status_sync: true,
        reversible_seconds: None,
    }
}

/// By transfer at Xendit. What it does by itself is to wait for decades, so that an expiry is always sent; its bounds are
/// ours.
const fn xendit_transfer(bank: Bank, amount_min_minor: i64, amount_max_minor: i64) -> Ability {
    let expiry = chosen(DAY, MINUTE, 30 * DAY);
    Ability { expiry, expire: false, ..midtrans_transfer(bank, amount_min_minor, amount_max_minor) }
}

const MIDTRANS: &[Ability] = &[
    Ability {
        method: Method::Qris,
        shows: Shows::Qr,
        amount_min_minor: 1,
        amount_max_minor: 10_000_000,
        // By GoPay as the acquirer. What is shorter than a quarter of an hour is not reliably ended by Midtrans itself.
        expiry: chosen(15 * MINUTE, MINUTE, 7 * DAY),
        refund: RefundKind::Partial,
        refund_days: Some(7), // From another app than GoPay; from that one 45.
        refund_confirmed_later: true,
        cancel: true,
        expire: true,
        capture: false,
        status_sync: true,
        reversible_seconds: None,
    },
    midtrans_transfer(Bank::Bca, 10_000, 20_000_000_000),
    midtrans_transfer(Bank::Bni, 1, AMOUNT_MAX_MINOR), // Midtrans names no bound; this is the hub's.
    midtrans_transfer(Bank::Bri, 1, 20_000_000_000),
    midtrans_transfer(Bank::Cimb, 1, 250_000_000),
    Ability {
        shows: Shows::Bill,
        reversible_seconds: Some(5 * MINUTE),
        ..midtrans_transfer(Bank::Mandiri, 1, 50_000_000_000)
    },
    Ability { reversible_seconds: Some(5 * MINUTE), ..midtrans_transfer(Bank::Permata, 1, 9_999_999_999) },
    Ability {
        method: Method::Card,
        shows: Shows::Redirect,
        amount_min_minor: 10_000,
        amount_max_minor: 999_999_999,
        expiry: fixed(10 * MINUTE),
        refund: RefundKind::Partial,
        refund_days: None,
        refund_confirmed_later: true,
        cancel: true,
        expire: true,
        capture: true,
        status_sync: true,
        reversible_seconds: None,
    },
];

const XENDIT: &[Ability] = &[
    Ability {
        method: Method::Qris,
        shows: Shows::Qr,
        amount_min_minor: 1,
        amount_max_minor: 10_000_000,
        // An expiry is refused: a till's own has to call the payment off.
        expiry: fixed(2 * DAY),
        refund: RefundKind::Partial,
        refund_days: Some(7), // And from some apps only.
        refund_confirmed_later: true,
        cancel: true,
        expire: false,
        capture: false,
        status_sync: true,
        reversible_seconds: None,
    },
    xendit_transfer(Bank::Bca, 10_000, 50_000_000),
    xendit_transfer(Bank::Bni, 1, 50_000_000_000),
    xendit_transfer(Bank::Bri, 1, 50_000_000_000),
    xendit_transfer(Bank::Bsi, 1, 50_000_000_000),
    xendit_transfer(Bank::Mandiri, 1, 50_000_000_000),
    xendit_transfer(Bank::Permata, 1, 9_999_999_999),
    Ability {
        method: Method::Card,
        shows: Shows::Redirect,
        amount_min_minor: 5_000,
        amount_max_minor: 200_000_000,
        // Of the page; its bounds are ours. Who is sent to their bank has ten minutes there.
        expiry: chosen(30 * MINUTE, 10 * MINUTE, DAY),
        refund: RefundKind::Partial,
        refund_days: Some(365),
        refund_confirmed_later: true,
        cancel: true,
        expire: false,
        capture: true,
        status_sync: true,
        reversible_seconds: None,
    },
];

/// All ways to pay at a provider.
pub const fn abilities(provider: Provider) -> &'static [Ability] {
    match provider {
        Provider::Midtrans => MIDTRANS,
        Provider::Xendit => XENDIT,
    }
}

/// One of them, if the provider has it.
pub fn ability(provider: Provider, method: Method) -> Option<&'static Ability> {
    abilities(provider).iter().find(|it| it.method == method)
}

/// Of a payment by GoPay's own app through GoPay as the acquirer, for so many days.
const GOPAY_REFUND_DAYS: u16 = 45;

/// What a provider lets go back of a payment, whose app paid; none if nothing.
pub fn refund_terms(provider: Provider, method: Method, issuer: Option<&str>) -> Option<Terms> {
    let ability = ability(provider, method)?;
    let in_parts = match ability.refund {
        RefundKind::None => return None,
        RefundKind::Full => false,
        RefundKind::Partial => true,
    };
    let is_gopay = provider == Provider::Midtrans
        && method == Method::Qris
        && issuer.is_some_and(|issuer| issuer.eq_ignore_ascii_case("gopay"));
    let days = if is_gopay { Some(GOPAY_REFUND_DAYS) } else { ability.refund_days };
    Some(Terms { in_parts, within: days.map(|days| time::Duration::days(days.into())) })
}

/// Whether a provider takes this payment, as far as that can be known.
///
/// # Errors
/// With the field that says what it does not take: `/bank`, `/method`, `/currency`, `/amount_minor`, `/expires_in_seconds`,
/// `/card_token`, `/hold`.
pub fn check(provider: Provider, charge: &Charge) -> Result<&'static Ability> {
    let Some(ability) = ability(provider, charge.method) else {
        return Err(match charge.method.bank() {
            Some(bank) => {
                refused("unsupported_bank", "/bank", format!("{provider} has no transfers to {}.", bank.as_str()))
            }
            None => refused("unsupported_method", "/method", format!("{provider} does not take this.")),
        });
    };
    if charge.currency != CURRENCY {
        return Err(refused("unsupported_currency", "/currency", format!("{provider} takes {CURRENCY} alone.")));
    }
    if charge.amount_minor < ability.amount_min_minor {
        let detail = format!("At least {} with {provider}.", ability.amount_min_minor);
        return Err(refused("amount_too_small", "/amount_minor", detail));
    }
    if charge.amount_minor > ability.amount_max_minor {
        let detail = format!("At most {} with {provider}.", ability.amount_max_minor);
        return Err(refused("amount_too_large", "/amount_minor", detail));
    }
    if let Some(expires_in) = charge.expires_in {
        ability.expiry.check(provider, expires_in)?;
    }
    let card = charge.card.as_ref();
    if card.is_some_and(|card| card.hold) && !ability.capture {
        return Err(refused("hold_not_possible", "/hold", "This is paid at once, and cannot be held first."));
    }
    let has_token = card.is_some_and(|card| card.token.is_some());
    if habits(provider).takes_card_tokens && charge.method == Method::Card && !has_token {
        let detail = format!("With {provider} a card is entered in the browser, which is given a token for it.");
        return Err(refused("card_token_required", "/card_token", detail));
    }
    // We make references, and so nobody can mend one.
    if charge.reference.as_str().len() > REFERENCE_BYTES_MAX {
        return Err(
            anyhow::anyhow!("a reference of more than {REFERENCE_BYTES_MAX} bytes: {}", charge.reference).into()
        );
    }
    Ok(ability)
}

impl Expiry {
    fn check(self, provider: Provider, expires_in: Duration) -> Result<()> {
        const POINTER: &str = "/expires_in_seconds";
        let Some([from, to]) = self.range_seconds else {
            let detail = format!("{provider} ends this by itself after {} seconds.", self.default_seconds);
            return Err(refused("expiry_not_settable", POINTER, detail));
        };
        let range = Duration::from_secs(from.into())..=Duration::from_secs(to.into());
        if !range.contains(&expires_in) {
            let detail = format!("From {from} to {to} seconds with {provider}.");
            return Err(refused("expiry_out_of_range", POINTER, detail));
        }
        Ok(())
    }
}

fn refused(code: &'static str, pointer: &str, detail: impl Into<String>) -> Error {
    Error::invalid(code, pointer, detail.into())
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::{BTreeMap, HashSet};

    use tillwire_channels::Moment;

    use super::super::payment::{Card, Id};
    use super::*;

    pub fn charge(method: Method, amount_minor: i64) -> Charge {
        Charge {
            reference: Id::parse("POS01-260114-000123-a1").unwrap(),
            method,
            amount_minor,
            currency: CURRENCY.to_owned(),
            expires_in: None,
            at: Moment::from_unix_timestamp(1_768_359_902).unwrap(), // 2026-01-14T03:05:02Z
            shop: "Toko Melati".to_owned(),
            card: None,
            notify_url: None,
            labels: BTreeMap::new(),
        }
    }

    fn refusal(provider: Provider, charge: &Charge) -> Option<(&'static str, String)> {
        match check(provider, charge) {
            Ok(ability) => {
                assert_eq!(ability.method, charge.method);
                None
            }
            Err(Error::Invalid { code, pointer, detail }) => {
                assert!(!detail.is_empty());
                Some((code, pointer))
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_provider_does_not_take_is_refused_with_its_field() {
        use Provider::{Midtrans, Xendit};
        let transfer = Method::BankTransfer;
        for (provider, method, amount, expected) in [
            (Midtrans, Method::Qris, 48_500, None),
            (Midtrans, Method::Qris, 1, None),
            (Midtrans, Method::Qris, 10_000_000, None),
            (Midtrans, Method::Qris, 0, Some(("amount_too_small", "/amount_minor"))),
            (Midtrans, Method::Qris, -5, Some(("amount_too_small", "/amount_minor"))),
            (Xendit, Method::Qris, 10_000_001, Some(("amount_too_large", "/amount_minor"))),
            (Midtrans, transfer(Bank::Bca), 9_999, Some(("amount_too_small", "/amount_minor"))),
            (Xendit, transfer(Bank::Bca), 50_000_001, Some(("amount_too_large", "/amount_minor"))),
            (Midtrans, transfer(Bank::Bca), 50_000_001, None),
            (Midtrans, transfer(Bank::Bsi), 20_000, Some(("unsupported_bank", "/bank"))),
            (Xendit, transfer(Bank::Cimb), 20_000, Some(("unsupported_bank", "/bank"))),
            (Midtrans, transfer(Bank::Mandiri), 50_000_000_001, Some(("amount_too_large", "/amount_minor"))),
            (Xendit, Method::Card, 4_999, Some(("amount_too_small", "/amount_minor"))),
            (Xendit, Method::Card, 5_000, None),
            (Midtrans, Method::Card, 10_000, Some(("card_token_required", "/card_token"))),
        ] {
            let found = refusal(provider, &charge(method, amount));
            assert_eq!(
                found.as_ref().map(|(code, at)| (*code, at.as_str())),
                expected,
                "{provider} {method:?} {amount}"
            );
        }
        let dollars = Charge { currency: "USD".to_owned(), ..charge(Method::Qris, 5) };
        assert_eq!(refusal(Xendit, &dollars).unwrap().1, "/currency");
    }

    #[test]
    fn a_time_is_taken_where_it_can_be_chosen() {
        for (provider, method, seconds, expected) in [
            (Provider::Midtrans, Method::Qris, 900, None),
            (Provider::Midtrans, Method::Qris, 59, Some("expiry_out_of_range")),
            (Provider::Midtrans, Method::Qris, 7 * 86_400 + 1, Some("expiry_out_of_range")),
            (Provider::Midtrans, Method::BankTransfer(Bank::Bni), 180 * 86_400, None),
            (Provider::Xendit, Method::Qris, 900, Some("expiry_not_settable")),
            (Provider::Xendit, Method::BankTransfer(Bank::Bni), 900, None),
            (Provider::Xendit, Method::Card, 1_800, None),
        ] {
            let expires_in = Some(Duration::from_secs(seconds));
            let found = refusal(provider, &Charge { expires_in, ..charge(method, 20_000) });
            let expected = expected.map(|code| (code, "/expires_in_seconds".to_owned()));
            assert_eq!(found, expected, "{provider} {method:?} {seconds}");
        }
    }

    #[test]
    fn what_goes_back_goes_back_for_a_while() {
        let days = |provider, method, issuer| {
            refund_terms(provider, method, issuer).map(|terms| (terms.in_parts, terms.within.map(|it| it.whole_days())))
        };
        for (provider, method, issuer, expected) in [
            (Provider::Midtrans, Method::Qris, None, Some((true, Some(7)))),
            (Provider::Midtrans, Method::Qris, Some("DANA"), Some((true, Some(7)))),
            (Provider::Midtrans, Method::Qris, Some("GoPay"), Some((true, Some(45)))),
            (Provider::Xendit, Method::Qris, Some("GoPay"), Some((true, Some(7)))),
            (Provider::Midtrans, Method::Card, None, Some((true, None))),
            (Provider::Xendit, Method::Card, None, Some((true, Some(365)))),
            (Provider::Midtrans, Method::BankTransfer(Bank::Bni), None, None),
            (Provider::Xendit, Method::BankTransfer(Bank::Bri), None, None),
        ] {
            assert_eq!(days(provider, method, issuer), expected, "{provider} {method:?} {issuer:?}");
        }
    }

    #[test]
    fn only_a_card_can_be_held() {
        let held = Card { hold: true, token: Some("t".into()), return_url: None };
        for (provider, method, is_fine) in [
            (Provider::Midtrans, Method::Card, true),
            (Provider::Xendit, Method::Card, true),
            (Provider::Xendit, Method::Qris, false),
        ] {
            let charge = Charge { card: Some(held.clone()), ..charge(method, 20_000) };
            assert_eq!(refusal(provider, &charge).is_none(), is_fine);
        }
    }

    #[test]
    fn each_way_is_in_the_table_once_and_a_screen_can_read_it() {
        for provider in Provider::ALL {
            let methods: HashSet<Method> = abilities(provider).iter().map(|it| it.method).collect();
            assert_eq!(methods.len(), abilities(provider).len());
            assert!(methods.contains(&Method::Qris) && methods.contains(&Method::Card));
            for it in abilities(provider) {
                assert!(0 < it.amount_min_minor && it.amount_min_minor < it.amount_max_minor);
                assert!(it.amount_max_minor <= AMOUNT_MAX_MINOR);
                assert!(
                    it.expiry
                        .range_seconds
                        .is_none_or(|[from, to]| { (from..=to).contains(&it.expiry.default_seconds) })
                );
                assert!(it.refund != RefundKind::None || it.refund_days.is_none(), "{it:?}");
            }
        }
        let bill = ability(Provider::Midtrans, Method::BankTransfer(Bank::Mandiri)).unwrap();
        assert_eq!(
            serde_json::to_value(bill).unwrap(),
            serde_json::json!({
                "method": "bank_transfer", "bank": "mandiri", "shows": "bill", "amount_min_minor": 1,
                "amount_max_minor": 50_000_000_000_i64,
                "expiry": {"default_seconds": 86_400, "range_seconds": [20, 15_552_000]},
                "refund": "none", "refund_days": null, "refund_confirmed_later": false, "cancel": true, "expire": true,
                "capture": false, "status_sync": true, "reversible_seconds": 300,
            })
        );
    }
}
