//! The checker: compares what a screen wrote down with the journal, and what tills were answered with it as well.
//!
//! It knows the promises (G1 to G4 of ARCHITECTURE.md) and nothing of how they are kept. What must have been sent is worked
//! out from the journal alone: the events of the joined channels, as the view shows them, from the place on that a
//! connection began at.

mod deeds;
mod hearing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;

use serde::Serialize;
use serde_json::Value;
use tillwire_channels::topic::TOPICS;
use tillwire_channels::{Position, Stored};

use crate::journal::{Journal, Place};
use crate::record::{Change, Line, Memory, Record, Who};
pub use deeds::{Deed, Outcome, check_deeds};
use hearing::{Hearing, Hears};

/// How many findings are told of one screen: what follows the first is mostly its consequence.
const FINDINGS_MAX: usize = 12;

/// Something that was promised and not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The screen, the shop or the process that it is about.
    pub about: String,
    pub kind: Kind,
    /// Where in the journal.
    pub at: Option<String>,
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An event that had to come did not.
    Lost,
    /// An event came a second time.
    Repeated,
    /// An event came after a later one.
    Reordered,
    /// Something came between two events of one entry.
    Torn,
    /// What is another merchant's, another channel's, or hidden from the view.
    Foreign,
    /// An event is not what the journal says.
    Altered,
    /// A merged event stands for more or fewer than were left out.
    Miscounted,
    /// A connection did not begin where the last one ended.
    Misplaced,
    /// What was joined or left, and acknowledged, is not so after a cut.
    Forgotten,
    /// A screen that came back was not taken up again.
    NotRecovered,
    /// A screen was told what only a person could mend, and nothing was wrong with it.
    TurnedAway,
    /// A position of this very journal was not served.
    SnapshotRequired,
    /// It never came to the end.
    Stuck,
    /// A till was told something else than what became of its request.
    Misreported,
    /// The journal is not whole.
    Broken,
    /// A process died, or did not stop, by itself.
    Died,
}

/// What a record amounts to, besides findings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub connections: u64,
    pub recovered: u64,
    pub events: u64,
    pub merged: u64,
}

/// Compares a screen's record with its merchant's journal.
pub fn check(journal: &Journal, record: &Record) -> (Counts, Vec<Finding>) {
    let mut check = Check {
        journal,
        who: &record.who,
        counts: Counts::default(),
        findings: Vec::new(),
        hearing: Hearing::default(),
        offset: None,
        seen: HashSet::new(),
        missing: BTreeSet::new(),
        owed: HashMap::new(),
        connection: None,
    };
    for (at, line) in record.lines.iter().enumerate() {
        check.take(line, &record.lines[at + 1..]);
    }
    check.end();
    (check.counts, check.findings)
}

/// Whether it is awake: takes a sale out of a record, and looks whether that is missed. `None` if there is none to take.
pub fn misses_a_sale(journal: &Journal, record: &Record) -> Option<bool> {
    let is_sale = |line: &Line| matches!(line, Line::Heard { text, .. } if text.starts_with("[\"sale.completed\""));
    let is_sure = !record.lines.iter().any(|line| matches!(line, Line::Asked { .. }));
    let sales: Vec<usize> = (0..record.lines.len()).filter(|at| is_sure && is_sale(&record.lines[*at])).collect();
    let taken = *sales.get(sales.len() / 2)?;
    let mut lines = record.lines.clone();
    lines.remove(taken);
    let less = Record { who: record.who.clone(), lines };
    Some(check(journal, &less).1.len() > check(journal, record).1.len())
}

struct Check<'a> {
    journal: &'a Journal,
    who: &'a Who,
    counts: Counts,
    findings: Vec<Finding>,
    hearing: Hearing,
    /// The last string that ended an event: where it stands.
    offset: Option<Position>,
    seen: HashSet<Place>,
    /// What was passed over and had to be told.
    missing: BTreeSet<Place>,
    /// What was passed over of latest values, by value: a later one may stand for it.
    owed: HashMap<String, Vec<Owed>>,
    connection: Option<Connection>,
}

/// A latest value that did not come.
struct Owed {
    place: Place,
    /// The number of the connection that passed it over.
    connection: u64,
    /// Whether it had to come, or only may have been heard.
    must: bool,
}

/// What is known of the connection that is being read of.
struct Connection {
    recovered: bool,
    brought: Option<String>,
    /// Up to where everything has been told. `None` before `ready`.
    told: Option<Position>,
    /// The number of the last packet that was an event, and that event's entry.
    last: Option<(u64, u64)>,
    /// How many events came since `ready`, until `caught_up` says how many those were.
    replayed: Option<u64>,
}

