//! A handler at a broker: it takes entries from its queue, and says to the broker what became of each. And whoever takes down
//! what is dead.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use secrecy::SecretString;
use sqlx::PgPool;
use tillwire_channels::Moment;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::{Attendant, Handler};
use crate::handled::letters::{self, Fate, Letter};
use crate::handled::progress;
use crate::queues::intake::{Intake, Source, Taken, Verdict};
use crate::queues::topology::HandlerQueue;
use crate::relay::message::{Told, decode};
use crate::workers::subscribers::Steps;

/// How often it is told how far the handler has come.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// A handler that takes from its queue.
pub struct Queue<H> {
    attendant: Attendant<H>,
    intake: Intake,
    /// As `tillwire_relay`.
    relay: PgPool,
}

impl<H: Handler> Queue<H> {
    /// # Errors
    /// If a URL makes no sense.
    pub fn new(
        attendant: Attendant<H>,
        relay: PgPool,
        amqp_url: &SecretString,
        prefix: &str,
        handlers: &'static [HandlerQueue],
    ) -> anyhow::Result<Self> {
        let intake = Intake::new(amqp_url, prefix, handlers, Source::Handler(H::QUEUE))?;
        Ok(Self { attendant, intake, relay })
    }

    /// Handles until `stop`.
    pub async fn run(&self, stop: &CancellationToken) {
        let newest = Arc::<Newest>::default();
        let both = (self.attendant.clone(), newest.clone());
        let deal = move |taken: Taken| {
            let (attendant, newest) = both.clone();
            async move { deal(&attendant, taken, &newest).await }
        };
        let ready = || ready(&self.attendant.steps);
        tokio::join!(self.intake.run(stop, ready, deal), self.tell_progress(&newest, stop));
    }

    async fn tell_progress(&self, newest: &Newest, stop: &CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(TELL_EVERY)).await.is_some() {
            let Some(recorded_at) = newest.take() else { continue };
            if let Err(error) = progress::tell(&self.relay, H::NAME, recorded_at).await {
                debug!("Cannot say how far {} has come: {error}", H::NAME);
            }
        }
    }
}

/// Nothing is taken before the database is there: it would be given back, and each time counts.
async fn ready(steps: &Steps) -> anyhow::Result<()> {
    anyhow::ensure!(steps.pools.answer().await, "the database does not answer");
    Ok(())
}

async fn deal<H: Handler>(attendant: &Attendant<H>, taken: Taken, newest: &Newest) -> anyhow::Result<Verdict> {
    let told = decode(&taken.body);
    let turn = match &told {
        Ok(told) => attendant.turns.take(told.merchant()).await,
        Err(_) => None,
    };
    if told.is_ok() && turn.is_none() {
        return Ok(Verdict::PutOff { reason: "others of its merchant took their time".to_owned() });
    }
    let attended = match told {
        Ok(Told::Entry(entry)) => {
            if taken.attempts == 0 {
                newest.note(entry.recorded_at);
                metrics::histogram!("tillwire_handler_entry_to_handler_seconds", "handler" => H::NAME)
                    .record((Moment::now_utc() - entry.recorded_at).as_seconds_f64().max(0.0));
            }
            attendant.attend(&entry).await
        }
        Ok(Told::Place { merchant, position }) => attendant.attend_at(merchant, position).await,
        Err(error) => {
            // Nobody of ours wrote it, so nobody of ours misses it.
            metrics::counter!("tillwire_handler_foreign_total", "handler" => H::NAME).increment(1);
            error!("What came by the queue of {} is no entry, and is thrown away: {error:#}", H::NAME);
            return Ok(Verdict::Done);
        }
    };
    let attended = attended.map_err(|error| error.into_anyhow().context("the database"))?;
    Ok(attended.verdict(taken.attempts + 1))
}

/// When the newest entry was recorded that was taken since it was last told.
#[derive(Default)]
struct Newest(Mutex<Option<Moment>>);

impl Newest {
    fn note(&self, recorded_at: Moment) {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = (*newest).max(Some(recorded_at));
    }

    fn take(&self) -> Option<Moment> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Takes dead letters from the broker, and writes them down where people find them.
pub struct Dead {
    steps: Steps,
    intake: Intake,
}

impl Dead {
    /// # Errors
    /// If a URL makes no sense.
    pub fn new(
        steps: Steps,
        amqp_url: &SecretString,
        prefix: &str,
        handlers: &'static [HandlerQueue],
    ) -> anyhow::Result<Self> {
        Ok(Self { steps, intake: Intake::new(amqp_url, prefix, handlers, Source::Dead)? })
    }

    /// Takes them until `stop`.
    pub async fn run(&self, stop: &CancellationToken) {
        let steps = self.steps.clone();
        let deal = move |taken: Taken| {
            let steps = steps.clone();
            async move { bury(&steps, taken).await }
        };
        self.intake.run(stop, || ready(&self.steps), deal).await;
    }
}

async fn bury(steps: &Steps, taken: Taken) -> anyhow::Result<Verdict> {
    let (merchant, position) = match decode(&taken.body) {
        Ok(Told::Entry(entry)) => (entry.merchant, entry.position()),
        Ok(Told::Place { merchant, position }) => (merchant, position),
        Err(error) => {
            error!("A dead letter is no entry, and is thrown away: {error:#}");
            return Ok(Verdict::Done);
        }
    };
    let Some(handler) = taken.of else {
        error!(%merchant, %position, "A dead letter is nobody's, and is thrown away");
        return Ok(Verdict::Done);
    };
    let reason = taken.reason.unwrap_or_else(|| "unknown".to_owned());
    let letter = Letter { merchant, handler, position, attempts: taken.attempts, reason, fate: Fate::Dead };
    let parking = steps.write(|| letters::park(&steps.pools.app, &letter)).await;
    parking.map_err(|error| error.into_anyhow()).context("writing a dead letter down")?;
    Ok(Verdict::Done)
}
