//! The checker catches each kind of mistake, and finds nothing where there is none.

use serde_json::{Value, json};
use tillwire_channels::{Moment, OutletId, Position, Stored, Tag, View};

use super::*;
use crate::journal::Row;
use crate::record::{Change, Line, Memory, Record, Who};

const OUTLET: OutletId = OutletId(uuid::Uuid::from_u128(7));

/// Six entries: sales of one till with what they took from stock, a payment, a new name.
fn journal() -> Journal {
    let sale = |number: u32| {
        let data = json!({ "sale": format!("s{number}"), "number": number, "total_minor": 7_500, "tenders": ["cash"] });
        event("sale.completed", "sales", View::Display, data)
    };
    let stock = |variant: &str, on_hand: u32| {
        let data = json!({ "variant": variant, "on_hand": on_hand, "document": "hidden from tills" });
        event("stock.changed", "stock", View::Display, data)
    };
    let payment = event("payment.captured", "payments", View::Till, json!({ "sale": "s1", "amount_minor": 7_500 }));
    let entries = vec![
        vec![sale(1), payment, stock("a", 9), stock("b", 9)],
        vec![stock("a", 8)],
        vec![sale(2), stock("a", 7)],
        vec![event("product.changed", "catalog", View::Display, json!({ "product": "p", "name": "Roti 1" }))],
        vec![sale(3), stock("a", 6), stock("b", 8)],
        vec![sale(4)],
    ];
    let mut prev = Tag::GENESIS;
    let rows = (1..).zip(entries).map(|(seq, events)| {
        let tag = Tag([u8::try_from(seq).unwrap(); 8]);
        let row =
            Row { seq, prev, tag, recorded_at: Moment::UNIX_EPOCH, events: serde_json::to_string(&events).unwrap() };
        prev = tag;
        row
    });
    Journal::new(0, Tag::GENESIS, rows.collect()).unwrap()
}

fn event(kind: &str, topic: &str, view: View, data: Value) -> Stored {
    let channel = if topic == "catalog" { topic.to_owned() } else { format!("{topic}/{OUTLET}") };
    Stored {
        kind: kind.into(),
        channels: vec![channel.into()],
        view,
        outlet: Some(OUTLET),
        register: None,
        occurred_at: Moment::UNIX_EPOCH,
        actor: None,
        data: serde_json::value::to_raw_value(&data).unwrap(),
    }
}

/// A screen's story, written as it should be; and then as it should not.
struct Story {
    journal: Journal,
    who: Who,
    lines: Vec<Line>,
    number: u64,
}

impl Story {
    fn of(view: View, channels: &[&str]) -> Self {
        let channels = channels.iter().map(ToString::to_string).collect();
        let who = Who { name: "screen".into(), shop: 0, view, channels, memory: Memory::Protocol };
        Self { journal: journal(), who, lines: Vec::new(), number: 0 }
    }

    fn remembering(mut self, memory: Memory) -> Self {
        self.who.memory = memory;
        self
    }

    fn at(&self, place: &str) -> String {
        let (seq, event) = place.split_once('.').map_or((place, None), |(seq, event)| (seq, Some(event)));
        let seq: u64 = seq.parse().unwrap();
        let tag = Tag([u8::try_from(seq).unwrap(); 8]);
        Position { seq, event: event.map(|event| event.parse().unwrap()), tag: tag.short() }.to_string()
    }

    fn enters(self, recovered: bool, joined: &[&str], at: &str) -> Self {
        self.brings(recovered, joined, None, at)
    }

    fn brings(mut self, recovered: bool, joined: &[&str], brought: Option<&str>, at: &str) -> Self {
        let brought = brought.map(|place| self.at(place));
        self.lines.push(Line::Entered { recovered, brought });
        let ready = json!(["ready", { "joined": joined, "denied": [], "recovered": recovered }, self.at(at)]);
        self.hears(ready)
    }

    fn hears(mut self, packet: Value) -> Self {
        self.number += 1;
        self.lines.push(Line::Heard { number: self.number, text: packet.to_string().into() });
        self
    }

    fn event(&self, place: &str) -> Value {
        let position: Position = self.at(place).parse().unwrap();
        let at = (position.seq, position.event.unwrap());
        let (entry, event) = self.journal.event(at).unwrap();
        let count = u32::try_from(entry.events.len()).unwrap();
        let body = event.envelope(self.who.view, entry.seq, (at.1, count), entry.recorded_at).unwrap();
        json!([event.kind, body, position])
    }