impl Check<'_> {
    fn find(&mut self, kind: Kind, at: Option<Position>, detail: impl Into<String>) {
        if self.findings.len() < FINDINGS_MAX {
            let (about, at) = (self.who.name.clone(), at.map(|at| at.to_string()));
            self.findings.push(Finding { about, kind, at, detail: detail.into() });
        }
    }

    fn take(&mut self, line: &Line, rest: &[Line]) {
        match line {
            Line::Entered { recovered, brought } => {
                self.counts.connections += 1;
                self.counts.recovered += u64::from(*recovered);
                let returns = self.offset.is_some() && self.who.memory == Memory::Protocol;
                if returns && !recovered {
                    self.find(Kind::NotRecovered, self.offset, "it brought its private id, and was given another");
                }
                let (recovered, brought) = (*recovered, brought.clone());
                self.connection = Some(Connection { recovered, brought, told: None, last: None, replayed: Some(0) });
            }
            Line::Heard { number, text } => match serde_json::from_str::<Vec<Value>>(text) {
                Ok(packet) => self.hears(*number, &packet),
                Err(error) => self.find(Kind::Altered, self.offset, format!("no JSON ({error}): {text}")),
            },
            Line::Asked { id, change, channel } => self.asks(*id, *change, channel, rest),
            Line::Answered { .. } => {} // Read when it was asked for.
            Line::Refused { text } => self.find(Kind::TurnedAway, self.offset, text.to_string()),
            Line::Left { .. } => self.connection = None,
        }
    }

    fn asks(&mut self, id: u64, change: Change, channel: &str, rest: &[Line]) {
        let Some(offset) = self.offset else { return };
        let same = rest.iter().take_while(|line| !matches!(line, Line::Left { .. }));
        let answer = same.filter_map(|line| match line {
            Line::Answered { id: answered, text } if *answered == id => serde_json::from_str::<Vec<Value>>(text).ok(),
            _ => None,
        });
        let answer = answer.flatten().next().unwrap_or_default();
        let done_at = answer["position"].as_str().filter(|_| answer["ok"] == true).and_then(|it| it.parse().ok());
        if answer["denied"].as_array().is_some_and(|denied| !denied.is_empty()) {
            self.find(Kind::TurnedAway, Some(offset), format!("{} {channel}: {answer}", change.name()));
        }
        self.hearing.asks(change, channel, offset, done_at);
    }

    fn hears(&mut self, number: u64, packet: &[Value]) {
        let name = packet.first().and_then(Value::as_str).unwrap_or_default();
        let body = packet.get(1).unwrap_or(&Value::Null);
        let position = packet.get(2..).and_then(|rest| rest.last()?.as_str()).map(str::parse::<Position>);
        let position = match position.transpose() {
            Ok(position) => position,
            Err(_) => return self.find(Kind::Altered, self.offset, format!("no position: {packet:?}")),
        };
        match (name, position) {
            ("ready", Some(position)) => self.is_ready(body, position),
            ("caught_up" | "position", Some(position)) => self.is_told(name, body, position),
            ("snapshot_required", _) => self.find(Kind::SnapshotRequired, self.offset, body.to_string()),
            ("signed_out", _) if body["reason"] != "unverifiable" => {
                self.find(Kind::TurnedAway, self.offset, format!("signed out: {body}"));
            }
            (name, Some(position)) if name.contains('.') => self.is_event(number, name, body, position),
            ("signed_out" | "draining" | "token_expiring" | "presence", None) => {}
            _ => self.find(Kind::Foreign, position.or(self.offset), format!("unexpected: {name} {body}")),
        }
    }

    /// A connection begins to be told.
    fn is_ready(&mut self, body: &Value, position: Position) {
        let Some(Connection { recovered, brought, .. }) = &self.connection else { return };
        let recovered = *recovered;
        let expected = match brought {
            Some(brought) => brought.parse().ok(),
            None => self.offset.filter(|_| recovered),
        };
        if expected.is_some_and(|expected| expected != position) {
            let expected = expected.map(|it| it.to_string()).unwrap_or_default();
            self.find(Kind::Misplaced, Some(position), format!("it begins here, and not at {expected}"));
        }
        if !self.journal.has(position) {
            self.find(Kind::Foreign, Some(position), "no place in this journal");
        }
        if body["recovered"] != recovered {
            self.find(Kind::NotRecovered, Some(position), format!("`ready` says otherwise than CONNECT: {body}"));
        }
        let joined: Vec<&str> = body["joined"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let wrong = match recovered {
            true => self.hearing.goes_on(&self.who.channels, &joined, position),
            false => self.hearing.begins(&self.who.channels, &joined, position),
        };
        for wrong in wrong {
            self.find(Kind::Forgotten, Some(position), wrong);
        }
        if self.who.memory != Memory::Protocol {
            // It stands where it says; what comes after that comes again.
            let is_past = |owed: &Owed| !position.is_before(owed.place.0, owed.place.1);
            self.owed.values_mut().for_each(|owed| owed.retain(is_past));
        }
        if let Some(connection) = &mut self.connection {
            connection.told = Some(position);
        }
        self.offset = Some(position);
    }

    /// Everything up to here has been told, says the hub.
    fn is_told(&mut self, name: &str, body: &Value, position: Position) {
        if !self.journal.has(position) {
            return self.find(Kind::Foreign, Some(position), "no place in this journal");
        }
        let Some(told) = self.told() else { return };
        if (position.seq, position.event.unwrap_or(u32::MAX)) < (told.seq, told.event.unwrap_or(u32::MAX)) {
            self.find(Kind::Reordered, Some(position), format!("`{name}` after {told}"));
        }
        self.pass(told, position, None);
        if name == "caught_up"
            && let Some(replayed) = self.connection.as_mut().and_then(|connection| connection.replayed.take())
            && body["replayed"] != replayed
        {
            self.find(Kind::Miscounted, Some(position), format!("{replayed} were replayed, and not {body}"));
        }
        self.advance(position);
    }

    fn is_event(&mut self, number: u64, name: &str, body: &Value, position: Position) {
        self.counts.events += 1;
        let place = (position.seq, position.event.unwrap_or_default());
        let Some((entry, event)) = self.journal.event(place).filter(|(entry, _)| entry.tag.short() == position.tag)
        else {
            return self.find(Kind::Foreign, Some(position), format!("no event of this journal: {name} {body}"));
        };
        let Some(told) = self.told() else {
            return self.find(Kind::Reordered, Some(position), "before `ready`");
        };
        let hears = self.hearing.of(event, place);
        if hears == Hears::Not {
            self.find(
                Kind::Foreign,
                Some(position),
                format!("of channels that it has not joined: {:?}", event.channels),
            );
        }
        if event.view > self.who.view {
            self.find(Kind::Foreign, Some(position), "hidden from its view");
        }
        let (shown, merged) = without_merged(body);
        let count = u32::try_from(entry.events.len()).unwrap_or(u32::MAX);
        let envelope = event.envelope(self.who.view, entry.seq, (place.1, count), entry.recorded_at);
        match envelope.and_then(serde_json::to_value) {
            Ok(expected) if expected == shown && *event.kind == *name => {}
            Ok(expected) if has_more(&shown, &expected) => {
                self.find(Kind::Foreign, Some(position), format!("its view hides some of {shown}"));
            }
            Ok(expected) => self.find(Kind::Altered, Some(position), format!("{name} {shown} instead of {expected}")),
            Err(error) => self.find(Kind::Broken, Some(position), error.to_string()),
        }
        let is_new = self.seen.insert(place);
        if told.is_before(place.0, place.1) {
            self.is_next(number, place, is_new, told, position);
            self.stands_for(event, merged, position);
            self.hearing.heard(event, place);
        } else {
            // It is not lost, only late.
            self.missing.remove(&place);
            self.owed.values_mut().for_each(|owed| owed.retain(|owed| owed.place != place));
            let kind = if is_new { Kind::Reordered } else { Kind::Repeated };
            self.find(kind, Some(position), format!("after {told}"));
        }
    }

    fn is_next(&mut self, number: u64, place: Place, is_new: bool, told: Position, position: Position) {
        if !is_new && self.who.memory == Memory::Protocol {
            self.find(Kind::Repeated, Some(position), "it had come on an earlier connection");
        }
        self.pass(told, position, Some(place));
        if let Some(connection) = &mut self.connection {
            let last = connection.last.replace((number, place.0));
            connection.replayed = connection.replayed.map(|replayed| replayed + 1);
            if last.is_some_and(|(before, seq)| seq == place.0 && before + 1 != number) {
                self.find(Kind::Torn, Some(position), "something came between it and what its entry told before");
            }
        }
        self.advance(position);
    }

    /// A latest value stands for those of the same that were passed over, and says for how many.
    fn stands_for(&mut self, event: &Stored, merged: u64, position: Position) {
        self.counts.merged += merged;
        let Some(value) = latest_of(event) else {
            if merged > 0 {
                self.find(Kind::Miscounted, Some(position), "merged, and no latest value");
            }
            return;
        };
        // What an earlier connection passed over, nobody can count on a later one.
        let connection = self.counts.connections;
        let mut owed = self.owed.remove(&value).unwrap_or_default();
        owed.retain(|owed| owed.connection == connection);
        let must: Vec<Place> = owed.iter().filter(|owed| owed.must).map(|owed| owed.place).collect();
        if merged < must.len() as u64 {
            self.missing.extend(&must[usize::try_from(merged).unwrap_or(0)..]);
        } else if merged > owed.len() as u64 {
            let detail = format!("it says that it stands for {merged} more, and {} were left out", owed.len());
            self.find(Kind::Miscounted, Some(position), detail);
        }
    }

    fn told(&self) -> Option<Position> {
        self.connection.as_ref().and_then(|connection| connection.told)
    }

    fn advance(&mut self, position: Position) {
        if let Some(connection) = &mut self.connection {
            connection.told = Some(position);
        }
        self.offset = Some(position);
    }

    /// What lies between two places and is not told now, will not be told any more.
    fn pass(&mut self, after: Position, to: Position, told_now: Option<Place>) {
        let journal = self.journal;
        for (place, event) in journal.between(after, to) {
            if Some(place) == told_now || event.view > self.who.view {
                continue;
            }
            let must = match self.hearing.of(event, place) {
                Hears::Not => continue,
                Hears::May => false,
                Hears::Must => true,
            };
            match latest_of(event) {
                Some(value) => {
                    let owed = Owed { place, connection: self.counts.connections, must };
                    self.owed.entry(value).or_default().push(owed);
                }
                None if must => _ = self.missing.insert(place),
                None => {}
            }
        }
    }

    fn end(&mut self) {
        let head = self.journal.head();
        match self.offset {
            Some(offset) if offset.seq >= head.seq => self.pass(offset, head, None),
            offset => self.find(Kind::Stuck, offset, format!("the journal's head is {head}")),
        }
        let owed = std::mem::take(&mut self.owed).into_values().flatten();
        let owed = owed.filter(|owed| owed.must).map(|owed| owed.place);
        let lost: BTreeSet<Place> = owed.chain(std::mem::take(&mut self.missing)).collect();
        for place in &lost {
            let Some((entry, event)) = self.journal.event(*place) else { continue };
            let detail = format!("{} did not come ({} lost in all)", event.kind, lost.len());
            self.find(Kind::Lost, Some(Position::of_event(place.0, place.1, entry.tag)), detail);
        }
    }
}

