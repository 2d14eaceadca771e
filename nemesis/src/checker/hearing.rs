//! What a screen listens to, from where to where; as surely as it can know that itself.
//!
//! A join or a leave takes effect at a place that its acknowledgement names. One that was cut off before that took effect
//! at some place or not at all, and the next `ready` says which: what lies between may have been told, and may not.

use std::collections::{BTreeMap, BTreeSet};

use tillwire_channels::topic::hears;
use tillwire_channels::{Position, Stored, Tag};

use crate::journal::Place;
use crate::record::Change;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hears {
    Not,
    May,
    Must,
}

/// Every channel that ever was joined.
#[derive(Default)]
pub struct Hearing(BTreeMap<String, Channel>);

struct Channel {
    state: State,
    spans: Vec<Span>,
}

/// As far as the screen knows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Joined,
    Away,
    /// It has asked, and does not know.
    Joining,
    Leaving,
}

/// A stretch in which a channel is heard: surely within the inner bounds, perhaps within the outer ones.
struct Span {
    may_from: Position,
    /// `None` as long as nothing has come.
    must_from: Option<Position>,
    /// `None` as long as it is not left.
    must_until: Option<Position>,
    may_until: Option<Position>,
}

impl Span {
    fn surely_from(from: Position) -> Self {
        Self { must_from: Some(from), ..Self::perhaps_from(from) }
    }

    fn perhaps_from(from: Position) -> Self {
        Self { may_from: from, must_from: None, must_until: None, may_until: None }
    }

    fn of(&self, (seq, event): Place) -> Hears {
        let after = |from: Position| from.is_before(seq, event);
        let up_to = |until: Option<Position>| until.is_none_or(|until| !until.is_before(seq, event));
        if self.must_from.is_some_and(after) && up_to(self.must_until) && up_to(self.may_until) {
            Hears::Must
        } else if after(self.may_from) && up_to(self.may_until) {
            Hears::May
        } else {
            Hears::Not
        }
    }
}

impl Hearing {
    /// A new screen, or one that was not taken up again. Answers what is wrong with that.
    pub fn begins(&mut self, asked: &[String], joined: &[&str], at: Position) -> Vec<String> {
        self.0.clear();
        let (asked, joined): (BTreeSet<&str>, BTreeSet<&str>) =
            (asked.iter().map(String::as_str).collect(), joined.iter().copied().collect());
        for name in &joined {
            let channel = Channel { state: State::Joined, spans: vec![Span::surely_from(at)] };
            self.0.insert((*name).to_owned(), channel);
        }
        let differ = asked.symmetric_difference(&joined);
        differ.map(|name| format!("{name} was asked for or joined, and not both")).collect()
    }

    /// A screen that was taken up again, with what it had joined. Answers what is wrong with that.
    pub fn goes_on(&mut self, asked: &[String], joined: &[&str], at: Position) -> Vec<String> {
        if self.0.is_empty() {
            // It was cut before it heard anything.
            return self.begins(asked, joined, at);
        }
        let mut wrong = Vec::new();
        for (name, channel) in &mut self.0 {
            let is_joined = joined.contains(&name.as_str());
            match (channel.state, is_joined) {
                (State::Joined, true) | (State::Away, false) => continue,
                (State::Joined, false) => {
                    wrong.push(format!("{name} was joined, and is no more"));
                    channel.ends(at, at);
                }
                (State::Away, true) => {
                    wrong.push(format!("{name} was left, and is joined"));
                    channel.spans.push(Span::perhaps_from(at));
                }
                (State::Joining | State::Leaving, false) => channel.ends(at, at),
                // From where on, the first that comes will tell.
                (State::Joining, true) => {}
                (State::Leaving, true) => {
                    // It may have joined further on than it stands: its own events may have been before that.
                    let joined_at = channel.spans.iter().filter_map(|span| span.must_from).max_by_key(|at| order(*at));
                    let from = joined_at.filter(|joined_at| order(*joined_at) > order(at)).unwrap_or(at);
                    channel.ends(at, at);
                    channel.spans.push(Span { must_from: Some(from), ..Span::perhaps_from(from) });
                }
            }
            channel.state = if is_joined { State::Joined } else { State::Away };
        }
        let unknown = joined.iter().filter(|name| !self.0.contains_key(**name));
        wrong.extend(unknown.map(|name| format!("{name} is joined, and nobody asked")));
        wrong
    }

    /// It asked to join or to leave when it stood at `offset`. `done_at` is what it was answered, if it was.
    pub fn asks(&mut self, change: Change, name: &str, offset: Position, done_at: Option<Position>) {
        let done_at = done_at.map(|at| if at.seq < offset.seq { offset } else { at });
        let channel =
            self.0.entry(name.to_owned()).or_insert_with(|| Channel { state: State::Away, spans: Vec::new() });
        match change {
            Change::Join => {
                channel.spans.push(Span { must_from: done_at, ..Span::perhaps_from(offset) });
                channel.state = if done_at.is_some() { State::Joined } else { State::Joining };
            }
            Change::Leave => match done_at {
                Some(done_at) => {
                    channel.ends(offset, done_at);
                    channel.state = State::Away;
                }
                None => {
                    channel.spans.iter_mut().for_each(|span| _ = span.must_until.get_or_insert(offset));
                    channel.state = State::Leaving;
                }
            },
        }
    }

    pub fn of(&self, event: &Stored, place: Place) -> Hears {
        self.on(event).map(|(_, channel)| channel.of(place)).max().unwrap_or(Hears::Not)
    }

    /// An event has come. Where it was not known since when its channel is joined, it is from here on.
    pub fn heard(&mut self, event: &Stored, place: Place) {
        for (name, channel) in &mut self.0 {
            if channel.state == State::Joined && is_heard_on(event, name) && channel.of(place) == Hears::May {
                let from = Position::of_event(place.0, place.1, Tag::GENESIS);
                for span in channel.spans.iter_mut().filter(|span| span.may_until.is_none()) {
                    span.must_from.get_or_insert(from);
                }
            }
        }
    }

    fn on<'a>(&'a self, event: &'a Stored) -> impl Iterator<Item = (&'a String, &'a Channel)> {
        self.0.iter().filter(|(name, _)| is_heard_on(event, name))
    }
}

/// Where it is in the journal. A whole entry ends after its events.
fn order(position: Position) -> (u64, u32) {
    (position.seq, position.event.unwrap_or(u32::MAX))
}

fn is_heard_on(event: &Stored, joined: &str) -> bool {
    event.channels.iter().any(|channel| hears(joined, channel))
}

impl Channel {
    fn of(&self, place: Place) -> Hears {
        self.spans.iter().map(|span| span.of(place)).max().unwrap_or(Hears::Not)
    }

    fn ends(&mut self, surely: Position, at_last: Position) {
        for span in self.spans.iter_mut().filter(|span| span.may_until.is_none()) {
            span.must_until.get_or_insert(surely);
            span.may_until = Some(at_last);
        }
    }
}