    /// The events at these places, as they are.
    fn told(mut self, places: &str) -> Self {
        for place in places.split_whitespace() {
            let packet = self.event(place);
            self = self.hears(packet);
        }
        self
    }

    fn told_otherwise(self, place: &str, change: impl FnOnce(&mut Value)) -> Self {
        let mut packet = self.event(place);
        change(&mut packet);
        self.hears(packet)
    }

    /// A latest value that stands for more.
    fn merged(self, place: &str, count: u32) -> Self {
        self.told_otherwise(place, |packet| packet[1]["merged"] = json!(count))
    }

    fn position(self, name: &str, at: &str) -> Self {
        let packet = json!([name, {}, self.at(at)]);
        self.hears(packet)
    }

    fn caught_up(self, replayed: u64, at: &str) -> Self {
        let packet = json!(["caught_up", { "replayed": replayed }, self.at(at)]);
        self.hears(packet)
    }

    /// What is not written down: an acknowledgement.
    fn something(mut self) -> Self {
        self.number += 1;
        self
    }

    fn asks(mut self, id: u64, change: Change, channel: &str) -> Self {
        self.lines.push(Line::Asked { id, change, channel: channel.into() });
        self
    }

    fn answered(mut self, id: u64, at: &str) -> Self {
        let text = json!([{ "ok": true, "joined": [], "denied": [], "position": self.at(at) }]).to_string();
        self.lines.push(Line::Answered { id, text: text.into() });
        self
    }

    fn cut(mut self) -> Self {
        self.lines.push(Line::Left { why: "cut".into() });
        self
    }

    #[track_caller]
    fn comes_to(self, kinds: &[Kind]) -> Vec<Finding> {
        let (_, findings) = check(&self.journal, &Record { who: self.who, lines: self.lines });
        assert_eq!(findings.iter().map(|finding| finding.kind).collect::<Vec<_>>(), kinds, "{findings:#?}");
        findings
    }
}

const ALL: [&str; 4] = ["sales", "payments", "stock", "catalog"];
const EVERYTHING: &str = "1.1 1.2 1.3 1.4 2.1 3.1 3.2 4.1 5.1 5.2 5.3 6.1";

fn owner() -> Story {
    Story::of(View::Office, &ALL)
}

#[test]
fn everything_once_and_in_order_is_what_was_promised() {
    owner().enters(false, &ALL, "0").told(EVERYTHING).comes_to(&[]);
    owner()
        .enters(false, &ALL, "0")
        .told("1.1 1.2 1.3 1.4")
        .caught_up(4, "1")
        .told("2.1 3.1 3.2 4.1 5.1 5.2 5.3 6.1")
        .comes_to(&[]);
    // What it has not joined is not told, and the position tells that.
    let sales = ["sales"];
    Story::of(View::Display, &sales)
        .enters(false, &sales, "0")
        .told("1.1 3.1 5.1")
        .position("position", "5")
        .told("6.1")
        .comes_to(&[]);
}

#[test]
fn what_did_not_come_is_lost_wherever_it_was() {
    let found =
        owner().enters(false, &ALL, "0").told("1.1 1.2 1.3 1.4 2.1 3.2 4.1 5.1 5.2 5.3 6.1").comes_to(&[Kind::Lost]);
    assert_eq!(found[0].at.as_deref(), Some("3.1-03030303"));
    // A position says that nothing before it is still to come.
    owner().enters(false, &ALL, "3").told("4.1").position("position", "6").comes_to(&[Kind::Lost; 4]);
    // At the end, and while it was away.
    owner().enters(false, &ALL, "4").told("5.1 5.2 5.3").comes_to(&[Kind::Stuck]);
    owner().enters(false, &ALL, "5").told("6.1").cut().enters(true, &ALL, "6.1").comes_to(&[]);
    owner()
        .enters(false, &ALL, "2")
        .told("3.1")
        .cut()
        .enters(true, &ALL, "3.1")
        .told("4.1 5.1 5.2 5.3 6.1")
        .comes_to(&[Kind::Lost]);
}

#[test]
fn it_shows_that_it_is_awake() {
    let Story { journal, who, lines, .. } = owner().enters(false, &ALL, "0").told(EVERYTHING);
    let record = Record { who, lines };
    assert_eq!(misses_a_sale(&journal, &record), Some(true));
    assert_eq!(misses_a_sale(&journal, &Record { lines: Vec::new(), ..record }), None);
}