/// For a latest-value topic, a text that names the value.
fn latest_of(event: &Stored) -> Option<String> {
    let topic = event.channels.first()?.split('/').next()?;
    let fields = TOPICS.iter().find(|row| row.name == topic)?.latest_by?;
    let data: Value = serde_json::from_str(event.data.get()).ok()?;
    let mut value = topic.to_owned();
    for field in fields {
        let part = match field.strip_prefix("data.") {
            Some(field) => data[field].to_string(),
            None => event.outlet.map(|outlet| outlet.to_string()).unwrap_or_default(),
        };
        value = format!("{value} {part}");
    }
    Some(value)
}

fn without_merged(body: &Value) -> (Value, u64) {
    let mut body = body.clone();
    let merged = body.as_object_mut().and_then(|body| body.remove("merged"));
    (body, merged.and_then(|merged| merged.as_u64()).unwrap_or(0))
}

/// Whether something is shown that should not be there at all.
fn has_more(shown: &Value, expected: &Value) -> bool {
    match (shown, expected) {
        (Value::Object(shown), Value::Object(expected)) => {
            shown.iter().any(|(name, value)| expected.get(name).is_none_or(|expected| has_more(value, expected)))
        }
        (Value::Array(shown), Value::Array(expected)) => {
            shown.len() > expected.len()
                || shown.iter().zip(expected).any(|(shown, expected)| has_more(shown, expected))
        }
        (shown, expected) => expected.is_null() && !shown.is_null(),
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.as_deref().map(|at| format!(" at {at}")).unwrap_or_default();
        write!(f, "{:?}: {}{at}: {}", self.kind, self.about, self.detail)
    }
}
