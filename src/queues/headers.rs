//! What a message says besides its body: how often it was tried, and why it is here.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

/// How often a handler has tried.
const ATTEMPTS: &str = "tillwire-attempts";
/// Whose it is.
const HANDLER: &str = "tillwire-handler";
/// Why the last attempt failed.
const REASON: &str = "tillwire-reason";
/// How much of a reason is told, in bytes.
const REASON_BYTES_MAX: usize = 2_000;
/// How often the broker gave it to somebody who never said what became of it. Only of quorum queues.
const DELIVERIES: &str = "x-delivery-count";
/// Where it was before, the last place first, and why it is no longer there.
const DEATHS: &str = "x-death";
/// The routing keys but the first, by which the broker would copy it to others again.
const CC: &str = "CC";

/// What is known of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// How often a handler has tried.
    pub attempts: u32,
    /// How often it was given to somebody who never said what became of it.
    pub deliveries: u32,
    /// Why it failed the last time, if it did.
    pub reason: Option<String>,
    /// Whose it was, if it says so itself.
    pub handler: Option<String>,
    /// The queue in which it was given up by the broker itself.
    pub given_up_in: Option<String>,
}

pub fn read(properties: &BasicProperties) -> Known {
    let Some(headers) = properties.headers() else { return Known::default() };
    let field = |name: &str| headers.inner().get(name);
    let number = |name: &str| field(name).and_then(integer).and_then(|it| u32::try_from(it).ok()).unwrap_or_default();
    let words = |name: &str| field(name).and_then(text);
    let last_death = match field(DEATHS) {
        Some(AMQPValue::FieldArray(deaths)) => deaths.as_slice().first(),
        _ => None,
    };
    let given_up_in = match last_death {
        Some(AMQPValue::FieldTable(death)) => {
            let of = |name: &str| death.inner().get(name).and_then(text);
            of("queue").filter(|_| of("reason").as_deref() == Some("delivery_limit"))
        }
        _ => None,
    };
    Known {
        attempts: number(ATTEMPTS),
        deliveries: number(DELIVERIES),
        reason: words(REASON),
        handler: words(HANDLER),
        given_up_in,
    }
}

/// The same message, to be put into another queue: it says how often it was tried, by whom, and why it failed.
pub fn write(was: &BasicProperties, handler: &str, attempts: u32, reason: &str) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in was.headers().iter().flat_map(|headers| headers.inner()) {
        if ![DELIVERIES, DEATHS, CC].contains(&name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    headers.insert(ATTEMPTS.into(), AMQPValue::LongUInt(attempts));
    headers.insert(HANDLER.into(), AMQPValue::LongString(handler.into()));
    headers.insert(REASON.into(), AMQPValue::LongString(cut(reason).into()));
    was.clone().with_headers(headers)
}

/// A reason as far as it is told.
pub fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

fn integer(value: &AMQPValue) -> Option<i64> {
    match *value {
        AMQPValue::ShortShortInt(it) => Some(it.into()),
        AMQPValue::ShortShortUInt(it) => Some(it.into()),
        AMQPValue::ShortInt(it) => Some(it.into()),
        AMQPValue::ShortUInt(it) => Some(it.into()),
        AMQPValue::LongInt(it) => Some(it.into()),
        AMQPValue::LongUInt(it) => Some(it.into()),
        AMQPValue::LongLongInt(it) => Some(it),
        _ => None,
    }
}

fn text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    #[test]
    fn what_is_put_elsewhere_says_why_and_is_copied_to_nobody() {
        let mut headers = FieldTable::default();
        headers.insert("merchant".into(), long("m"));
        headers.insert(CC.into(), AMQPValue::FieldArray(vec![long("payment.captured")].into()));
        headers.insert(DELIVERIES.into(), AMQPValue::LongLongInt(7));
        let was = BasicProperties::default().with_message_id("m/1-00000000".into()).with_headers(headers);
        assert_eq!(read(&was), Known { deliveries: 7, ..Known::default() });

        let again = write(&was, "push", 2, &"é".repeat(REASON_BYTES_MAX));
        assert_eq!(again.message_id(), was.message_id());
        let headers = again.headers().as_ref().unwrap().inner();
        assert!(headers.contains_key("merchant") && !headers.contains_key(CC) && !headers.contains_key(DELIVERIES));
        let known = read(&again);
        assert_eq!((known.attempts, known.handler.as_deref(), known.deliveries), (2, Some("push"), 0));
        assert_eq!(known.reason.unwrap().len(), REASON_BYTES_MAX);
        assert_eq!(read(&write(&again, "push", 3, "late")).reason.as_deref(), Some("late"));
    }

    #[test]
    fn only_what_the_broker_itself_gave_up_was_given_up_by_it() {
        let died = |reason: &str| {
            let mut death = FieldTable::default();
            death.insert("queue".into(), long("tillwire.handler.push"));
            death.insert("reason".into(), long(reason));
            let mut headers = FieldTable::default();
            headers.insert(DEATHS.into(), AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into()));
            read(&BasicProperties::default().with_headers(headers)).given_up_in
        };
        assert_eq!(died("delivery_limit").as_deref(), Some("tillwire.handler.push"));
        assert_eq!(died("expired"), None);
    }
}
