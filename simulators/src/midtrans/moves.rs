//! What a merchant may have done to a transaction, and what it is told of one.

use serde_json::{Value, json};

use super::transaction::{Method, State, Telling, Transaction, fields, rupiah, sign};
use super::{cards, illegal, invalid, not_found, notify, pay};
use crate::account::MidtransAccount;
use crate::call::{Call, Reply};
use crate::world::World;

/// `GET /v2/{id}/status`
pub fn status(world: &mut World, account: &MidtransAccount, id: &str) -> Reply {
    match world.midtrans.find(Some(&account.merchant_id), id) {
        Some(transaction) => Reply::json(200, &Value::Object(signed(transaction, account))),
        None => not_found(world),
    }
}

/// `GET /v2/{id}/status/b2b`
pub fn status_b2b(world: &mut World, account: &MidtransAccount, id: &str) -> Reply {
    let Some(transaction) = world.midtrans.find(Some(&account.merchant_id), id) else { return not_found(world) };
    let body = json!({
        "status_code": "200",
        "status_message": "Success, transaction is found",
        "id": transaction.id,
        "transactions": [signed(transaction, account)],
    });
    Reply::json(200, &body)
}

fn signed(transaction: &Transaction, account: &MidtransAccount) -> serde_json::Map<String, Value> {
    let mut told = transaction.told(Telling::Status);
    sign(&mut told, &account.server_key);
    told
}

/// `POST /v2/{id}/cancel`
pub fn cancel(world: &mut World, account: &MidtransAccount, id: &str) -> Reply {
    let Some(transaction) = world.midtrans.find_mut(Some(&account.merchant_id), id) else { return not_found(world) };
    let is_card = matches!(transaction.method, Method::Card(_));
    match transaction.state {
        State::Pending => {}
        State::Authorize | State::Capture if is_card => {}
        _ => return illegal(world),
    }
    transaction.state = State::Cancel;
    let answer = transaction.common("200", "Success, transaction is canceled");
    let id = transaction.id.clone();
    notify::told(world, &id);
    pay::may_come_late(world, &id, "cancel");
    Reply::json(200, &Value::Object(answer))
}

/// `POST /v2/{id}/expire`
pub fn expire(world: &mut World, account: &MidtransAccount, id: &str) -> Reply {
    let Some(transaction) = world.midtrans.find_mut(Some(&account.merchant_id), id) else { return not_found(world) };
    if transaction.state != State::Pending {
        return illegal(world);
    }
    transaction.state = State::Expire;
    let answer = transaction.common("407", "Success, transaction has expired");
    let id = transaction.id.clone();
    notify::told(world, &id);
    pay::may_come_late(world, &id, "expire");
    Reply::json(200, &Value::Object(answer))
}

/// `POST /v2/capture`
pub fn capture(world: &mut World, account: &MidtransAccount, call: &Call) -> Reply {
    let body = call.json();
    let Some(id) = body["transaction_id"].as_str() else {
        return invalid(world, &["transaction_id is required".into()]);
    };
    let Some(transaction) = world.midtrans.find_mut(Some(&account.merchant_id), id) else { return not_found(world) };
    if transaction.state != State::Authorize || transaction.fraud == "challenge" {
        return illegal(world);
    }
    let amount = &body["gross_amount"];
    let captured = match amount.as_i64() {
        _ if amount.is_null() => transaction.gross,
        Some(amount) if (1..=transaction.gross).contains(&amount) => amount,
        _ => {
            let problem = format!("gross_amount must be a whole number between 1 and {}", transaction.gross);
            return invalid(world, &[problem]);
        }
    };
    transaction.gross = captured;
    transaction.state = State::Capture;
    let mut answer = transaction.common("200", "Success, Credit Card capture transaction is successful");
    answer.append(&mut fields(json!({ "capture_amount": rupiah(captured) })));
    let id = transaction.id.clone();
    cards::settles_later(world, &id);
    notify::told(world, &id);
    Reply::json(200, &Value::Object(answer))
}

/// `POST /v2/{id}/approve`
pub fn approve(world: &mut World, account: &MidtransAccount, id: &str) -> Reply {
    judge(world, account, id, None, "accept", "Success, transaction is approved")
}

/// `POST /v2/{id}/deny`
pub fn deny(world: &mut World, account: &MidtransAccount, id: &str) -> Reply {
    judge(world, account, id, Some(State::Deny), "deny", "Success, transaction is denied")
}

/// What is left to the merchant to decide about: it stays captured or held, or comes to another state.
fn judge(
    world: &mut World,
    account: &MidtransAccount,
    id: &str,
    state: Option<State>,
    fraud: &'static str,
    message: &str,
) -> Reply {
    let Some(transaction) = world.midtrans.find_mut(Some(&account.merchant_id), id) else { return not_found(world) };
    if !matches!(transaction.state, State::Capture | State::Authorize) || transaction.fraud != "challenge" {
        return illegal(world);
    }
    (transaction.state, transaction.fraud) = (state.unwrap_or(transaction.state), fraud);
    let answer = transaction.common("200", message);
    let id = transaction.id.clone();
    notify::told(world, &id);
    Reply::json(200, &Value::Object(answer))
}
