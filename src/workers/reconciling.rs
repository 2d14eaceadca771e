//! Going on with runs that compare payments, and writing down how well accounts are heard.
//!
//! Every node that serves REST or is a worker looks, every two seconds, and takes a run under a lease of its own. A provider that
//! is slow or dead holds up its own runs and nothing else.

use std::time::Duration;

use futures_util::FutureExt as _;
use secrecy::SecretString;
use tillwire_channels::{MerchantId, PaymentId};
use tracing::debug;
use uuid::Uuid;

use super::duties::Duty;
use crate::accounts::found;
use crate::connectors::credentials::Provider;
use crate::error::Result;
use crate::payments::Desk;
use crate::reconciliation::Class;
use crate::reconciliation::run::Reconciler;
use crate::reconciliation::runs::{self, LEASE};

/// How many runs a node goes on with at once. Each is of another account.
const AT_ONCE_MAX: usize = 2;
/// How long it may take of a look to say how payments were found.
const FOUND_WITHIN: Duration = Duration::from_secs(4);
/// How many payments it is said of in one look how they were found.
const FOUND_MAX: i32 = 100;
/// How many connections to the database this takes: one for each run, and one for all else.
const POOL_MAX: u32 = AT_ONCE_MAX as u32 + 1;
/// All that this takes: those, and the connections to providers.
pub const DESCRIPTORS_MAX: usize = POOL_MAX as usize + AT_ONCE_MAX;

/// Whoever goes on with runs: one a node.
#[derive(Clone)]
pub struct Reconciling {
    /// Over connections of its own: it does not wait for tills, nor tills for it.
    desk: Desk,
}

impl Reconciling {
    /// # Errors
    /// If the URL, which is the application's, makes no sense.
    pub fn new(app_url: &SecretString, desk: &Desk) -> anyhow::Result<Self> {
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
        Ok(Self { desk: desk.over(desk.journal.apart(app_url, POOL_MAX)?) })
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

impl Duty for Reconciling {
    const NAME: &'static str = "Comparing payments";
    const LOOK_EVERY: Duration = Duration::from_secs(2);
    const LOOK_MAX: Duration = Duration::from_secs(10);
    const ATTEND_MAX: Duration = Duration::from_secs(2 * LEASE.as_secs());
    const AT_ONCE_MAX: usize = AT_ONCE_MAX;
    const OF_ONE_MAX: usize = AT_ONCE_MAX;
    type Due = (MerchantId, Uuid);

    fn merchant((merchant, _): Self::Due) -> MerchantId {
        merchant
    }

    /// Writes down how well accounts are heard, and says how payments were found. One row that is locked or wrong stops nothing but
    /// itself.
    async fn round(&self) -> Result<()> {
        let app = &self.desk.journal.pools.app;
        if let Err(error) = self.desk.pulse.write(app).await {
            debug!("How well accounts are heard is written later: {error:?}");
        }
        let found = found::due(app, FOUND_MAX).await?;
        if tokio::time::timeout(FOUND_WITHIN, self.judge(found)).await.is_err() {
            debug!("How payments were found is said later");
        }
        Ok(())
    }

    async fn look(&self) -> Result<Vec<Self::Due>> {
        runs::due(&self.desk.journal.pools.app, i32::try_from(Self::AT_ONCE_MAX)?).await
    }

    async fn attend(&self, (merchant, run): Self::Due) -> Result<()> {
        Reconciler::new(self.desk.clone()).advance(merchant, run).await
    }
}
