//! A feed and its screens, under anything that buses, the journal, clients and their own tasks may do to them.
//!
//! The feed, its ring, its audience, what it encodes and the queues of its sockets are the real ones. What waits is played by
//! hand: the journal (which may lose its end to a fail-over and its beginning to retention), the buses (which lose, repeat,
//! reorder and bring what is of another history), the task that heals, and each screen's own task, step by step, so that
//! anything can happen between two of its steps. What a client is sent is compared with the journal's tree: from the last
//! position that it was told there must lead one way to the next, with nothing on it that it hears and was not sent.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use tillwire_channels::topic::hears;
use tillwire_channels::wire::{Snapshot, SnapshotReason, SnapshotRequired};
use tillwire_channels::{Channel, OutletId, Role, Tag, Topic};
use tillwire_socketio::loose::Loose;
use tillwire_socketio::{Config, Encoded, SendError};

use super::screens::Plan;
use super::*;
use crate::gateway::admission::Admission;
use crate::gateway::audience::{Cursor, Given};
use crate::gateway::packed::Packed;
use crate::gateway::pieces::Piece;
use crate::gateway::screen::is_ahead;
use crate::gateway::{join, tell};
use crate::identity::Staff;
use crate::journal::chain;
use crate::screens::joined::Joined;

/// As many clients as there may be different stories at once.
const CLIENTS: usize = 3;
/// Small, so that it is full now and then. An entry has fewer events.
const QUEUE_PACKETS_MAX: usize = 10;
/// What a task may take in steps until it is done, when nothing happens any more.
const STEPS_MAX: usize = 5_000;

/// Something that happens.
#[derive(Clone, Debug)]
enum Op {
    /// An entry is committed, of events on these channels, each of so many bytes. A bus carries it.
    Commit {
        channels: Vec<u8>,
        bytes: u16,
    },
    /// Many small ones.
    Burst {
        entries: u16,
    },
    /// One whose events cannot be read.
    CommitUnreadable,
    /// A bus brings one of the entries that it carries, and perhaps brings it again.
    Bring {
        which: u8,
        again: bool,
    },
    /// A bus brings all that it carries, in order.
    BringAll,
    /// A bus loses one.
    Lose {
        which: u8,
    },
    /// A bus brings what fits its own tag, and no history.
    BringForged {
        ahead: u8,
        prev: u8,
    },
    /// A bus says that there is an entry, perhaps wrongly.
    Tell {
        ahead: u8,
    },
    /// The heads are compared, as they are or were.
    Compare {
        ago: u8,
    },
    /// The task that heals asks, or hears the answer: as it was when it asked, or as it is now.
    Heal {
        stale: bool,
    },
    /// The last entries are lost, as by a fail-over or a restored backup.
    FailOver {
        lost: u8,
    },
    /// Retention takes the first entries.
    Expire {
        entries: u8,
    },
    /// A client comes anew, at the head or at a place that it names.
    Come {
        client: u8,
        place: Place,
        channels: Vec<u8>,
        wants_state: bool,
    },
    /// A client comes back as a stock client does: to where it was, with what it had joined.
    ComeBack {
        client: u8,
    },
    /// A client's connection breaks after it has read so many packets of what was under way.
    Cut {
        client: u8,
        read: u8,
    },
    Read {
        client: u8,
    },
    /// A client leaves some channels, or else joins some: worked out and stored.
    Plan {
        client: u8,
        change: Change,
    },
    /// And carried out.
    Rejoin {
        client: u8,
    },
    /// A client sends a fresh token.
    Renew {
        client: u8,
    },
    /// A client's heartbeat is due.
    Ping {
        client: u8,
    },
    /// A screen's task goes so many steps further.
    Run {
        client: u8,
        steps: u8,
        stale: bool,
        slice: u8,
    },
    /// What a screen's task had given has arrived, and is stored as such.
    WriteOff {
        client: u8,
    },
}

