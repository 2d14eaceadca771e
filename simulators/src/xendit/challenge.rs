//! The page of 3-D Secure, on which the customer of a card proves who it is.

use super::pay::{card_is_asked, fails_with};
use super::request::Status;
use super::{not_found, sessions::document};
use crate::call::{Call, Reply, escaped};
use crate::world::World;

fn is_waiting(world: &World, id: &str) -> bool {
    world.xendit.requests.get(id).is_some_and(|it| it.is_challenged && it.status == Status::RequiresAction)
}

/// `GET /3ds/{request}`
pub fn page(world: &World, id: &str) -> Reply {
    let Some(request) = world.xendit.requests.get(id) else { return not_found() };
    let form = "<form method=post><p><button name=answer value=yes autofocus>It is me</button> \
                <button name=answer value=no>It is not me</button></form>";
    let rest = if is_waiting(world, id) { form } else { "<p>This payment waits for nothing." };
    let amount = request.amount.unwrap_or_default();
    let reference = escaped(&request.reference);
    Reply::html(200, document("3-D Secure", &format!("<h1>3-D Secure</h1><p>{reference}: <b>Rp{amount}</b>{rest}")))
}

/// `POST /3ds/{request}`
pub fn answer(world: &mut World, id: &str, call: &Call) -> Reply {
    if is_waiting(world, id) {
        match call.field("answer").as_deref() {
            Some("yes") => card_is_asked(world, id),
            _ => fails_with(world, id, "AUTHENTICATION_FAILED"),
        }
    }
    let Some(request) = world.xendit.requests.get(id) else { return not_found() };
    let status = request.status.as_str();
    Reply::html(200, document("3-D Secure", &format!("<h1>3-D Secure</h1><p>Done: <b id=state>{status}</b>.")))
}