#[test]
fn nothing_comes_twice_to_a_client_that_recovers() {
    owner().enters(false, &ALL, "4").told("5.1 5.2 5.3 5.3 6.1").comes_to(&[Kind::Repeated]);
    let misplaced = owner().enters(false, &ALL, "4").told("5.1 5.2 5.3").cut().enters(true, &ALL, "4");
    misplaced.told("5.1 5.2 5.3 6.1").comes_to(&[Kind::Misplaced, Kind::Repeated, Kind::Repeated, Kind::Repeated]);
}

#[test]
fn one_that_forgot_is_told_again_and_the_same() {
    let forgetful =
        || owner().remembering(Memory::Forgetful).brings(false, &ALL, Some("4"), "4").told("5.1 5.2 5.3").cut();
    forgetful().brings(false, &ALL, Some("4"), "4").told("5.1 5.2 5.3 6.1").comes_to(&[]);
    let altered = forgetful().brings(false, &ALL, Some("4"), "4").told("5.1 5.2");
    altered
        .told_otherwise("5.3", |packet| packet[1]["data"]["on_hand"] = json!(9))
        .told("6.1")
        .comes_to(&[Kind::Altered]);
    let elsewhere = owner().remembering(Memory::Application).brings(false, &ALL, Some("4"), "5");
    elsewhere.told("6.1").comes_to(&[Kind::Misplaced]);
}

#[test]
fn a_later_one_before_an_earlier_one_is_out_of_order() {
    owner().enters(false, &ALL, "3").told("5.1 5.2 5.3 4.1 6.1").comes_to(&[Kind::Reordered]);
    owner()
        .enters(false, &ALL, "4")
        .told("5.1 5.2 5.3 6.1")
        .position("position", "5")
        .comes_to(&[Kind::Reordered, Kind::Stuck]);
}

#[test]
fn an_entry_leaves_together() {
    owner().enters(false, &ALL, "4").something().told("5.1 5.2 5.3").something().told("6.1").comes_to(&[]);
    owner().enters(false, &ALL, "4").told("5.1").something().told("5.2 5.3 6.1").comes_to(&[Kind::Torn]);
    // After a cut inside it its rest comes first.
    let cut = || owner().enters(false, &ALL, "4").told("5.1").cut().enters(true, &ALL, "5.1");
    cut().told("5.2 5.3 6.1").comes_to(&[]);
    cut().told("6.1 5.2 5.3").comes_to(&[Kind::Reordered, Kind::Reordered]);
}

#[test]
fn what_is_not_its_own_is_foreign() {
    let sales = ["sales"];
    let display = || Story::of(View::Display, &sales).enters(false, &sales, "4");
    display().told("5.1 5.2 6.1").comes_to(&[Kind::Foreign]);
    display()
        .told_otherwise("5.1", |packet| packet[1]["data"]["tenders"] = json!([]))
        .told("6.1")
        .comes_to(&[Kind::Foreign]);
    display()
        .told_otherwise("5.1", |packet| packet[1]["actor"] = json!("somebody"))
        .told("6.1")
        .comes_to(&[Kind::Foreign]);
    display()
        .told("5.1")
        .told_otherwise("6.1", |packet| packet[2] = json!("6.1-deadbeef"))
        .comes_to(&[Kind::Foreign, Kind::Stuck]);
    let all = ["sales", "payments"];
    let payment = Story::of(View::Display, &all).enters(false, &all, "0").told("1.1 1.2 3.1 5.1 6.1");
    payment.comes_to(&[Kind::Foreign]);
}

#[test]
fn a_body_is_compared_whole() {
    owner()
        .enters(false, &ALL, "5")
        .told_otherwise("6.1", |packet| packet[1]["data"]["number"] = json!(5))
        .comes_to(&[Kind::Altered]);
    owner()
        .enters(false, &ALL, "5")
        .told_otherwise("6.1", |packet| packet[0] = json!("stock.changed"))
        .comes_to(&[Kind::Altered]);
    let without = |packet: &mut Value| _ = packet[1]["data"].as_object_mut().unwrap().remove("number");
    owner().enters(false, &ALL, "5").told_otherwise("6.1", without).comes_to(&[Kind::Altered]);
}