#[derive(Clone, Debug)]
enum Place {
    Head,
    /// One of the entries of any history; perhaps inside it.
    Known {
        which: u16,
        event: Option<u8>,
    },
    Unknown {
        seq: u8,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let channels = || prop::collection::vec(0..8_u8, 1..4);
    let place = prop_oneof![
        2 => Just(Place::Head),
        4 => (any::<u16>(), prop::option::of(0..4_u8)).prop_map(|(which, event)| Place::Known { which, event }),
        1 => (0..20_u8).prop_map(|seq| Place::Unknown { seq }),
    ];
    let client = || 0..CLIENTS as u8;
    let op = prop_oneof![
        8 => (channels(), prop_oneof![3 => 0..50_u16, 1 => 0..20_000_u16])
            .prop_map(|(channels, bytes)| Op::Commit { channels, bytes }),
        1 => (1..300_u16).prop_map(|entries| Op::Burst { entries }),
        1 => Just(Op::CommitUnreadable),
        6 => (any::<u8>(), any::<bool>()).prop_map(|(which, again)| Op::Bring { which, again }),
        3 => Just(Op::BringAll),
        2 => any::<u8>().prop_map(|which| Op::Lose { which }),
        // What all journals begin with would fit one that has not begun.
        1 => (0..4_u8, 1..=u8::MAX).prop_map(|(ahead, prev)| Op::BringForged { ahead, prev }),
        1 => (0..6_u8).prop_map(|ahead| Op::Tell { ahead }),
        3 => prop_oneof![2 => Just(0), 1 => any::<u8>()].prop_map(|ago| Op::Compare { ago }),
        5 => any::<bool>().prop_map(|stale| Op::Heal { stale }),
        2 => (0..6_u8).prop_map(|lost| Op::FailOver { lost }),
        1 => (1..6_u8).prop_map(|entries| Op::Expire { entries }),
        5 => (client(), place, channels(), prop::bool::weighted(0.2)).prop_map(
            |(client, place, channels, wants_state)| Op::Come { client, place, channels, wants_state }
        ),
        5 => client().prop_map(|client| Op::ComeBack { client }),
        3 => (client(), 0..12_u8).prop_map(|(client, read)| Op::Cut { client, read }),
        6 => client().prop_map(|client| Op::Read { client }),
        4 => (client(), channels(), prop::collection::vec(0..8_u8, 0..2), any::<bool>())
            .prop_map(|(client, join, leave, snapshot)| Op::Plan { client, change: Change { join, leave, snapshot } }),
        5 => client().prop_map(|client| Op::Rejoin { client }),
        1 => client().prop_map(|client| Op::Renew { client }),
        2 => client().prop_map(|client| Op::Ping { client }),
        14 => (client(), 1..9_u8, any::<bool>(), any::<u8>())
            .prop_map(|(client, steps, stale, slice)| Op::Run { client, steps, stale, slice }),
        3 => client().prop_map(|client| Op::WriteOff { client }),
    ];
    prop::collection::vec(op, 1..100)
}

/// What happens is decided by what was drawn and by nothing else, so that it happens again.
fn id<T: From<uuid::Uuid>>(number: u128) -> T {
    uuid::Uuid::from_u128(number).into()
}

fn channel(number: u8) -> Channel {
    let (here, there) = (OutletId(uuid::Uuid::from_u128(1)), OutletId(uuid::Uuid::from_u128(2)));
    match number {
        0 => Topic::Sales.everywhere(),
        1 => Topic::Sales.at(here),
        2 => Topic::Sales.at(there),
        3 => Topic::Sales.at(here).by(tillwire_channels::RegisterId(id(3))),
        4 => Topic::Payments.everywhere(),
        5 => Topic::Payments.at(here),
        6 => Topic::Payments.at(there),
        _ => Topic::Outlets.everywhere(),
    }
}

fn someone() -> Staff {
    Staff {
        merchant: MerchantId(id(9)),
        id: StaffId(id(8)),
        token: id(7),
        role: Role::Owner,
        outlets: Vec::new(),
        register: None,
        issued_at: Moment::UNIX_EPOCH,
        expires_at: Moment::UNIX_EPOCH,
        trace: None,
    }
}

type Answer = Result<Vec<Arc<Entry>>, SnapshotRequired>;

/// What the database has.
struct Journal {
    head: Head,
    /// The entries that it holds now, from the oldest.
    now: Vec<Arc<Entry>>,
    /// All that ever were, in whatever history.
    tree: HashMap<(u64, [u8; 4]), Arc<Entry>>,
    /// The same, in the order in which they came.
    ever: Vec<Arc<Entry>>,
    /// What its head was.
    heads: Vec<Head>,
}

impl Journal {
    fn new() -> Self {
        let head = Head { seq: 0, tag: Tag::GENESIS };
        Self { head, now: Vec::new(), tree: HashMap::new(), ever: Vec::new(), heads: vec![head] }
    }

    fn commit(&mut self, text: String) -> Arc<Entry> {
        let (seq, prev, merchant) = (self.head.seq + 1, self.head.tag, someone().merchant);
        let tag = chain::tag(prev, merchant, seq, &text);
        let entry = Arc::new(Entry::new(merchant, seq, prev, tag, Moment::UNIX_EPOCH, text.into()));
        self.set_head(Head { seq, tag });
        self.now.push(entry.clone());
        self.tree.insert((seq, tag.short()), entry.clone());
        self.ever.push(entry.clone());
        entry
    }

    fn set_head(&mut self, head: Head) {
        self.head = head;
        self.heads.push(head);
    }

    fn fail_over(&mut self, lost: usize) {
        for _ in 0..lost {
            let Some(last) = self.now.pop() else { return };
            self.set_head(Head { seq: last.seq - 1, tag: last.prev });
        }
    }

    /// As [`crate::journal::read::after`].
    fn read(&self, after: Position, entries_max: usize) -> Answer {
        let oldest = self.now.first().map(|oldest| Position::of_entry(oldest.seq - 1, oldest.prev));
        let unserved = |reason| SnapshotRequired { reason, oldest };
        if after.seq > self.head.seq || (after.seq == self.head.seq && after.tag != self.head.tag.short()) {
            return Err(unserved(SnapshotReason::Diverged));
        }
        if after.seq == self.head.seq && after.event.is_none() {
            return Ok(Vec::new());
        }
        let from = if after.event.is_some() { after.seq } else { after.seq + 1 };
        let first = self.now.iter().position(|entry| entry.seq >= from).filter(|at| self.now[*at].seq == from);
        let Some(first) = first else { return Err(unserved(SnapshotReason::Expired)) };
        let own = if after.event.is_some() { self.now[first].tag } else { self.now[first].prev };
        if own.short() != after.tag {
            return Err(unserved(SnapshotReason::Diverged));
        }
        Ok(self.now[first..].iter().take(entries_max).cloned().collect())
    }

