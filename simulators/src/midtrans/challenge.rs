//! The page of 3-D Secure, on which the customer proves who it is. The sandbox's one-time password is 112233.

use super::cards::ask_the_bank;
use super::transaction::{Method, State};
use super::{charge, error, notify};
use crate::call::{Call, Reply, escaped};
use crate::world::World;

const ONE_TIME_PASSWORD: &str = "112233";

fn is_waiting(world: &World, id: &str) -> bool {
    let transaction = world.midtrans.transactions.get(id);
    transaction.is_some_and(|it| {
        it.state == State::Pending && matches!(&it.method, Method::Card(card) if card.is_3ds && card.said.is_none())
    })
}

fn unknown() -> Reply {
    Reply { status: 404, ..error(404, "Transaction doesn't exist.") }
}

/// `GET /v2/3ds/{id}`
pub fn page(world: &World, id: &str) -> Reply {
    let Some(transaction) = world.midtrans.transactions.get(id) else { return unknown() };
    let form = "<form method=post><p><label>One-time password <input name=otp inputmode=numeric autofocus required></label>\
                <p><button>OK</button> <button name=otp value=cancel formnovalidate>Cancel</button></form>\
                <p>The sandbox’s password is <b>112233</b>.";
    let rest = if is_waiting(world, id) { form } else { "<p>This payment waits for nothing." };
    let amount = charge::shown(transaction.gross);
    let order = escaped(&transaction.order_id);
    Reply::html(200, document(&format!("<h1>3-D Secure</h1><p>{order}: <b>{amount}</b>{rest}")))
}

/// `POST /v2/3ds/{id}`
pub fn answer(world: &mut World, id: &str, call: &Call) -> Reply {
    if !world.midtrans.transactions.contains_key(id) {
        return unknown();
    }
    if is_waiting(world, id) {
        if call.field("otp").as_deref() == Some(ONE_TIME_PASSWORD) {
            ask_the_bank(world, id);
        } else if let Some(transaction) = world.midtrans.transactions.get_mut(id) {
            transaction.state = State::Deny;
            if let Method::Card(card) = &mut transaction.method {
                card.said = Some(("01", "Cardholder was not authenticated"));
            }
        }
        // One that is looked at is told of when that has ended.
        if world.midtrans.transactions[id].state != State::Pending {
            notify::told(world, id);
        }
    }
    let state = world.midtrans.transactions[id].state.as_str();
    Reply::html(
        200,
        document(&format!("<h1>3-D Secure</h1><p>Done: <b id=state>{state}</b>. You can go back to the shop.")),
    )
}

fn document(body: &str) -> String {
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>3-D Secure</title><style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:24rem;margin:2rem auto;padding:0 1rem}}\
         </style><body>{body}</body></html>"
    )
}