#[test]
fn a_latest_value_stands_for_exactly_what_was_left_out() {
    let stock = ["stock"];
    let slow = || Story::of(View::Office, &stock).enters(false, &stock, "0");
    slow().told("1.4").merged("5.2", 3).told("5.3").position("position", "6").comes_to(&[]);
    slow().told("1.4").merged("5.2", 2).told("5.3").position("position", "6").comes_to(&[Kind::Lost]);
    slow().told("1.4").merged("5.2", 4).told("5.3").position("position", "6").comes_to(&[Kind::Miscounted]);
    slow().told("1.4 5.2 5.3").position("position", "6").comes_to(&[Kind::Lost; 3]);
    // The newest value has to come.
    slow().told("1.3 1.4 2.1 3.2").position("position", "6").comes_to(&[Kind::Lost; 2]);
    // What was left out before a cut, a later connection cannot count, and still stands for.
    let cut = slow().told("1.4").merged("2.1", 1).position("position", "3").cut().enters(true, &stock, "3");
    cut.told("5.2 5.3").position("position", "6").comes_to(&[]);
    // What it perhaps did not hear yet, one may stand for and need not.
    let sales = ["sales"];
    let joins =
        || Story::of(View::Office, &sales).enters(false, &sales, "0").told("1.1").asks(1, Change::Join, "stock");
    joins().answered(1, "1").told("3.1 5.1").merged("5.2", 2).told("5.3 6.1").comes_to(&[]);
    joins().answered(1, "2").told("3.1 5.1").merged("5.2", 1).told("5.3 6.1").comes_to(&[]);
    joins().answered(1, "2").told("3.1 5.1").merged("5.2", 3).told("5.3 6.1").comes_to(&[]);
    joins().answered(1, "2").told("3.1 5.1").merged("5.2", 4).told("5.3 6.1").comes_to(&[Kind::Miscounted]);
    // Sales are never merged.
    let sales = ["sales"];
    Story::of(View::Office, &sales)
        .enters(false, &sales, "3")
        .merged("6.1", 1)
        .comes_to(&[Kind::Miscounted, Kind::Lost]);
}

#[test]
fn what_was_joined_is_heard_from_where_it_was_acknowledged() {
    let sales = ["sales"];
    let wanders =
        || Story::of(View::Office, &sales).enters(false, &sales, "0").told("1.1").asks(1, Change::Join, "stock");
    wanders().answered(1, "2").told("3.1 3.2 5.1 5.2 5.3 6.1").comes_to(&[]);
    wanders().answered(1, "2").told("3.1 5.1 5.2 5.3 6.1").comes_to(&[Kind::Lost]);
    // Heard before the answer was.
    wanders().told("3.1 3.2").answered(1, "2").told("5.1 5.2 5.3 6.1").comes_to(&[]);
    let leaves = wanders().answered(1, "2").told("3.1 3.2").asks(2, Change::Leave, "stock").answered(2, "4");
    leaves.told("5.1 6.1").comes_to(&[]);
    let leaves = wanders().answered(1, "2").told("3.1 3.2").asks(2, Change::Leave, "stock").answered(2, "4");
    leaves.told("5.1 5.2 6.1").comes_to(&[Kind::Foreign]);
}

#[test]
fn what_was_acknowledged_is_so_after_a_cut() {
    let (sales, both) = (["sales"], ["sales", "stock"]);
    let wanders =
        || Story::of(View::Office, &sales).enters(false, &sales, "0").told("1.1").asks(1, Change::Join, "stock");
    wanders().answered(1, "2").cut().enters(true, &both, "1.1").told("3.1 3.2 5.1 5.2 5.3 6.1").comes_to(&[]);
    wanders().answered(1, "2").cut().enters(true, &sales, "1.1").told("3.1 5.1 6.1").comes_to(&[Kind::Forgotten]);
    // Not acknowledged, it may be so or not; but once it is heard, all that follows is.
    wanders().cut().enters(true, &sales, "1.1").told("3.1 5.1 6.1").comes_to(&[]);
    wanders().cut().enters(true, &both, "1.1").told("3.1 5.1 5.2 5.3 6.1").comes_to(&[]);
    wanders().cut().enters(true, &both, "1.1").told("1.3 1.4 2.1 3.1 5.1 5.2 5.3 6.1").comes_to(&[Kind::Lost]);
    // It joined behind an entry of which it had heard what it heard then; that it wants to leave again never arrives.
    let joins =
        || Story::of(View::Office, &sales).enters(false, &sales, "2").told("3.1").asks(1, Change::Join, "stock");
    let leaves = || joins().answered(1, "3").asks(2, Change::Leave, "stock").cut().enters(true, &both, "3.1");
    leaves().told("5.1 5.2 5.3 6.1").comes_to(&[]);
    leaves().told("3.2 5.1 5.2 5.3 6.1").comes_to(&[Kind::Foreign]);
    leaves().told("5.1 5.3 6.1").comes_to(&[Kind::Lost]);
    let others = ["sales", "catalog"];
    wanders().cut().enters(true, &others, "1.1").told("3.1 5.1 6.1").comes_to(&[Kind::Forgotten]);
}