    /// The events on the way from one position to another, that of the end included; `None` if there is no way.
    fn way(&self, from: Position, to: Position) -> Option<Vec<(Arc<Entry>, u32)>> {
        let mut entries = Vec::new();
        let mut at = (to.seq, to.tag);
        while at.0 > from.seq {
            let entry = self.tree.get(&at)?;
            entries.push(entry.clone());
            at = (entry.seq - 1, entry.prev.short());
        }
        if at != (from.seq, from.tag) {
            return None;
        }
        if from.event.is_some() {
            entries.push(self.tree.get(&at)?.clone());
        }
        let events = entries.into_iter().rev().flat_map(|entry| {
            let count = entry.events().map_or(0, <[_]>::len) as u32;
            (1..=count).map(move |event| (entry.clone(), event))
        });
        let is_between = |(entry, event): &(Arc<Entry>, u32)| {
            from.is_before(entry.seq, *event) && !(to.seq == entry.seq && to.event.is_some_and(|last| *event > last))
        };
        let is_back = from.seq == to.seq && to.event.unwrap_or(u32::MAX) < from.event.unwrap_or(u32::MAX);
        (!is_back).then(|| events.filter(is_between).collect())
    }
}

/// Whether an event is heard on what was joined: on everything, or but for what was before each was joined, in the same history.
fn hears_it(joined: &[Joined], entry: &Entry, event: u32, is_before: impl Fn(&Entry, Position) -> bool) -> bool {
    let Some(event) = entry.events().ok().and_then(|events| events.get(event as usize - 1)) else { return false };
    let is_in_time =
        |joined: &&Joined| joined.since < entry.seq || !joined.place.is_some_and(|place| is_before(entry, place));
    let joined = joined.iter().filter(is_in_time);
    joined.map(|joined| joined.channel.to_string()).any(|own| event.channels.iter().any(|on| hears(&own, on)))
}

/// What a client heard, and what it should hear.
#[derive(Default)]
struct Client {
    connection: Option<Connection>,
    /// The last position that it was told, its offset. None when it was told that it needs a snapshot, and nothing since.
    at: Option<Position>,
    /// What it hears from which position on; a story of its own between two times that it was told that it needs a snapshot.
    stories: VecDeque<Vec<(Position, Vec<Joined>)>>,
    /// What is stored of what it has joined.
    roll: Vec<Joined>,
    /// What its connection has begun to change.
    plan: Option<Plan>,
    /// Whether the feed has begun anew while it was there.
    is_in_doubt: bool,
    /// What is left of the entry whose events it is being sent.
    rest: VecDeque<(Arc<Entry>, u32)>,
    /// The next part of a snapshot that it is being sent.
    part: Option<(u64, u64)>,
    /// The channels whose state it has asked for and not been given since: how many had been given to anyone by then.
    owed: HashMap<Channel, u64>,
}

#[derive(Clone, Debug)]
struct Change {
    join: Vec<u8>,
    leave: Vec<u8>,
    snapshot: bool,
}

struct Connection {
    socket: SocketRef,
    far: Loose,
    task: Option<Task>,
    /// What tasks had given when they were done, and whether the client has said since that it received everything.
    given: Vec<(Vec<Given>, bool)>,
    is_greeted: bool,
}

/// What brings a screen on, see [`crate::gateway::screen`].
#[derive(Default)]
struct Task {
    /// What waits for room in the queue.
    sending: VecDeque<Vec<Encoded>>,
    doing: Doing,
    due: Option<(Channel, Position)>,
    recalled: Option<Position>,
    has_skipped: bool,
}

#[derive(Default)]
enum Doing {
    #[default]
    Next,
    /// Serves what was prepared, piece by piece.
    Serving {
        ground: Ground,
        pieces: VecDeque<Piece>,
    },
    /// Has asked the journal.
    Asked {
        cursor: Position,
        answer: Option<Answer>,
    },
    Skipping(SnapshotRequired),
    Denying(Channel),
}

impl Doing {
    fn serving(serving: Serving) -> Self {
        let (ground, pieces) = serving.into_pieces();
        Self::Serving { ground, pieces: pieces.into() }
    }
}

struct World {
    feed: Feed,
    journal: Journal,
    bus: Vec<Arc<Entry>>,
    /// What the task that heals has asked for, and what it will be answered if that is of the past.
    healing: Option<(Head, Option<Answer>)>,
    clients: [Client; CLIENTS],
    /// Makes every event another.
    events: u64,
    /// Makes every state that is given another.
    states: u64,
}

impl World {
    fn new() -> Self {
        Self {
            feed: Feed::new(someone().merchant),
            journal: Journal::new(),
            bus: Vec::new(),
            healing: None,
            clients: Default::default(),
            events: 0,
            states: 0,
        }
    }

    fn act(&mut self, op: &Op) {
        match op {
            Op::Commit { channels, bytes } => self.commit(channels, usize::from(*bytes)),
            Op::Burst { entries } => (0..*entries).for_each(|at| self.commit(&[(at % 8) as u8], 0)),
            Op::CommitUnreadable => {
                self.events += 1;
                let entry = self.journal.commit(format!("{{\"no\":{}}}", self.events));
                self.bus.push(entry);
            }
            Op::Bring { which, again } if !self.bus.is_empty() => {
                let at = usize::from(*which) % self.bus.len();
                let entry = if *again { self.bus[at].clone() } else { self.bus.remove(at) };
                self.offer([entry]);
            }
            Op::BringAll => {
                let all = std::mem::take(&mut self.bus);
                self.offer(all);
            }
            Op::Lose { which } if !self.bus.is_empty() => {
                self.bus.remove(usize::from(*which) % self.bus.len());
            }
            Op::BringForged { ahead, prev } => {
                let (seq, prev, text) = (self.journal.head.seq + u64::from(*ahead), Tag([*prev; 8]), "[]");
                let tag = chain::tag(prev, self.feed.merchant, seq, text);
                let entry = Entry::new(self.feed.merchant, seq, prev, tag, Moment::UNIX_EPOCH, text.into());
                if seq > 0 {
                    self.offer([Arc::new(entry)]);
                }
            }
            Op::Tell { ahead } => self.feed.expect(self.journal.head.seq + u64::from(*ahead)),
            Op::Compare { ago } => {
                let heads = &self.journal.heads;
                self.feed.compare(heads[heads.len() - 1 - usize::from(*ago) % heads.len()]);
            }
            Op::Heal { stale } => self.heal(*stale),
            Op::FailOver { lost } => self.journal.fail_over(usize::from(*lost)),
            Op::Expire { entries } => {
                let kept = self.journal.now.len().saturating_sub(usize::from(*entries));
                self.journal.now = self.journal.now.split_off(self.journal.now.len() - kept);
            }
            Op::Come { client, place, channels, wants_state } => self.come(*client, place, channels, *wants_state),
            Op::ComeBack { client } => self.come_back(*client),
            Op::Cut { client, read } => self.cut(*client, usize::from(*read)),
            Op::Read { client } => self.read(*client, usize::MAX),
            Op::Plan { client, change } => self.plan(*client, change),
            Op::Rejoin { client } => self.rejoin(*client),
            Op::Renew { client } => {
                if let Some(connection) = &self.clients[usize::from(*client)].connection {
                    self.feed.renew(&connection.socket, someone()).expect("the same person");
                }
            }
            Op::Ping { client } => {
                if let Some(connection) = &self.clients[usize::from(*client)].connection {
                    self.feed.tell_position(&connection.socket);
                }
            }
            Op::Run { client, steps, stale, slice } => {
                for _ in 0..*steps {
                    self.run(*client, *stale, usize::from(*slice).max(1));
                }
            }
            Op::WriteOff { client } => self.write_off(*client),
            Op::Bring { .. } | Op::Lose { .. } => {}
        }
        self.check();
    }

