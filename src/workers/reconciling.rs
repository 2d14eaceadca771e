//! Going on with runs that compare payments, and writing down how well accounts are heard.
//!
//! Every node that serves REST or is a worker looks, every two seconds, and takes a run under a lease of its own. A provider that
//! is slow or dead holds up its own runs and nothing else.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::FutureExt as _;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgPool;
use tillwire_channels::{MerchantId, PaymentId};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use uuid::Uuid;

use crate::accounts::found;
use crate::connectors::credentials::Provider;
use crate::error::{Error, Result};
use crate::journal::{Journal, Pools, pool};
use crate::payments::Desk;
use crate::reconciliation::run::Reconciler;
use crate::reconciliation::{Class, runs};

/// How often it is looked what is to be done. Nodes do it out of step.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long the database may take over it.
const LOOK_MAX: Duration = Duration::from_secs(10);
/// How many runs a node goes on with at once. Each is of another account.
const AT_ONCE_MAX: usize = 2;
/// How long it may take of that to say how payments were found.
const FOUND_WITHIN: Duration = Duration::from_secs(4);
/// How many payments it is said of in one look how they were found.
const FOUND_MAX: i32 = 100;
/// How many connections to the database this takes: one for each run, and one for all else.
const POOL_MAX: u32 = AT_ONCE_MAX as u32 + 1;
/// How long what is under way may take to end when the node stops. What does not is gone on with when its lease is over.
const FINISH_MAX: Duration = Duration::from_secs(20);
/// All that this takes: those, and the connections to providers.
pub const DESCRIPTORS_MAX: usize = POOL_MAX as usize + AT_ONCE_MAX;

/// Whoever goes on with runs: one a node.
pub struct Reconciling {
    /// Over connections of its own: it does not wait for tills, nor tills for it.
    desk: Desk,
    app: PgPool,
}

impl Reconciling {
    /// # Errors
    /// If the URL, which is the application's, makes no sense.
    pub fn new(app_url: &SecretString, journal: &Journal, desk: &Desk) -> anyhow::Result<Self> {
        // What first appears when it happens has not risen, says Prometheus.
        for provider in Provider::ALL.map(Provider::as_str) {
            for by in ["notice", "poll"] {
                metrics::counter!("tillwire_payments_found_total", "provider" => provider, "by" => by).increment(0);
            }
            for outcome in ["done", "failed"] {
                metrics::counter!("tillwire_reconciliations_total", "provider" => provider, "outcome" => outcome)
                    .increment(0);
            }
            for class in Class::ALL.map(Class::as_str) {
                metrics::counter!("tillwire_payment_differences_total", "provider" => provider, "class" => class)
                    .increment(0);
            }
        }
        let app = pool::open(app_url.expose_secret(), POOL_MAX)?;
        let journal = journal.over(Pools { app: app.clone(), feed: journal.pools.feed.clone() });
        Ok(Self { desk: desk.over(journal), app })
    }

    /// Goes on with what is due, until `stop`.
    pub async fn run(&self, stop: &CancellationToken) {
        let (mut under_way, mut tasks) = (HashSet::new(), JoinSet::new());
        let mut is_failing = false;
        while !stop.is_cancelled() {
            let looked = tokio::time::timeout(LOOK_MAX, self.look(AT_ONCE_MAX - under_way.len())).await;
            match looked.map_err(anyhow::Error::from).and_then(|looked| looked.map_err(Error::into_anyhow)) {
                Ok(due) => {
                    is_failing = false;
                    for (merchant, run) in due {
                        if under_way.insert(run) {
                            let reconciler = Reconciler::new(self.desk.clone());
                            tasks.spawn(async move { (run, advance(&reconciler, merchant, run).await) });
                        }
                    }
                }
                Err(error) if std::mem::replace(&mut is_failing, true) => {
                    debug!("Payments are still not compared: {error:#}");
                }
                Err(error) => warn!("Payments are not compared, which is tried again: {error:#}"),
            }
            let pause = tokio::time::sleep(LOOK_EVERY.mul_f64(0.75 + fastrand::f64() / 2.0));
            stop.run_until_cancelled(pause).await;
            while let Some(ended) = tasks.try_join_next() {
                match ended {
                    Ok((run, ())) => _ = under_way.remove(&run),
                    // Which one it was nobody knows: all of them may be taken again, as far as their leases allow.
                    Err(_) => under_way.clear(),
                }
            }
        }
        let finishing = async { while tasks.join_next().await.is_some() {} };
        _ = tokio::time::timeout(FINISH_MAX, finishing).await;
    }

    /// All that is done at each look; and which runs are to go on. One row that is locked or wrong stops nothing but itself.
    async fn look(&self, room: usize) -> Result<Vec<(MerchantId, Uuid)>> {
        if let Err(error) = self.desk.pulse.write(&self.app).await {
            debug!("How well accounts are heard is written later: {error:?}");
        }
        let found = found::due(&self.app, FOUND_MAX).await?;
        if tokio::time::timeout(FOUND_WITHIN, self.judge(found)).await.is_err() {
            debug!("How payments were found is said later");
        }
        if room == 0 { Ok(Vec::new()) } else { runs::due(&self.app, i32::try_from(room)?).await }
    }

    async fn judge(&self, found: Vec<(MerchantId, PaymentId)>) {
        for (merchant, payment) in found {
            match self.desk.journal.act(merchant, move |tx| found::judge(tx, payment).boxed()).await {
                Ok(Some((provider, was_told))) => found::count(provider, if was_told { "notice" } else { "poll" }),
                Ok(None) => {}
                Err(error) => debug!(%payment, "How a payment was found is said later: {error:?}"),
            }
        }
    }
}

async fn advance(reconciler: &Reconciler, merchant: MerchantId, run: Uuid) {
    if let Err(error) = reconciler.advance(merchant, run).await {
        debug!(%run, "A comparison of payments goes on later: {error:?}");
    }
}
