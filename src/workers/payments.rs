//! Attending to payments and refunds: what notifications did not bring is asked for, what is over is called off, and what
//! somebody began and did not live to end is gone on with.
//!
//! Every node that serves REST or is a worker looks, twice a second, and takes what is due under a lease of its own. A provider
//! that is slow or dead holds up its own payments: each is attended to beside the others, within bounds.

use std::collections::HashSet;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgPool;
use tillwire_channels::{MerchantId, PaymentId, RefundId};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use uuid::Uuid;

use crate::commerce::payments::{held, refunds};
use crate::connectors::credentials::Provider;
use crate::journal::{Journal, Pools, pool};
use crate::payments::desk::Cause;
use crate::payments::{Desk, inbox};

/// How often it is looked what is due. Nodes do it out of step.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// And how soon again while so much is due that there may be more.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long the database may take to say it.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// How much is attended to at once, and how much of it for one merchant.
const AT_ONCE_MAX: usize = 32;
const OF_ONE_MAX: i32 = 8;
/// How many connections to the database this takes: a payment needs one for moments only, before and after its call.
const POOL_MAX: u32 = 4;
/// How long what is under way may take to end when the node stops. What does not is taken up when its lease is over.
const FINISH_MAX: Duration = Duration::from_secs(20);
/// All that this takes: those, and the connections to providers.
pub const DESCRIPTORS_MAX: usize = POOL_MAX as usize + AT_ONCE_MAX;

/// Whoever attends to payments: one a node.
pub struct Attending {
    /// Over connections of its own: it does not wait for tills, nor tills for it.
    desk: Desk,
    app: PgPool,
}

/// Something to attend to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Due {
    Payment(MerchantId, PaymentId),
    Refund(MerchantId, RefundId),
    Notice(MerchantId, Uuid),
}

impl Attending {
    /// # Errors
    /// If the URL, which is the application's, makes no sense.
    pub fn new(app_url: &SecretString, journal: &Journal, desk: &Desk) -> anyhow::Result<Self> {
        // What first appears when it happens has not risen, says Prometheus.
        for (provider, outcome) in
            Provider::ALL.iter().flat_map(|provider| inbox::Outcome::ALL.map(|it| (provider, it)))
        {
            let (provider, outcome) = (provider.as_str(), outcome.as_str());
            metrics::counter!("tillwire_provider_notices_total", "provider" => provider, "outcome" => outcome)
                .increment(0);
        }
        let app = pool::open(app_url.expose_secret(), POOL_MAX)?;
        let journal = journal.over(Pools { app: app.clone(), feed: journal.pools.feed.clone() });
        Ok(Self { desk: desk.over(journal), app })
    }

    /// Attends to what is due, until `stop`.
    pub async fn run(&self, stop: &CancellationToken) {
        let (mut under_way, mut tasks) = (HashSet::new(), JoinSet::new());
        let mut is_failing = false;
        while !stop.is_cancelled() {
            let mut pause = LOOK_EVERY;
            match self.due(AT_ONCE_MAX - under_way.len()).await {
                Ok(due) => {
                    is_failing = false;
                    if due.len() >= OF_ONE_MAX as usize {
                        pause = LOOK_AGAIN;
                    }
                    for due in due {
                        if under_way.insert(due) {
                            let desk = self.desk.clone();
                            tasks.spawn(async move { (due, attend(&desk, due).await) });
                        }
                    }
                }
                Err(error) if std::mem::replace(&mut is_failing, true) => {
                    debug!("Payments are still not attended to: {error:#}");
                }
                Err(error) => warn!("Payments are not attended to, which is tried again: {error:#}"),
            }
            let pausing = tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0));
            stop.run_until_cancelled(pausing).await;
            while let Some(ended) = tasks.try_join_next() {
                match ended {
                    Ok((due, ())) => _ = under_way.remove(&due),
                    // Which one it was nobody knows: all of them may be taken again, as far as their leases allow.
                    Err(_) => under_way.clear(),
                }
            }
        }
        let finishing = async { while tasks.join_next().await.is_some() {} };
        _ = tokio::time::timeout(FINISH_MAX, finishing).await;
    }

    async fn due(&self, room: usize) -> anyhow::Result<Vec<Due>> {
        if room == 0 {
            return Ok(Vec::new());
        }
        let max = i32::try_from(room)?;
        let looking = async {
            let payments = held::due(&self.app, OF_ONE_MAX, max).await?;
            let notices = inbox::due(&self.app, OF_ONE_MAX, max).await?;
            let refunds = refunds::held::due(&self.app, OF_ONE_MAX, max).await?;
            crate::error::Result::Ok((payments, notices, refunds))
        };
        let (payments, notices, refunds) =
            tokio::time::timeout(LOOK_MAX, looking).await?.map_err(crate::error::Error::into_anyhow)?;
        let payments = payments.into_iter().map(|(merchant, payment)| Due::Payment(merchant, payment));
        let notices = notices.into_iter().map(|(merchant, notice)| Due::Notice(merchant, notice));
        let refunds = refunds.into_iter().map(|(merchant, refund)| Due::Refund(merchant, refund));
        // A customer at a till goes first.
        Ok(payments.chain(notices).chain(refunds).take(room).collect())
    }
}

async fn attend(desk: &Desk, due: Due) {
    let outcome = match due {
        Due::Payment(merchant, payment) => desk.attend(merchant, payment, Cause::default()).await.map(|_| ()),
        Due::Refund(merchant, refund) => desk.attend_refund(merchant, refund, false).await.map(|_| ()),
        Due::Notice(merchant, notice) => desk.resume(merchant, notice).await.map(|_| ()),
    };
    if let Err(error) = outcome {
        debug!("{due:?} is attended to later: {error:?}");
    }
}
