//! Cards: tokens in place of numbers, the sandbox's test cards, and what the bank says to each.

use std::time::Duration;

use serde_json::json;

use super::transaction::{Method, State};
use super::{Due, error, invalid, notify};
use crate::account::Provider;
use crate::call::{Call, Reply};
use crate::faults::Fault;
use crate::qris::is_luhn;
use crate::world::{self, World};

/// When a card that was captured is settled.
const SETTLED_AFTER: Duration = Duration::from_secs(24 * 3600);
/// How long an authorisation can be captured.
const LAPSES_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a card is looked at that is looked at.
const LOOKED_AT: Duration = Duration::from_secs(60);

/// What becomes of a test card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Accept,
    BankDeny,
    FraudDeny,
    /// Pending for a minute, then accepted.
    AcceptLater,
    NotEnough,
    /// No test card.
    Unknown,
}

impl Outcome {
    fn of(number: &str) -> Self {
        match number {
            "4811111111111114" | "5211111111111117" => Self::Accept,
            "4911111111111113" | "5111111111111118" => Self::BankDeny,
            "4611111111111116" => Self::FraudDeny,
            "4024007176265022" => Self::AcceptLater,
            "4472429869996670" => Self::NotEnough,
            _ => Self::Unknown,
        }
    }
}

/// A card that a browser has shown.
pub struct Token {
    pub merchant_id: String,
    pub masked: String,
    pub outcome: Outcome,
}

/// `GET /v2/token`, from a browser.
pub fn token(world: &mut World, call: &Call) -> Reply {
    let account = call.parameter("client_key").and_then(|key| world.midtrans.account_of_client_key(key));
    let Some(account) = account else {
        let message = "Transaction cannot be authorized with the current client/server key.";
        return Reply { status: 401, ..error(401, message) };
    };
    let said = |name: &str| call.parameter(name).unwrap_or_default().to_owned();
    let number: String = said("card_number").chars().filter(|it| !matches!(it, ' ' | '-')).collect();
    let digits = |text: &str, lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&text.len()) && text.bytes().all(|it| it.is_ascii_digit())
    };
    let mut problems = Vec::new();
    if !digits(&number, 13..=19) || !is_luhn(&number) {
        problems.push("card_number does not match with the Luhn algorithm".to_owned());
    }
    if !digits(&said("card_cvv"), 3..=4) {
        problems.push("card_cvv must have 3 or 4 digits".to_owned());
    }
    let (month, year) = (said("card_exp_month").parse::<u8>(), said("card_exp_year").parse::<i32>());
    match (month, year) {
        (Ok(month @ 1..=12), Ok(year)) if year < 2100 && (year, month) >= world.now().month() => {}
        (Ok(1..=12), Ok(_)) => problems.push("card_exp_year must lie in the future".to_owned()),
        _ => problems.push("card_exp_month and card_exp_year must be a month, as 02 and 2030".to_owned()),
    }
    if !problems.is_empty() {
        return invalid(world, &problems);
    }
    let masked = format!("{}-{}", &number[..8], &number[number.len() - 4..]);
    let id = format!("{masked}-{}", world.ids.uuid());
    let outcome = Outcome::of(&number);
    world
        .midtrans
        .add_token(id.clone(), Token { merchant_id: account.merchant_id.clone(), masked: masked.clone(), outcome });
    Reply::json(
        200,
        &json!({
            "status_code": "200",
            "status_message": "Credit card token is created as Token ID.",
            "token_id": id,
            "hash": format!("{masked}-{}", world.ids.hex(8)),
        }),
    )
}

/// Asks the bank at once, unless the customer has to be asked first. What is no card is left alone.
pub fn begin(world: &mut World, id: &str) {
    if let Some(Method::Card(card)) = world.midtrans.transactions.get(id).map(|it| &it.method)
        && !card.is_3ds
    {
        ask_the_bank(world, id);
    }
}

/// What the bank says to a card whose customer has proved who it is, or did not have to. Tells nobody.
pub fn ask_the_bank(world: &mut World, id: &str) {
    let Some(transaction) = world.midtrans.transactions.get_mut(id) else { return };
    let Method::Card(card) = &mut transaction.method else { return };
    let denied = |fraud| (State::Deny, fraud);
    (transaction.state, transaction.fraud) = match card.outcome {
        Outcome::Accept => return accepts(world, id),
        Outcome::AcceptLater => {
            world.after(LOOKED_AT, world::Due::Midtrans(Due::Accept(id.to_owned())));
            return;
        }
        Outcome::BankDeny => {
            card.said = Some(("05", "Do not honour"));
            denied("accept")
        }
        Outcome::NotEnough => {
            card.said = Some(("51", "Insufficient funds"));
            denied("accept")
        }
        Outcome::Unknown => {
            card.said = Some(("14", "Invalid card number"));
            denied("accept")
        }
        Outcome::FraudDeny => denied("deny"),
    };
}

fn accepts(world: &mut World, id: &str) {
    let names = world.midtrans.transactions[id].names();
    let is_challenged = world.fault(Fault::Challenge, Provider::Midtrans, &names, "pay").is_some();
    let Some(transaction) = world.midtrans.transactions.get_mut(id) else { return };
    let Method::Card(card) = &mut transaction.method else { return };
    card.said = Some(("00", "Approved"));
    transaction.state = if card.is_authorize { State::Authorize } else { State::Capture };
    transaction.expires = None;
    if is_challenged {
        transaction.fraud = "challenge";
    }
    let id = id.to_owned();
    match transaction.state {
        State::Authorize => world.after(LAPSES_AFTER, world::Due::Midtrans(Due::Lapse(id))),
        _ => world.after(SETTLED_AFTER, world::Due::Midtrans(Due::Settle(id))),
    }
}

/// One that was looked at for a minute.
pub fn is_accepted(world: &mut World, id: &str) {
    if world.midtrans.transactions.get(id).is_some_and(|it| it.state == State::Pending) {
        accepts(world, id);
        notify::told(world, id);
    }
}

/// A capture's settlement is a day away, from now.
pub fn settles_later(world: &mut World, id: &str) {
    world.after(SETTLED_AFTER, world::Due::Midtrans(Due::Settle(id.to_owned())));
}