    fn commit(&mut self, channels: &[u8], bytes: usize) {
        let mut event = |number: &u8| {
            self.events += 1;
            json!({
                "type": "sale.completed", "channels": [channel(*number)], "view": "display",
                "occurred_at": "2026-11-24T00:00:00Z",
                "data": { "number": self.events, "padding": "x".repeat(bytes) },
            })
        };
        let events: Vec<Value> = channels.iter().map(&mut event).collect();
        let entry = self.journal.commit(Value::from(events).to_string());
        self.bus.push(entry);
    }

    /// As the feeds do with what a bus brings.
    fn offer(&mut self, entries: impl IntoIterator<Item = Arc<Entry>>) {
        self.take(|feed| feed.offer(entries));
    }

    fn take(&mut self, entries: impl FnOnce(&Feed) -> Vec<SocketRef>) {
        let before = self.feed.head();
        let behind = entries(&self.feed);
        self.bring_on(behind);
        if let (Some(before), Some(after)) = (before, self.feed.head()) {
            assert!(self.journal.way(before, after).is_some(), "the head jumped from {before} to {after}");
        }
    }

    fn bring_on(&mut self, behind: Vec<SocketRef>) {
        for socket in behind {
            let connections = self.clients.iter_mut().filter_map(|client| client.connection.as_mut());
            let connection =
                connections.into_iter().find(|connection| connection.socket == socket).expect("one of ours");
            assert!(connection.task.is_none(), "one task brings a screen on");
            connection.task = Some(Task::default());
        }
    }

    fn begin(&mut self) {
        self.clients.iter_mut().for_each(|client| client.is_in_doubt = true);
        let behind = self.feed.begin_at(self.journal.head, HashMap::new());
        self.bring_on(behind);
    }

    /// As the feeds' task that heals: what it is answered may have been overtaken.
    fn heal(&mut self, is_stale: bool) {
        let Some((head, answer)) = self.healing.take() else {
            if let Some(head) = self.feed.wants() {
                let answer = is_stale.then(|| self.journal.read(head.position(), 500));
                self.healing = Some((head, answer));
            }
            return;
        };
        match answer.unwrap_or_else(|| self.journal.read(head.position(), 500)) {
            Ok(entries) => {
                self.feed.confirmed(head, entries.is_empty());
                self.take(|feed| feed.mend(entries));
            }
            Err(_) => self.begin(),
        }
    }

    fn come(&mut self, client: u8, place: &Place, channels: &[u8], wants_state: bool) {
        let ever = &self.journal.ever;
        let after = match place {
            Place::Head => None,
            Place::Known { .. } if ever.is_empty() => Some(Position::START),
            Place::Known { which, event } => {
                let entry = &ever[usize::from(*which) % ever.len()];
                let events = entry.events().map_or(0, <[_]>::len) as u32;
                let event = event.map(|event| u32::from(event) + 1).filter(|event| *event <= events);
                Some(event.map_or(entry.position(), |event| Position::of_event(entry.seq, event, entry.tag)))
            }
            Place::Unknown { seq } => Some(Position::of_entry(u64::from(*seq), Tag([9; 8]))),
        };
        let mut joined = Vec::new();
        for number in channels {
            let channel = channel(*number);
            if joined.iter().all(|joined: &Joined| joined.channel != channel) {
                joined.push(Joined { wants_state, ..channel.into() });
            }
        }
        let states = self.states;
        let owed = joined.iter().filter(|joined| joined.wants_state).map(|joined| (joined.channel, states)).collect();
        self.enter(client, after, joined);
        self.clients[usize::from(client)].owed = owed;
    }

    fn come_back(&mut self, client: u8) {
        let back = &mut self.clients[usize::from(client)];
        // One that was told to take a snapshot and nothing since has its old offset; that it is refused again is another story.
        let (Some(at), false) = (back.at, back.roll.is_empty()) else { return };
        let is_served = self.feed.holds(at) || self.journal.read(at, 1).is_ok();
        let mut joined = back.roll.clone();
        if !is_served {
            // Not recovered: it joins what it asks for, anew.
            joined.iter_mut().for_each(|joined| *joined = joined.channel.into());
            back.owed.clear();
        }
        let wants = |channel: Channel| joined.iter().any(|joined| joined.channel == channel && joined.wants_state);
        assert!(back.owed.keys().all(|channel| wants(*channel)), "what was not given in full is owed: {:?}", back.owed);
        for joined in joined.iter_mut().filter(|joined| joined.since > at.seq) {
            let place = joined.place.expect("it was joined somewhere");
            if !self.feed.holds(place) && self.journal.read(place, 1).is_err() {
                joined.doubt();
            }
        }
        self.enter(client, Some(at), joined);
    }

