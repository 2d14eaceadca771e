//! Midtrans's `Idempotency-Key`: kept for five minutes, successful answers only, whatever the body says, one space for all
//! endpoints. It is no help for Permata's numbers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};

use crate::call::{Call, Reply};
use crate::clock::Moment;
use crate::world::World;

/// How long an answer is kept.
const KEPT_FOR: Duration = Duration::from_secs(300);
/// Longer keys are ignored, without a word.
const KEY_BYTES_MAX: usize = 46;
/// How many answers are kept at once.
const ANSWERS_MAX: usize = 10_000;

/// A merchant's key, and an operation's.
type Key = (String, String);

#[derive(Default)]
pub struct Kept {
    answers: HashMap<Key, (Moment, Reply)>,
    ages: VecDeque<Key>,
    /// By what authorises the call: nobody has looked yet who that is.
    under_way: HashSet<Key>,
}

fn key(call: &Call) -> Option<&str> {
    let key = call.header("idempotency-key").filter(|key| !key.is_empty() && key.len() <= KEY_BYTES_MAX)?;
    (call.method == axum::http::Method::POST && !is_permata(call)).then_some(key)
}

fn is_permata(call: &Call) -> bool {
    let body = call.json();
    body["payment_type"] == "permata" || body["bank_transfer"]["bank"] == "permata"
}

fn under_way(call: &Call) -> Option<Key> {
    Some((call.header("authorization")?.to_owned(), key(call)?.to_owned()))
}

/// Begins a call, or says that one with the same key has not ended.
pub fn enter(world: &mut World, call: &Call) -> Option<Reply> {
    let is_first = under_way(call).is_none_or(|key| world.midtrans.kept.under_way.insert(key));
    let body = json!({ "status_message": "A request with the same idempotency key is being processed" });
    (!is_first).then(|| Reply::json(202, &body))
}

/// It has ended.
pub fn leave(world: &mut World, call: &Call) {
    under_way(call).inspect(|key| {
        world.midtrans.kept.under_way.remove(key);
    });
}

/// The answer that was kept.
pub fn stored(world: &World, merchant_id: &str, call: &Call) -> Option<Reply> {
    let (at, reply) = world.midtrans.kept.answers.get(&(merchant_id.to_owned(), key(call)?.to_owned()))?;
    (world.now().since(*at) < KEPT_FOR).then(|| reply.clone())
}

/// Keeps an answer, if it is a success.
pub fn store(world: &mut World, merchant_id: &str, call: &Call, reply: &Reply) {
    let Some(key) = key(call) else { return };
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    if reply.status != 200 || !matches!(body["status_code"].as_str(), Some("200" | "201" | "407")) {
        return;
    }
    let now = world.now();
    let kept = &mut world.midtrans.kept;
    while kept.ages.len() >= ANSWERS_MAX
        || kept.ages.front().and_then(|key| kept.answers.get(key)).is_some_and(|(at, _)| now.since(*at) >= KEPT_FOR)
    {
        let oldest = kept.ages.pop_front();
        oldest.inspect(|key| {
            kept.answers.remove(key);
        });
    }
    let key = (merchant_id.to_owned(), key.to_owned());
    kept.ages.push_back(key.clone());
    kept.answers.insert(key, (now, reply.clone()));
}
