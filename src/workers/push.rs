//! Push: tells the phones and browsers of people what no screen of theirs has shown.
//!
//! An event is heard at least once, and a note is sent to each device once at least: what was sent is written down, and what
//! is sent again takes the place of what was there. A note is worth nothing late, so what is tried again is tried for as long
//! as somebody still wants to know.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use sqlx::PgConnection;
use tillwire_channels::topic::Listener;
use tillwire_channels::{Channel, Moment, OutletId, StaffId, Topic};
use tracing::{debug, info, warn};

use super::handlers::{Effect, Failure, HANDLE_MAX, Handler, Heard};
use super::subscribers::Steps;
use crate::error::{Error, Result};
use crate::journal::pool;
use crate::push::audience::{heard_on, may_hear};
use crate::push::devices::{self, Device, Forgotten};
use crate::push::note::{About, Message};
use crate::push::registration::Kind;
use crate::push::services::Services;
use crate::push::told;
use crate::push::{ATTEMPT_MAX, Outcome};
use crate::screens::presence::{self, EVERYWHERE};
use crate::screens::seen;
use crate::vault::Vault;

/// How many devices are sent something at once, for one event.
const AT_ONCE_MAX: usize = 8;
/// How long new notes of one event may begin; who has not been told by then is told when it is tried again.
const TURN_MAX: Duration = Duration::from_secs(7);
/// How long writing down what came of a note may take, with every attempt.
const WRITE_MAX: Duration = Duration::from_secs(4);
// A note that is sent and not written down is sent again.
const _: () = assert!(TURN_MAX.as_millis() + ATTEMPT_MAX.as_millis() + WRITE_MAX.as_millis() < HANDLE_MAX.as_millis());
/// How long after an event a screen that counts as live is: one that fell silent before it is known to be gone by then, for it
/// is asked every 25 seconds and has 20 to answer.
const SURE_AFTER: Duration = Duration::from_secs(50);
/// After how long it is looked again.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// For how long after an event devices that fail are tried again: handlers' pauses last longer by the last of them.
const TRIED_FOR: Duration = Duration::from_secs(6 * 3600);
/// The longest that a service's `Retry-After` is waited for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Why somebody who wants to be told is not.
const SPARED_FOR: [&str; 5] = ["late", "no_key", "quiet", "live", "seen"];

/// The handler. Cheap to clone.
#[derive(Clone)]
pub struct Push {
    steps: Steps,
    services: Arc<Services>,
    vault: Arc<Vault>,
}

/// Whom to tell, and what all of them are told.
struct Round {
    about: About,
    now: Moment,
    expires_at: Moment,
    outlet_name: Option<String>,
    devices: Vec<Device>,
    /// Somebody is spared because of a screen that may be gone.
    looks_again: bool,
}

/// Why a device is to be told later.
struct PutOff {
    why: String,
    at_least: Option<Duration>,
    /// The service that does not take our word, if that is why.
    refused_by: Option<&'static str>,
}

/// What stands in the way of being done with an event.
#[derive(Default)]
struct Delay {
    why: Option<String>,
    at_least: Option<Duration>,
    refused_by: HashSet<&'static str>,
}

impl PutOff {
    fn because(why: String) -> Self {
        Self { why, at_least: None, refused_by: None }
    }
}

impl Delay {
    fn add(&mut self, put_off: PutOff) {
        let PutOff { why, at_least, refused_by } = put_off;
        // Once for all the devices of a service: it is about us.
        if let Some(kind) = refused_by
            && self.refused_by.insert(kind)
        {
            warn!(kind, "A push service does not take this hub's word: {why}");
        }
        self.why.get_or_insert(why);
        self.at_least = self.at_least.max(at_least.map(|it| it.min(RETRY_AFTER_MAX)));
    }
}

impl Push {
    pub fn new(steps: Steps, services: Arc<Services>, vault: Arc<Vault>) -> Self {
        for (kind, outcome) in Kind::ALL.iter().flat_map(|kind| Outcome::WORDS.map(|outcome| (kind.word(), outcome))) {
            metrics::counter!("tillwire_push_notes_total", "kind" => kind, "outcome" => outcome).increment(0);
        }
        for why in SPARED_FOR {
            metrics::counter!("tillwire_push_spared_total", "why" => why).increment(0);
        }
        Self { steps, services, vault }
    }