    fn enter(&mut self, number: u8, after: Option<Position>, joined: Vec<Joined>) {
        self.cut(number, 0);
        if self.feed.head().is_none() {
            self.begin();
        }
        let config = Config { queue_packets_max: QUEUE_PACKETS_MAX, ..Config::default() };
        let (socket, far) = Loose::new(config);
        let admission = Admission {
            staff: someone(),
            joined: joined.clone(),
            denied: Vec::new(),
            after,
            epoch: 0,
            began_at: None,
            age: Duration::ZERO,
        };
        let is_behind = self.feed.enter(&socket, &admission).expect("nobody is revoked");
        let client = &mut self.clients[usize::from(number)];
        let task = is_behind.then(Task::default);
        client.connection = Some(Connection { socket, far, task, given: Vec::new(), is_greeted: false });
        client.stories = [vec![(Position::START, joined.clone())]].into();
        client.roll = joined;
        client.is_in_doubt = false;
        client.at = Some(after.unwrap_or_else(|| self.feed.head().expect("it has begun")));
    }

    /// The connection breaks. What was under way arrives in part.
    fn cut(&mut self, client: u8, read: usize) {
        self.read(client, read);
        let client = &mut self.clients[usize::from(client)];
        if let Some(connection) = client.connection.take() {
            self.feed.leave(&connection.socket);
        }
        (client.plan, client.part) = (None, None);
        client.rest.clear();
    }

    /// As a session does: the roll is stored, and only then the change is made.
    fn plan(&mut self, client: u8, change: &Change) {
        let client = &mut self.clients[usize::from(client)];
        let (Some(connection), None) = (&client.connection, &client.plan) else { return };
        let names = |numbers: &[u8]| -> Vec<String> { numbers.iter().map(|at| channel(*at).to_string()).collect() };
        let plan = self.feed.plan(&connection.socket, |staff, joined, place| {
            if change.leave.is_empty() {
                return join::admit(staff, joined, &names(&change.join), place, change.snapshot);
            }
            join::withdraw(joined, &names(&change.leave));
            Vec::new()
        });
        let plan = plan.expect("it is in the audience");
        client.roll = plan.joined.clone();
        client.owed.retain(|channel, _| !plan.change.left.contains(channel));
        if change.snapshot && change.leave.is_empty() {
            let asked = change.join.iter().map(|at| channel(*at));
            client.owed.extend(asked.map(|channel| (channel, self.states)));
        }
        client.plan = Some(plan);
    }

    fn rejoin(&mut self, number: u8) {
        let client = &mut self.clients[usize::from(number)];
        let (Some(connection), Some(plan)) = (&mut client.connection, client.plan.take()) else { return };
        let joined = plan.joined.clone();
        let asks = !plan.change.wanted.is_empty() || plan.change.joined.iter().any(|joined| joined.wants_state);
        let (answer, falls_behind) = self.feed.rejoin(&connection.socket, plan).expect("it is in the audience");
        let place = answer.position.expect("a position");
        let story = client.stories.back_mut().expect("a story");
        let before: Vec<Joined> = story.last().map(|(_, joined)| joined.clone()).expect("a beginning");
        // What is new is heard from here on, and the rest as it was.
        let heard = joined.into_iter().map(|new| {
            let known = before.iter().find(|before| before.channel == new.channel);
            known.copied().unwrap_or(new.channel.into())
        });
        let heard = heard.collect();
        story.push((place, heard));
        assert!(asks || !falls_behind, "only who asks for a state waits for one");
        if falls_behind {
            assert!(connection.task.is_none(), "one task brings a screen on");
            connection.task = Some(Task::default());
        }
    }

    /// As a screen's task does at its end. Nothing is stored while a change is under way.
    fn write_off(&mut self, client: u8) {
        let client = &mut self.clients[usize::from(client)];
        let (Some(connection), None) = (&mut client.connection, &client.plan) else { return };
        let Some(at) = connection.given.iter().position(|(_, has_arrived)| *has_arrived) else { return };
        let (given, _) = connection.given.remove(at);
        client.roll = self.feed.write_off(&connection.socket, &given).expect("it is in the audience").joined;
    }