#[test]
fn words_that_were_out_of_place_are_found() {
    owner()
        .enters(false, &ALL, "5")
        .hears(json!(["snapshot_required", { "reason": "diverged" }]))
        .told("6.1")
        .comes_to(&[Kind::SnapshotRequired]);
    owner()
        .enters(false, &ALL, "5")
        .hears(json!(["signed_out", { "reason": "revoked" }]))
        .told("6.1")
        .comes_to(&[Kind::TurnedAway]);
    owner()
        .enters(false, &ALL, "5")
        .hears(json!(["signed_out", { "reason": "unverifiable" }]))
        .told("6.1")
        .comes_to(&[]);
    owner()
        .enters(false, &ALL, "5")
        .hears(json!(["snapshot", {}, "6-06060606"]))
        .told("6.1")
        .comes_to(&[Kind::Foreign]);
    owner().enters(false, &ALL, "5").told("6.1").cut().enters(false, &ALL, "6").comes_to(&[Kind::NotRecovered]);
    owner().enters(false, &ALL, "5").told("6.1").caught_up(2, "6").comes_to(&[Kind::Miscounted]);
    owner().enters(false, &["sales"], "5").told("6.1").comes_to(&[Kind::Forgotten; 3]);
}

#[test]
fn a_till_was_told_what_became_of_it() {
    let journal = journal();
    let at = |seq: u64| Some(Position::of_entry(seq, Tag([u8::try_from(seq).unwrap(); 8])).to_string());
    let deed = |mark: &str, outcome| Deed { key: mark.into(), what: "sale", mark: mark.into(), outcome, tries: 1 };
    let done = |mark: &str, seq| deed(mark, Outcome::Done { position: at(seq) });
    let refused = |mark: &str| deed(mark, Outcome::Refused { status: 422, text: String::new() });
    let kinds = |deeds: &[Deed]| {
        check_deeds("shop", &journal, deeds).into_iter().map(|finding| finding.kind).collect::<Vec<_>>()
    };
    let right =
        [done("s1", 1), done("hidden from tills", 2), done("s2", 3), done("Roti 1", 4), done("s3", 5), done("s4", 6)];
    // The same document in four entries: that is four deliveries.
    assert_eq!(kinds(&right), [Kind::Repeated, Kind::Foreign]);
    let sales = |more: &[Deed]| {
        let kinds = kinds(&[&[done("s1", 1), done("s2", 3), done("Roti 1", 4), done("s3", 5)], more].concat());
        assert_eq!(kinds.last(), Some(&Kind::Foreign), "entry 2 is nobody's");
        kinds[..kinds.len() - 1].to_vec()
    };
    assert_eq!(sales(&[done("s4", 6), refused("s9")]), []);
    assert_eq!(sales(&[done("s4", 6), done("s9", 7)]), [Kind::Lost]);
    assert_eq!(sales(&[done("s4", 5)]), [Kind::Misreported]);
    assert_eq!(sales(&[refused("s4")]), [Kind::Misreported, Kind::Foreign]);
    assert_eq!(sales(&[deed("s4", Outcome::Unknown { last: "503".into() })]), [Kind::Stuck, Kind::Foreign]);
}

#[test]
fn a_journal_with_a_hole_is_none() {
    let row = |seq, prev, tag| Row {
        seq,
        prev: Tag([prev; 8]),
        tag: Tag([tag; 8]),
        recorded_at: Moment::UNIX_EPOCH,
        events: "[]".into(),
    };
    assert!(Journal::new(0, Tag::GENESIS, vec![row(1, 0, 1), row(2, 1, 2)]).is_ok());
    assert!(Journal::new(0, Tag::GENESIS, vec![row(1, 0, 1), row(3, 1, 3)]).is_err());
    assert!(Journal::new(0, Tag::GENESIS, vec![row(1, 0, 1), row(2, 9, 2)]).is_err());
}