    /// Whom to tell, in which order; none if it is too late for everybody.
    async fn round(&self, heard: &Heard, about: About) -> Result<Option<Round>> {
        let mut sql = pool::begin_of(&self.steps.pools.app, heard.merchant).await?;
        // By the clock that dated the event.
        let now = sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#).fetch_one(&mut *sql).await?;
        let expires_at = heard.recorded_at + about.age_max();
        if now >= expires_at {
            spare("late", 1);
            return Ok(None);
        }
        let mut devices = devices::wanting(&mut sql, &self.vault, heard.merchant, about, heard.event.outlet).await?;
        devices.retain(|device| may_hear(&device.listener(), &heard.event));
        if !devices.is_empty() {
            let told = told::of(&mut sql, heard.merchant, heard.position).await?;
            devices.retain(|device| !told.contains(&device.id));
        }
        keep(&mut devices, "no_key", |device| self.services.reach(device.registration.kind()));
        keep(&mut devices, "quiet", |device| !device.is_quiet(now));
        let mut looks_again = false;
        if !devices.is_empty() {
            let seen = have_seen(&mut sql, heard, &devices).await?;
            keep(&mut devices, "seen", |device| !seen.contains(&device.staff));
            let live = who_may_be_shown(&mut sql, heard).await?;
            if now < heard.recorded_at + SURE_AFTER {
                let before = devices.len();
                devices.retain(|device| !live.contains(&device.staff));
                looks_again = devices.len() < before;
            } else {
                keep(&mut devices, "live", |device| !live.contains(&device.staff));
            }
        }
        // Whoever hangs must not stand before the same others each time; and who hung before comes last.
        fastrand::shuffle(&mut devices);
        devices.sort_by_key(Device::is_failing);
        let outlet_name = match heard.event.outlet {
            Some(outlet) if !devices.is_empty() => name_of(&mut sql, heard, outlet).await?,
            _ => None,
        };
        sql.commit().await?;
        Ok(Some(Round { about, now, expires_at, outlet_name, devices, looks_again }))
    }

    /// Sends one device its note, and writes down what came of it. `Err` is why it is to be tried again.
    async fn tell(&self, heard: &Heard, round: &Round, device: &Device) -> Result<(), PutOff> {
        let view = device.listener().view();
        let name = round.outlet_name.as_deref();
        let (merchant, position) = (heard.merchant, heard.position);
        let message = Message::of(merchant, position, &heard.event, view, device.locale, name, round.expires_at);
        let outcome = self.services.send(&device.registration, &message).await;
        let kind = device.registration.kind().word();
        metrics::counter!("tillwire_push_notes_total", "kind" => kind, "outcome" => outcome.word()).increment(1);
        match tokio::time::timeout(WRITE_MAX, self.conclude(heard, round, device, outcome)).await {
            Ok(concluded) => concluded,
            Err(_) => Err(PutOff::because(format!("writing it down took longer than {WRITE_MAX:?}"))),
        }
    }

    /// Writes down what came of a note.
    async fn conclude(&self, heard: &Heard, round: &Round, device: &Device, outcome: Outcome) -> Result<(), PutOff> {
        let (merchant, position, kind) = (heard.merchant, heard.position, device.registration.kind());
        match outcome {
            Outcome::Sent => self.mark(heard, device, true).await,
            Outcome::Gone(since) => {
                let forgotten = self.forget(heard, device, since).await?;
                let kind = kind.word();
                info!(%merchant, device = %device.id, kind, ?forgotten, "A device is not known to its service any more");
                match forgotten {
                    Forgotten::Renewed => Err(PutOff::because("a device was renewed meanwhile".to_owned())),
                    Forgotten::Removed | Forgotten::Kept => self.mark(heard, device, false).await,
                }
            }
            Outcome::GivenUp(why) => {
                let kind = kind.word();
                info!(%merchant, device = %device.id, kind, "A device will not be told of {position}: {why}");
                self.fails(heard, round, device).await?;
                self.mark(heard, device, false).await
            }
            Outcome::Later(why, at_least) => {
                debug!(%merchant, device = %device.id, "A device could not be told of {position}: {why}");
                // Google and Apple have that for all at once.
                if kind == Kind::Web && self.fails(heard, round, device).await? {
                    return Ok(());
                }
                Err(PutOff { why, at_least, refused_by: None })
            }
            Outcome::Busy => Err(PutOff::because("too many notes were on their way".to_owned())),
            Outcome::Refused(why) => Err(PutOff { refused_by: Some(kind.word()), ..PutOff::because(why) }),
        }
    }

    /// Marks a device as done with; and as one that does not fail, if it was told.
    async fn mark(&self, heard: &Heard, device: &Device, is_told: bool) -> Result<(), PutOff> {
        let (merchant, id) = (heard.merchant, device.id);
        self.write(async || {
            let mut sql = pool::begin_of(&self.steps.pools.app, merchant).await?;
            told::mark(&mut sql, merchant, heard.position, id).await?;
            if is_told && device.is_failing() {
                devices::fails(&mut sql, merchant, id, device.renewed_at, false).await?;
            }
            Ok(sql.commit().await?)
        })
        .await
    }

    /// Notes that a device fails. One that has for too long is removed: true then.
    async fn fails(&self, heard: &Heard, round: &Round, device: &Device) -> Result<bool, PutOff> {
        let (merchant, id) = (heard.merchant, device.id);
        if device.is_given_up(round.now) {
            let is_gone = self.forget(heard, device, None).await? == Forgotten::Removed;
            info!(%merchant, device = %id, is_gone, "Nothing has reached a device for a week");
            return Ok(is_gone);
        }
        if !device.is_failing() {
            self.write(async || {
                let mut sql = pool::begin_of(&self.steps.pools.app, merchant).await?;
                devices::fails(&mut sql, merchant, id, device.renewed_at, true).await?;
                Ok(sql.commit().await?)
            })
            .await?;
        }
        Ok(false)
    }