    /// One step of a screen's task.
    fn run(&mut self, number: u8, is_stale: bool, slice: usize) {
        let client = &mut self.clients[usize::from(number)];
        let Some(connection) = &mut client.connection else { return };
        let (feed, journal, socket, Some(task)) = (&self.feed, &self.journal, &connection.socket, &mut connection.task)
        else {
            return;
        };
        if let Some(batch) = task.sending.front() {
            match socket.try_send(batch) {
                Ok(()) => _ = task.sending.pop_front(),
                Err(SendError::Full) => {}
                Err(error) => panic!("it cannot be sent what it missed: {error}"),
            }
            return;
        }
        match std::mem::take(&mut task.doing) {
            Doing::Next => match feed.step(socket, 0, task.due) {
                Step::Done => {
                    let given = feed.given(socket);
                    if !given.is_empty() || task.has_skipped {
                        connection.given.push((given, false));
                    }
                    connection.task = None;
                }
                Step::Full => {}
                Step::Serve(serving) => task.doing = Doing::serving(serving),
                Step::Read(cursor) if task.recalled != Some(cursor) && feed.lacks(cursor) => {
                    task.recalled = Some(cursor);
                    if let Ok(read) = journal.read(cursor, ring_entries()) {
                        let packed = read.into_iter().map_while(|entry| Packed::new(entry).ok().map(Arc::new));
                        feed.recall(packed.collect());
                    }
                }
                Step::Read(cursor) => task.ask(journal, cursor, is_stale, slice),
                Step::LookFor(place) => match journal.read(place, 1) {
                    Ok(_) if feed.found_place(socket, place) => {}
                    Ok(_) => feed.expect(place.seq),
                    Err(_) => feed.lost_place(socket),
                },
                Step::Want(channel, cursor) => {
                    // As it is, or as it was kept a moment ago.
                    let heads = &journal.heads;
                    let kept = heads[heads.len() - 1 - (slice / 8).min(heads.len() - 1)].position();
                    let state = if is_stale && kept.seq >= cursor.seq { kept } else { journal.head.position() };
                    if slice.is_multiple_of(7) {
                        task.doing = Doing::Denying(channel);
                    } else if is_ahead(state, cursor) {
                        task.due = Some((channel, state));
                    } else if feed.head() == Some(cursor) {
                        feed.suspect();
                    } else {
                        task.ask(journal, cursor, is_stale, slice);
                    }
                }
                Step::Arrived => {
                    let (channel, at) = task.due.take().expect("it was brought there");
                    if feed.give(socket, channel, at) {
                        self.states += 1;
                        let parts = 1 + slice as u32 % 3;
                        // Its number, for all that it may hold.
                        let state = vec![to_raw_value(&self.states).expect("a number")];
                        let part = |number| Snapshot { channel, of: (number, parts), state: state.clone() };
                        task.sending.extend((1..=parts).map(|number| vec![tell::snapshot(&part(number), at)]));
                    }
                }
                Step::Stale => task.due = None,
            },
            Doing::Serving { mut ground, mut pieces } => {
                let Some(piece) = pieces.pop_front() else { return };
                if feed.advance(socket, &mut ground, &piece) {
                    task.sending.extend(piece.batches);
                    task.doing = Doing::Serving { ground, pieces };
                }
            }
            Doing::Asked { cursor, answer } => match answer.unwrap_or_else(|| journal.read(cursor, slice)) {
                Ok(entries) if entries.is_empty() => {
                    task.due = None;
                    feed.expect(cursor.seq);
                }
                Ok(entries) => {
                    let bound = task.due.map_or(u64::MAX, |(_, at)| at.seq);
                    let entries = entries.into_iter().take_while(|entry| entry.seq <= bound);
                    let entries: Vec<_> = entries.map_while(|entry| Packed::new(entry).ok().map(Arc::new)).collect();
                    if entries.is_empty() {
                        feed.suspect();
                        let why = SnapshotRequired { reason: SnapshotReason::Diverged, oldest: None };
                        task.doing = Doing::Skipping(why);
                    } else if let Some(serving) = feed.serving(socket, cursor, entries) {
                        task.doing = Doing::serving(serving);
                    }
                }
                Err(why) => {
                    if why.reason == SnapshotReason::Diverged {
                        feed.suspect();
                    }
                    task.doing = Doing::Skipping(why);
                }
            },
            Doing::Skipping(why) => {
                if !feed.skip(socket, &why) {
                    return task.doing = Doing::Skipping(why);
                }
                task.has_skipped = true;
                let (_, told) = feed.listens(socket, Topic::Payments).expect("in the audience");
                let head = feed.head().expect("it has begun").seq;
                assert!(told.iter().all(|(_, since)| *since >= head), "it was told nothing of what it is to fetch");
                // A new story, in which it hears everything.
                let joined = client.stories.back().and_then(|story| story.last()).map(|(_, joined)| joined.clone());
                let mut joined = joined.expect("a story");
                joined.iter_mut().for_each(Joined::doubt);
                client.stories.push_back(vec![(Position::START, joined)]);
            }
            Doing::Denying(channel) => {
                if !feed.deny_state(socket, channel) {
                    task.doing = Doing::Denying(channel);
                }
            }
        }
    }

    /// A client reads what was sent to it.
    fn read(&mut self, number: u8, packets: usize) {
        let client = &mut self.clients[usize::from(number)];
        let Some(connection) = &mut client.connection else { return };
        let sent = connection.far.take();
        if sent.len() <= packets {
            connection.given.iter_mut().for_each(|(_, has_arrived)| *has_arrived = true);
        }
        for packet in sent.into_iter().take(packets) {
            client.hear(&self.journal, packet.text());
        }
    }

    /// What holds at any time.
    fn check(&self) {
        let state = self.feed.lock();
        assert!(state.held.len() <= HELD_ENTRIES_MAX);
        let Some(head) = state.head else { return };
        assert!(state.held.keys().all(|seq| *seq > head.seq), "what is held is still to come");
        for client in &self.clients {
            let Some(connection) = &client.connection else { continue };
            let screen = state.audience.get(&connection.socket).expect("in the audience");
            match screen.cursor {
                Cursor::Live => {
                    assert!(connection.task.is_none(), "a live screen needs no task");
                    assert_eq!(screen.wants(), None, "a live screen waits for nothing");
                    let mut joined = screen.joined().iter();
                    assert!(joined.all(|joined| joined.is.since <= head.seq), "a live screen hears what comes next");
                }
                Cursor::Behind(_) => assert!(connection.task.is_some(), "a screen that is behind is brought on"),
            }
        }
    }

