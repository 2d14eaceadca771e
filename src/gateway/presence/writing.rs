//! Writing: that this gateway lives, and who is where by its screens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tillwire_channels::MerchantId;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Gathering, Presence, State};
use crate::error::Result;

/// How often it says that it lives. Three times fit into the time for which it then counts.
const BEAT_EVERY: Duration = Duration::from_secs(3);
/// How soon after it has started, which is when it asks its database more urgent things, and after that did not answer.
const BEAT_SOON_AFTER: Duration = Duration::from_secs(1);
/// How often changes are written, those of the meantime together.
const WRITE_EVERY: Duration = Duration::from_secs(1);

impl Presence {
    /// Says that this gateway lives, until `stop`; then takes back what it has written.
    pub async fn beat(self: Arc<Self>, stop: CancellationToken) {
        let mut pause = BEAT_SOON_AFTER;
        while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            pause = match self.beat_once().await {
                Ok(()) => BEAT_EVERY,
                Err(error) => {
                    metrics::counter!("tillwire_gateway_presence_failed_total", "what" => "beat").increment(1);
                    debug!("This gateway cannot say that it lives: {:#}", error.into_anyhow());
                    BEAT_SOON_AFTER
                }
            };
        }
        if let Err(error) = self.source.retire(self.node).await {
            warn!(
                "Presence of this gateway ends by itself in a moment, for it could not be taken back: {:#}",
                error.into_anyhow()
            );
        }
    }

    async fn beat_once(&self) -> Result<()> {
        let (was_known, now) = self.source.beat(self.node).await?;
        let mut state = self.lock();
        state.clock = Some((now, Instant::now()));
        if !was_known {
            // It was taken for gone, and what it had written with it.
            for gathering in state.gatherings.values_mut() {
                gathering.written.clear();
                gathering.is_changed = true;
            }
        }
        Ok(())
    }

    /// Writes what has changed, merchant by merchant, until `stop`.
    pub async fn write(self: Arc<Self>, stop: CancellationToken) {
        let mut pace = tokio::time::interval(WRITE_EVERY);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(pace.tick()).await.is_some() {
            let changed = self.lock().changed();
            for merchant in changed {
                if let Err(error) = self.write_one(merchant).await {
                    metrics::counter!("tillwire_gateway_presence_failed_total", "what" => "write").increment(1);
                    debug!(%merchant, "Presence waits to be written: {:#}", error.into_anyhow());
                    // If the database answers, the trouble is this merchant's own, and no other waits for it.
                    if self.source.nodes().await.is_err() {
                        break;
                    }
                }
            }
        }
    }

    async fn write_one(&self, merchant: MerchantId) -> Result<()> {
        let unknown = self.lock().gatherings.get(&merchant).map(Gathering::unknown).unwrap_or_default();
        if !unknown.is_empty() {
            let found = self.source.outlets_of(merchant, &unknown).await?;
            if let Some(gathering) = self.lock().gatherings.get_mut(&merchant) {
                gathering.outlets.extend(found);
            }
        }
        let texts = {
            let mut state = self.lock();
            // Nothing is known to have been written before the first beat.
            let Some(now) = state.now() else { return Ok(()) };
            let Some(gathering) = state.gatherings.get_mut(&merchant) else { return Ok(()) };
            gathering.is_changed = false;
            let texts = gathering.texts(now)?;
            let gone = gathering.written.keys().filter(|outlet| !texts.contains_key(*outlet)).map(|gone| (*gone, None));
            let news = texts.iter().filter(|(outlet, text)| gathering.written.get(*outlet) != Some(*text));
            gone.chain(news.map(|(outlet, text)| (*outlet, Some(text.clone())))).collect::<Vec<_>>()
        };
        let outcome = match texts.is_empty() {
            true => Ok(()),
            false => self.source.write_presence(merchant, self.node, &texts).await,
        };
        let mut state = self.lock();
        let Some(gathering) = state.gatherings.get_mut(&merchant) else { return outcome };
        match &outcome {
            Ok(()) => {
                for (outlet, text) in texts {
                    match text {
                        Some(text) => gathering.written.insert(outlet, text),
                        None => gathering.written.remove(&outlet),
                    };
                }
            }
            Err(_) => gathering.is_changed = true,
        }
        if gathering.is_over() {
            state.gatherings.remove(&merchant);
        }
        outcome
    }
}

impl State {
    /// Whose people have changed.
    fn changed(&self) -> Vec<MerchantId> {
        self.gatherings.iter().filter(|(_, gathering)| gathering.is_changed).map(|(merchant, _)| *merchant).collect()
    }
}

impl Gathering {
    /// Whether nobody is here, and nothing says otherwise.
    fn is_over(&self) -> bool {
        self.visits.is_empty() && self.written.is_empty() && !self.is_changed
    }
}