    async fn forget(&self, heard: &Heard, device: &Device, since: Option<Moment>) -> Result<Forgotten, PutOff> {
        self.write(async || {
            let mut sql = pool::begin_of(&self.steps.pools.app, heard.merchant).await?;
            let forgotten = devices::forget(&mut sql, heard.merchant, device.id, device.renewed_at, since).await?;
            sql.commit().await?;
            Ok(forgotten)
        })
        .await
    }

    async fn write<T, F: Future<Output = Result<T>>>(&self, write: impl Fn() -> F) -> Result<T, PutOff> {
        let written = self.steps.write(write).await;
        written.map_err(|error| PutOff::because(format!("writing it down: {:#}", error.into_anyhow())))
    }
}

impl Handler for Push {
    const NAME: &'static str = "push";
    const HEARS: &'static [&'static str] = &["payment.captured", "alert.raised"];

    async fn handle(&self, heard: &Heard) -> Result<Effect, Failure> {
        let Some(about) = About::of(&heard.event.kind) else { return Ok(Effect::None) };
        let began = Instant::now();
        let looking = self.steps.step(self.round(heard, about));
        let Some(round) = looking.await.map_err(Error::into_anyhow)? else { return Ok(Effect::None) };
        let (mut delay, mut under_way) = (Delay::default(), FuturesUnordered::new());
        for device in &round.devices {
            if under_way.len() == AT_ONCE_MAX
                && let Some(Err(put_off)) = under_way.next().await
            {
                delay.add(put_off);
            }
            if began.elapsed() > TURN_MAX {
                let why = format!("not everybody was told within {TURN_MAX:?}");
                delay.add(PutOff::because(why));
                break;
            }
            under_way.push(self.tell(heard, &round, device));
        }
        while let Some(told) = under_way.next().await {
            if let Err(put_off) = told {
                delay.add(put_off);
            }
        }
        let Delay { why, at_least, refused_by } = delay;
        let word = round.about.word();
        match why {
            // What is ours to put right is a dead letter in the end: it can be told again then.
            Some(why) if refused_by.is_empty() && round.now > heard.recorded_at + TRIED_FOR => {
                info!("Devices that fail are not told of {}: {why}", heard.position);
                Ok(Effect::Made)
            }
            Some(why) => Err(Failure::Later(anyhow!("telling devices of {word}: {why}"), at_least)),
            None if round.looks_again => {
                let why = anyhow!("telling devices of {word}: some have a screen that may be gone");
                Err(Failure::Later(why, Some(LOOK_AGAIN_AFTER)))
            }
            None if round.devices.is_empty() => Ok(Effect::None),
            None => Ok(Effect::Made),
        }
    }
}

/// Keeps those who are to be told, and counts those who are spared.
fn keep(devices: &mut Vec<Device>, why: &'static str, is_told: impl Fn(&Device) -> bool) {
    let before = devices.len();
    devices.retain(is_told);
    spare(why, before - devices.len());
}

fn spare(why: &'static str, count: usize) {
    metrics::counter!("tillwire_push_spared_total", "why" => why).increment(count as u64);
}

/// Those who have a live screen that may hear it: not a wall, nor the screen of another till.
async fn who_may_be_shown(sql: &mut PgConnection, heard: &Heard) -> Result<HashSet<StaffId>> {
    let watching = presence::watching(sql, heard.merchant, heard.event.outlet).await?;
    let may_be = watching.into_iter().filter(|(outlet, person)| {
        let outlets: &[OutletId] = if *outlet == EVERYWHERE { &[] } else { std::slice::from_ref(outlet) };
        may_hear(&Listener { role: person.role, outlets, register: person.register }, &heard.event)
    });
    Ok(may_be.map(|(_, person)| person.staff).collect())
}

/// Those who have said on a screen that they saw it: payments, for of nothing else is that said.
async fn have_seen(sql: &mut PgConnection, heard: &Heard, devices: &[Device]) -> Result<HashSet<StaffId>> {
    let heard_on: Vec<Channel> =
        heard_on(&heard.event).into_iter().filter(|channel| channel.topic == Topic::Payments).collect();
    if heard_on.is_empty() || devices.is_empty() {
        return Ok(HashSet::new());
    }
    let staff: Vec<StaffId> = devices.iter().map(|device| device.staff).collect();
    seen::by(sql, heard.merchant, heard.position, heard.recorded_at, &heard_on, &staff).await
}

async fn name_of(sql: &mut PgConnection, heard: &Heard, outlet: OutletId) -> Result<Option<String>> {
    let name = sqlx::query_scalar!(
        "select name from outlets where merchant_id = $1 and outlet_id = $2",
        heard.merchant.0,
        outlet.0,
    )
    .fetch_optional(sql)
    .await?;
    Ok(name)
}