    /// Nothing happens any more, and the journal can be read: everybody must come to its head.
    fn settle(&mut self) {
        self.bus.clear();
        for number in 0..CLIENTS as u8 {
            self.rejoin(number);
        }
        for _ in 0..8 {
            self.feed.compare(self.journal.head);
            for _ in 0..STEPS_MAX {
                if self.healing.is_none() && self.feed.wants().is_none() {
                    break;
                }
                self.heal(false);
            }
            for number in 0..CLIENTS as u8 {
                for _ in 0..STEPS_MAX {
                    self.run(number, false, 256);
                    self.read(number, usize::MAX);
                    let connection = &self.clients[usize::from(number)].connection;
                    if connection.as_ref().is_none_or(|connection| connection.task.is_none()) {
                        break;
                    }
                }
            }
            self.check();
        }
        for number in 0..CLIENTS as u8 {
            while self.clients[usize::from(number)].connection.as_ref().is_some_and(|own| !own.given.is_empty()) {
                self.write_off(number);
            }
        }
        let head = self.journal.head.position();
        let is_open = self.feed.head().is_some();
        assert!(!is_open || self.feed.head() == Some(head), "the feed has come to the journal's head");
        for (number, client) in self.clients.iter().enumerate().filter(|(_, client)| client.connection.is_some()) {
            assert!(client.connection.as_ref().is_some_and(|own| own.task.is_none()), "screen {number} is stuck");
            assert!(client.rest.is_empty() && client.part.is_none(), "screen {number} got a half");
            assert!(client.owed.is_empty(), "screen {number} waits for {:?}", client.owed);
            assert!(client.roll.iter().all(|joined| !joined.wants_state), "screen {number} would get them again");
            let at = client.at.unwrap_or_else(|| panic!("screen {number} was left without a place"));
            let way = self.journal.way(at, head);
            let way =
                way.unwrap_or_else(|| panic!("screen {number} is at {at}, which is not in the history of {head}"));
            assert_eq!(client.missed(&self.journal, &way), [""; 0], "screen {number} is at {at}");
        }
        // And what comes next arrives without anybody's help.
        self.commit(&[0, 1, 2, 3, 4, 5, 6, 7], 0);
        self.act(&Op::BringAll);
        for number in 0..CLIENTS as u8 {
            self.read(number, usize::MAX);
            let client = &self.clients[usize::from(number)];
            let Some(connection) = &client.connection else { continue };
            assert!(connection.task.is_none() && client.rest.is_empty());
            let last = self.journal.now.last().expect("an entry");
            let hears = (1..=8).any(|event| client.hears(&self.journal, last, event));
            assert_eq!(hears, client.at.is_some_and(|at| at.seq == self.journal.head.seq), "screen {number}");
        }
    }
}

impl Task {
    fn ask(&mut self, journal: &Journal, cursor: Position, is_stale: bool, slice: usize) {
        let answer = is_stale.then(|| journal.read(cursor, slice));
        self.doing = Doing::Asked { cursor, answer };
    }
}

impl Client {
    fn hears(&self, journal: &Journal, entry: &Entry, event: u32) -> bool {
        let is_before = |entry: &Entry, place| journal.way(entry.position(), place).is_some();
        self.joined_at(entry, event).is_some_and(|joined| hears_it(joined, entry, event, is_before))
    }

    /// When the history changed, it may be told again what it did not want to hear of before it joined it.
    fn may_hear(&self, journal: &Journal, entry: &Entry, event: u32) -> bool {
        let joined = self.joined_at(entry, event).filter(|_| self.is_in_doubt);
        self.hears(journal, entry, event) || joined.is_some_and(|joined| hears_it(joined, entry, event, |_, _| false))
    }

    fn joined_at(&self, entry: &Entry, event: u32) -> Option<&Vec<Joined>> {
        let story = self.stories.front().expect("a story");
        story.iter().rev().find(|(from, _)| from.is_before(entry.seq, event)).map(|(_, joined)| joined)
    }

    fn hear(&mut self, journal: &Journal, packet: &str) {
        let packet: Vec<Value> = serde_json::from_str(packet.trim_start_matches("42")).expect("an event");
        let name = packet[0].as_str().expect("a name");
        let position = || -> Position {
            packet.last().and_then(Value::as_str).and_then(|text| text.parse().ok()).expect("a position")
        };
        let connection = self.connection.as_mut().expect("it is connected");
        assert_eq!(name == "ready", !connection.is_greeted, "it is greeted first, and once");
        connection.is_greeted = true;
        if name != "sale.completed" {
            assert!(self.rest.is_empty(), "{name} comes between the events of an entry");
        }
        if name != "snapshot" {
            assert_eq!(self.part, None, "{name} comes between the parts of a snapshot");
        }
        match name {
            "ready" => assert_eq!(Some(position()), self.at, "it goes on where it was"),
            "sale.completed" => {
                let to = position();
                let (entry, event) = (journal.tree[&(to.seq, to.tag)].clone(), to.event.expect("an event"));
                let way = self.come_to(journal, to);
                let (last, before) = way.split_last().unwrap_or_else(|| panic!("{to} again"));
                assert_eq!((last.0.tag, last.1), (entry.tag, event));
                assert_eq!(self.missed(journal, before), [""; 0], "before {to}");
                assert!(self.may_hear(journal, &entry, event), "{to} is not for it");
                if self.rest.front().is_some_and(|(next, _)| next.tag != entry.tag) {
                    panic!("{to} comes between the events of an entry");
                }
                let count = entry.events().map_or(0, <[_]>::len) as u32;
                let rest = (event + 1..=count).filter(|at| self.hears(journal, &entry, *at));
                self.rest = rest.map(|at| (entry.clone(), at)).collect();
                let stored = &entry.events().expect("it was sent")[event as usize - 1];
                assert_eq!(packet[1]["data"].to_string(), stored.data.get(), "what was sent is what was stored");
                assert_eq!(packet[1]["of"], json!([event, entry.events().expect("it was sent").len()]));
            }
            "caught_up" | "position" | "snapshot" => {
                let to = position();
                let way = self.come_to(journal, to);
                assert_eq!(self.missed(journal, &way), [""; 0], "{name} at {to}");
                if name == "snapshot" {
                    let of = |at: usize| packet[1]["of"][at].as_u64().expect("a number");
                    assert_eq!(self.part.unwrap_or((1, of(1))), (of(0), of(1)), "part after part");
                    self.part = (of(0) < of(1)).then(|| (of(0) + 1, of(1)));
                    let (channel, state) = (named(&packet[1]), packet[1]["state"][0].as_u64().expect("a number"));
                    if self.part.is_none() && self.owed.get(&channel).is_some_and(|before| state > *before) {
                        self.owed.remove(&channel);
                    }
                }
            }
            "snapshot_required" => {
                self.at = None;
                self.stories.pop_front();
                assert!(!self.stories.is_empty());
            }
            "snapshot_denied" => _ = self.owed.remove(&named(&packet[1])),
            name => panic!("{name} is nothing that could be sent here"),
        }
    }

    /// Moves to a position that it was told. The events on the way.
    fn come_to(&mut self, journal: &Journal, to: Position) -> Vec<(Arc<Entry>, u32)> {
        let Some(at) = self.at.replace(to) else {
            // Wherever it was taken up again: nothing is before that but its own event.
            return to.event.map(|event| (journal.tree[&(to.seq, to.tag)].clone(), event)).into_iter().collect();
        };
        journal.way(at, to).unwrap_or_else(|| panic!("no way leads from {at} to {to}"))
    }

