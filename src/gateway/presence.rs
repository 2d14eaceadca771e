//! Presence: who is at which outlet by the screens of this gateway, and telling whoever listens who is there by all.
//!
//! Everyone is present whose token is bound to an outlet, or to a register of it, for as long as a screen of theirs is here.
//! Whoever is bound to none is written [apart](EVERYWHERE), and told to no screen: only push asks for them.
//! Each gateway [writes](writing) of its own, and [tells](telling) what all that live have written. Nothing of it is
//! journaled, and no screen waits for it.

mod telling;
mod writing;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tillwire_channels::{MerchantId, Moment, OutletId, RegisterId, Role, StaffId};
use tillwire_socketio::SocketRef;
use tokio::sync::Notify;
use uuid::Uuid;

use super::source::Source;
use crate::error::Result;
use crate::identity::Staff;
use crate::screens::presence::{EVERYWHERE, Here, PEOPLE_MAX, Person};

pub struct Presence {
    source: Source,
    /// This gateway, for as long as it runs.
    node: Uuid,
    state: Mutex<State>,
    /// Rings when somebody waits to be told.
    asked: Notify,
    /// Screens that have joined a channel of it just now, whether or not they had before.
    joined: Mutex<Vec<SocketRef>>,
}

#[derive(Default)]
struct State {
    gatherings: HashMap<MerchantId, Gathering>,
    /// The number of the last visit.
    last: u64,
    /// What the database's clock said, and when that was.
    clock: Option<(Moment, Instant)>,
}

/// A merchant's people.
#[derive(Default)]
struct Gathering {
    visits: HashMap<u64, Stay>,
    /// Whether somebody came or went since it was last looked at.
    is_changed: bool,
    /// What the database has of it.
    written: HashMap<OutletId, String>,
    /// The outlets of registers whose bearers are bound to nothing else, as far as they are the merchant's.
    outlets: HashMap<RegisterId, OutletId>,
}

/// One screen's.
#[derive(Clone)]
struct Stay {
    staff: StaffId,
    role: Role,
    outlets: Box<[OutletId]>,
    register: Option<RegisterId>,
    began: Began,
}

/// When a screen came.
#[derive(Clone, Copy)]
enum Began {
    /// As the database's clock had it: once it is said, it is not said differently.
    At(Moment),
    /// So long before we let it in.
    Before(Instant, Duration),
}

/// A screen's being here. Dropping it ends it.
pub struct Visit {
    presence: Arc<Presence>,
    merchant: MerchantId,
    number: u64,
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut state = self.presence.lock();
        if let Some(gathering) = state.gatherings.get_mut(&self.merchant) {
            gathering.visits.remove(&self.number);
            gathering.is_changed = true;
        }
    }
}

impl Presence {
    pub fn new(source: Source) -> Arc<Self> {
        let (state, asked, joined) = (Mutex::default(), Notify::new(), Mutex::default());
        Arc::new(Self { source, node: Uuid::new_v4(), state, asked, joined })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A screen is here, and first came so long ago.
    pub fn enter(self: &Arc<Self>, staff: &Staff, age: Duration) -> Visit {
        self.visit(staff, Began::Before(Instant::now(), age))
    }

    /// It goes on with a fresh token, which may be bound to another outlet.
    pub fn renew(self: &Arc<Self>, visit: Option<Visit>, staff: &Staff) -> Visit {
        let began = visit.as_ref().and_then(|visit| {
            let state = self.lock();
            Some(state.gatherings.get(&visit.merchant)?.visits.get(&visit.number)?.began)
        });
        self.visit(staff, began.unwrap_or(Began::Before(Instant::now(), Duration::ZERO)))
    }

    fn visit(self: &Arc<Self>, staff: &Staff, began: Began) -> Visit {
        let outlets: Box<[OutletId]> = match (&*staff.outlets, staff.register) {
            // Walls and public links are nobody whom push would ask for.
            ([], None) if staff.role != Role::Display => [EVERYWHERE].into(),
            (bound, _) => bound.into(),
        };
        let stay = Stay { staff: staff.id, role: staff.role, outlets, register: staff.register, began };
        let mut state = self.lock();
        state.last += 1;
        let (number, merchant) = (state.last, staff.merchant);
        let gathering = state.gatherings.entry(merchant).or_default();
        gathering.visits.insert(number, stay);
        gathering.is_changed = true;
        drop(state);
        Visit { presence: self.clone(), merchant, number }
    }

    /// Somebody waits to be told.
    pub fn look(&self) {
        self.asked.notify_one();
    }

    /// A screen has joined a channel of presence: it is told, also if it had joined it before.
    pub fn tell_anew(&self, socket: SocketRef) {
        self.joined.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
        self.look();
    }
}

impl State {
    /// What the database's clock says now, as far as we know it.
    fn now(&self) -> Option<Moment> {
        self.clock.map(|(then, at)| then + at.elapsed())
    }
}

impl Gathering {
    /// The registers whose outlets are to be asked for.
    fn unknown(&self) -> Vec<RegisterId> {
        let bound_by_register = self.visits.values().filter(|stay| stay.outlets.is_empty());
        let mut unknown: Vec<RegisterId> = bound_by_register
            .filter_map(|stay| stay.register)
            .filter(|register| !self.outlets.contains_key(register))
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        unknown
    }

