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

use super::handlers::{Effect, Failure, Handler, Heard};
use crate::error::{Error, Result};
use crate::journal::{Pools, pool};
use crate::push::Outcome;
use crate::push::audience::{heard_on, may_hear};
use crate::push::devices::{self, Device, Forgotten, Kind};
use crate::push::note::{About, Message};
use crate::push::services::Services;
use crate::push::told;
use crate::screens::presence::{self, EVERYWHERE};
use crate::screens::seen;

/// How many devices are sent something at once, for one event.
const AT_ONCE_MAX: usize = 16;
/// How long one event may take; who has not been told by then is told when it is tried again.
const TURN_MAX: Duration = Duration::from_secs(15);
/// How often what came of a note is tried to be written down, and how long after a failure. It is known to nobody else.
const WRITE_TRIES_MAX: u32 = 3;
const WRITE_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// The longest that a service's `Retry-After` is waited for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Why somebody who wants to be told is not.
const SPARED_FOR: [&str; 5] = ["late", "no_key", "quiet", "live", "seen"];

/// The handler. Cheap to clone.
#[derive(Clone)]
pub struct Push {
    pools: Pools,
    services: Arc<Services>,
}

/// Whom to tell, and what all of them are told.
struct Round {
    about: About,
    expires_at: Moment,
    outlet_name: Option<String>,
    devices: Vec<Device>,
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
    /// `pools` are the workers' own: tills and screens do not wait for phones.
    pub fn new(pools: Pools, services: Arc<Services>) -> Self {
        for (kind, outcome) in Kind::ALL.iter().flat_map(|kind| Outcome::WORDS.map(|outcome| (kind.word(), outcome))) {
            metrics::counter!("tillwire_push_notes_total", "kind" => kind, "outcome" => outcome).increment(0);
        }
        for why in SPARED_FOR {
            metrics::counter!("tillwire_push_spared_total", "why" => why).increment(0);
        }
        Self { pools, services }
    }

    /// Whom to tell; none if it is too late for everybody.
    async fn round(&self, heard: &Heard, about: About) -> Result<Option<Round>> {
        let mut sql = pool::begin_of(&self.pools.app, heard.merchant).await?;
        // By the clock that dated the event.
        let now = sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#).fetch_one(&mut *sql).await?;
        let expires_at = heard.recorded_at + about.age_max();
        if now >= expires_at {
            spare("late", 1);
            return Ok(None);
        }
        let mut devices = devices::wanting(&mut sql, heard.merchant, about, heard.event.outlet).await?;
        devices.retain(|device| may_hear(&device.listener(), &heard.event));
        if !devices.is_empty() {
            let told = told::of(&mut sql, heard.merchant, heard.position).await?;
            devices.retain(|device| !told.contains(&device.id));
        }
        keep(&mut devices, "no_key", |device| self.services.reach(device.registration.kind()));
        keep(&mut devices, "quiet", |device| !device.is_quiet());
        if !devices.is_empty() {
            let live = who_may_be_shown(&mut sql, heard).await?;
            keep(&mut devices, "live", |device| !live.contains(&device.staff));
            let seen = have_seen(&mut sql, heard, &devices).await?;
            keep(&mut devices, "seen", |device| !seen.contains(&device.staff));
        }
        let outlet_name = match heard.event.outlet {
            Some(outlet) if !devices.is_empty() => name_of(&mut sql, heard, outlet).await?,
            _ => None,
        };
        sql.commit().await?;
        Ok(Some(Round { about, expires_at, outlet_name, devices }))
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
        match outcome {
            Outcome::Sent => {}
            Outcome::Gone(since) => {
                let forgotten = self.forget(heard, device, since).await?;
                info!(%merchant, device = %device.id, kind, ?forgotten, "A device is not known to its service any more");
                if forgotten == Forgotten::Renewed {
                    let why = "a device was renewed meanwhile".to_owned();
                    return Err(PutOff { why, at_least: None, refused_by: None });
                }
            }
            Outcome::GivenUp(why) => {
                warn!(%merchant, device = %device.id, kind, "A device will not be told of {position}: {why}");
            }
            Outcome::Later(why, at_least) => {
                debug!(%merchant, device = %device.id, kind, "A device could not be told of {position}: {why}");
                return Err(PutOff { why, at_least, refused_by: None });
            }
            Outcome::Refused(why) => return Err(PutOff { why, at_least: None, refused_by: Some(kind) }),
        }
        self.mark(heard, device).await
    }

    async fn mark(&self, heard: &Heard, device: &Device) -> Result<(), PutOff> {
        let write = || async {
            let mut sql = pool::begin_of(&self.pools.app, heard.merchant).await?;
            told::mark(&mut sql, heard.merchant, heard.position, device.id).await?;
            Ok(sql.commit().await?)
        };
        write_down(write).await
    }

    async fn forget(&self, heard: &Heard, device: &Device, since: Option<Moment>) -> Result<Forgotten, PutOff> {
        let write = || async {
            let mut sql = pool::begin_of(&self.pools.app, heard.merchant).await?;
            let forgotten = devices::forget(&mut sql, heard.merchant, device.id, device.renewed_at, since).await?;
            sql.commit().await?;
            Ok(forgotten)
        };
        write_down(write).await
    }
}

impl Handler for Push {
    const NAME: &'static str = "push";
    const HEARS: &'static [&'static str] = &["payment.captured", "alert.raised"];

    async fn handle(&self, heard: &Heard) -> Result<Effect, Failure> {
        let Some(about) = About::of(&heard.event.kind) else { return Ok(Effect::None) };
        let began = Instant::now();
        let Some(round) = self.round(heard, about).await.map_err(Error::into_anyhow)? else {
            return Ok(Effect::None);
        };
        let (mut delay, mut under_way) = (Delay::default(), FuturesUnordered::new());
        for device in &round.devices {
            if under_way.len() == AT_ONCE_MAX
                && let Some(Err(put_off)) = under_way.next().await
            {
                delay.add(put_off);
            }
            if began.elapsed() > TURN_MAX {
                let why = format!("not everybody was told within {TURN_MAX:?}");
                delay.add(PutOff { why, at_least: None, refused_by: None });
                break;
            }
            under_way.push(self.tell(heard, &round, device));
        }
        while let Some(told) = under_way.next().await {
            if let Err(put_off) = told {
                delay.add(put_off);
            }
        }
        match delay.why {
            None if round.devices.is_empty() => Ok(Effect::None),
            None => Ok(Effect::Made),
            Some(why) => {
                Err(Failure::Later(anyhow!("telling devices of {}: {why}", round.about.word()), delay.at_least))
            }
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

/// Writes down what came of a note: again, if the database does not take it at once.
async fn write_down<T, F: Future<Output = Result<T>>>(write: impl Fn() -> F) -> Result<T, PutOff> {
    let mut tried = 1;
    loop {
        match write().await {
            Ok(written) => return Ok(written),
            Err(_) if tried < WRITE_TRIES_MAX => tokio::time::sleep(WRITE_AGAIN_AFTER).await,
            Err(error) => {
                let why = format!("writing it down: {:#}", error.into_anyhow());
                return Err(PutOff { why, at_least: None, refused_by: None });
            }
        }
        tried += 1;
    }
}