    fn missed(&self, journal: &Journal, way: &[(Arc<Entry>, u32)]) -> Vec<String> {
        let missed = way.iter().filter(|(entry, event)| self.hears(journal, entry, *event));
        missed.map(|(entry, event)| Position::of_event(entry.seq, *event, entry.tag).to_string()).collect()
    }
}

/// The channel that a packet is of.
fn named(body: &Value) -> Channel {
    body["channel"].as_str().and_then(|name| name.parse().ok()).expect("a channel")
}

fn ring_entries() -> usize {
    crate::gateway::ring::ENTRIES_MAX
}

fn happens(ops: &[Op]) {
    let mut world = World::new();
    ops.iter().for_each(|op| world.act(op));
    world.settle();
}

#[test]
fn what_was_joined_at_a_place_of_another_history_is_heard_when_the_screen_goes_on() {
    let change = Change { join: vec![4], leave: vec![], snapshot: false };
    happens(&[
        Op::Come { client: 0, place: Place::Unknown { seq: 5 }, channels: vec![0], wants_state: false },
        Op::Plan { client: 0, change },
        Op::Rejoin { client: 0 },
    ]);
}

#[test]
fn a_change_of_channels_that_a_change_of_history_overtakes_is_of_the_new_one() {
    let change = Change { join: vec![4], leave: vec![], snapshot: false };
    happens(&[
        Op::Come { client: 0, place: Place::Unknown { seq: 5 }, channels: vec![0], wants_state: false },
        Op::Plan { client: 0, change },
        // Up to the word that it needs a snapshot.
        Op::Run { client: 0, steps: 3, stale: false, slice: 9 },
        Op::Rejoin { client: 0 },
    ]);
}

#[test]
fn what_was_joined_at_an_entry_that_was_lost_is_heard_when_the_client_comes_back() {
    let change = Change { join: vec![1], leave: vec![], snapshot: false };
    happens(&[
        Op::Come { client: 1, place: Place::Head, channels: vec![4], wants_state: false },
        Op::Commit { channels: vec![0], bytes: 0 },
        Op::FailOver { lost: 1 },
        // A bus had it already.
        Op::BringAll,
        Op::Plan { client: 1, change },
        Op::Compare { ago: 0 },
        Op::Heal { stale: false },
        Op::Heal { stale: false },
        Op::ComeBack { client: 1 },
        Op::Commit { channels: vec![1], bytes: 0 },
    ]);
}

#[test]
fn what_was_joined_where_the_feed_has_not_come_to_is_heard_when_that_place_is_lost() {
    let change = Change { join: vec![0], leave: vec![], snapshot: false };
    happens(&[
        Op::Come { client: 0, place: Place::Head, channels: vec![0], wants_state: false },
        Op::Commit { channels: vec![0], bytes: 0 },
        Op::CommitUnreadable,
        Op::Come { client: 1, place: Place::Known { which: 0, event: None }, channels: vec![4], wants_state: false },
        Op::Plan { client: 1, change },
        // Up to the word that it needs a snapshot, and goes on from the feed's head: from before where it joined.
        Op::Run { client: 1, steps: 9, stale: false, slice: 4 },
        Op::Read { client: 1 },
        Op::ComeBack { client: 1 },
        Op::Run { client: 1, steps: 9, stale: false, slice: 4 },
        Op::Lose { which: 0 },
        Op::Lose { which: 0 },
        Op::FailOver { lost: 2 },
        Op::Commit { channels: vec![0], bytes: 0 },
        Op::BringAll,
    ]);
}

/// A client that has joined a channel of each, one of them with its state.
fn asks_for_a_state() -> Vec<Op> {
    vec![
        Op::Come { client: 0, place: Place::Head, channels: vec![0, 4], wants_state: false },
        Op::Plan { client: 0, change: Change { join: vec![0], leave: vec![], snapshot: true } },
        Op::Rejoin { client: 0 },
    ]
}

#[test]
fn a_screen_that_leaves_a_channel_while_a_state_is_given_stays_live() {
    let mut ops = asks_for_a_state();
    ops.extend([
        Op::Plan { client: 0, change: Change { join: vec![], leave: vec![4], snapshot: false } },
        // Up to the word that it is live.
        Op::Run { client: 0, steps: 8, stale: false, slice: 9 },
        Op::Rejoin { client: 0 },
        Op::Commit { channels: vec![0], bytes: 0 },
    ]);
    happens(&ops);
}

#[test]
fn a_state_that_was_cut_half_way_is_owed_whatever_was_joined_meanwhile() {
    let mut ops = asks_for_a_state();
    ops.extend([
        // The first of three parts.
        Op::Run { client: 0, steps: 3, stale: false, slice: 11 },
        Op::Plan { client: 0, change: Change { join: vec![7], leave: vec![], snapshot: false } },
        Op::Rejoin { client: 0 },
        Op::Cut { client: 0, read: 9 },
        Op::ComeBack { client: 0 },
    ]);
    happens(&ops);
}

#[test]
fn a_state_that_is_asked_for_anew_is_owed_when_the_one_before_has_arrived() {
    let mut ops = asks_for_a_state();
    ops.extend([
        Op::Run { client: 0, steps: 8, stale: false, slice: 9 },
        Op::Read { client: 0 },
        Op::Plan { client: 0, change: Change { join: vec![0], leave: vec![], snapshot: true } },
        Op::Rejoin { client: 0 },
        // Given, and not sent.
        Op::Run { client: 0, steps: 2, stale: false, slice: 11 },
        Op::WriteOff { client: 0 },
        Op::Cut { client: 0, read: 0 },
        Op::ComeBack { client: 0 },
    ]);
    happens(&ops);
}

/// Few enough for every build; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { 256 };
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_screen_is_sent_its_events_in_order_once_whatever_happens(ops in ops()) {
        happens(&ops);
    }
}