    /// Who is where, as it is written.
    fn texts(&mut self, now: Moment) -> Result<HashMap<OutletId, String>> {
        for stay in self.visits.values_mut() {
            if let Began::Before(came, age) = stay.began {
                stay.began = Began::At((now - came.elapsed() - age).replace_nanosecond(0)?);
            }
        }
        let mut outlets: HashMap<OutletId, BTreeMap<_, Person>> = HashMap::new();
        for stay in self.visits.values() {
            let Began::At(since) = stay.began else { continue };
            let by_register = stay.register.filter(|_| stay.outlets.is_empty());
            let by_register = by_register.and_then(|register| self.outlets.get(&register).copied());
            for outlet in stay.outlets.iter().copied().chain(by_register) {
                let Stay { staff, register, role, .. } = *stay;
                let people = outlets.entry(outlet).or_default();
                let person =
                    people.entry((register, staff)).or_insert(Person { staff, register, role, since, screens: 0 });
                person.since = person.since.min(since);
                person.screens += 1;
            }
        }
        outlets.into_iter().map(|(outlet, people)| Ok((outlet, text(people.into_values().collect())?))).collect()
    }
}

/// The longest there first.
fn text(mut people: Vec<Person>) -> Result<String> {
    people.sort_by_key(|person| person.since);
    let more = people.split_off(people.len().min(PEOPLE_MAX)).len();
    Ok(serde_json::to_string(&Here { people, more: u32::try_from(more).unwrap_or(u32::MAX) })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stay(outlets: &[OutletId], register: Option<RegisterId>, age: u64) -> Stay {
        let began = Began::Before(Instant::now(), Duration::from_secs(age));
        Stay { staff: StaffId::new(), role: Role::Cashier, outlets: outlets.into(), register, began }
    }

    fn here(text: &str) -> Here {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn two_screens_of_one_till_are_one_person_since_the_first() {
        let (outlet, register, now) = (OutletId::new(), RegisterId::new(), Moment::now_utc());
        let mut gathering = Gathering::default();
        let first = stay(&[outlet], Some(register), 3_600);
        let second = Stay { began: stay(&[], None, 60).began, ..first.clone() };
        gathering.visits.extend([(1, second), (2, first)]);
        let texts = gathering.texts(now).unwrap();
        let people = here(&texts[&outlet]).people;
        assert_eq!((people.len(), people[0].screens, people[0].register), (1, 2, Some(register)));
        assert!((now - people[0].since - Duration::from_secs(3_600)).abs() < Duration::from_secs(2));
        // What was said once is not said differently when clocks drift, and the one that stays is the later one.
        assert_eq!(gathering.texts(now + Duration::from_secs(9)).unwrap(), texts);
        gathering.visits.remove(&2);
        let people = here(&gathering.texts(now).unwrap()[&outlet]).people;
        assert!((now - people[0].since) < Duration::from_secs(62) && people[0].screens == 1);
    }

    #[test]
    fn who_is_bound_by_a_register_alone_is_at_its_outlet_once_that_is_known() {
        let (outlet, register) = (OutletId::new(), RegisterId::new());
        let mut gathering = Gathering::default();
        gathering.visits.extend([(1, stay(&[], Some(register), 0)), (2, stay(&[outlet], Some(RegisterId::new()), 0))]);
        assert_eq!(gathering.unknown(), [register]);
        assert_eq!(here(&gathering.texts(Moment::now_utc()).unwrap()[&outlet]).people.len(), 1);
        gathering.outlets.insert(register, outlet);
        assert_eq!(gathering.unknown(), []);
        assert_eq!(here(&gathering.texts(Moment::now_utc()).unwrap()[&outlet]).people.len(), 2);
    }

    #[test]
    fn ten_thousand_people_are_a_list_of_the_first_and_a_number() {
        let outlet = OutletId::new();
        let mut gathering = Gathering::default();
        gathering.visits.extend((0..10_000).map(|number| (number, stay(&[outlet], None, number))));
        let here = here(&gathering.texts(Moment::now_utc()).unwrap()[&outlet]);
        assert_eq!((here.people.len(), here.more as usize), (PEOPLE_MAX, 10_000 - PEOPLE_MAX));
        assert!(here.people.is_sorted_by_key(|person| person.since));
    }
}
