//! Attending to payments and refunds: what notifications did not bring is asked for, what is over is called off, and what
//! somebody began and did not live to end is gone on with.
//!
//! Every node that serves REST or is a worker looks, twice a second, and takes what is due under a lease of its own: each beside
//! the others, within bounds. Payments, what was told of them and what goes back are duties of their own, so that none has to wait
//! until the others leave it room.

use std::time::Duration;

use secrecy::SecretString;
use tillwire_channels::{MerchantId, PaymentId, RefundId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::duties::{self, Duty};
use crate::commerce::payments::held::{self, LEASE};
use crate::commerce::payments::refunds;
use crate::connectors::credentials::Provider;
use crate::error::Result;
use crate::payments::desk::Cause;
use crate::payments::{Desk, inbox};

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How soon it is looked again while so much is due that there may be more.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const LOOK_MAX: Duration = Duration::from_secs(5);
/// How long attending may take: whoever is at it longer has lost the lease long ago, and waits for what never answers.
const ATTEND_MAX: Duration = Duration::from_secs(2 * LEASE.as_secs());
/// How many connections to the database this takes: a payment needs one for moments only, before and after its call.
const POOL_MAX: u32 = 4;
/// All that this takes: those, and the connections to providers.
pub const DESCRIPTORS_MAX: usize =
    POOL_MAX as usize + Payments::AT_ONCE_MAX + Notices::AT_ONCE_MAX + Refunds::AT_ONCE_MAX;

/// Begins to attend to all of it, until `stop`. `app_url` is the application's.
///
/// # Errors
/// If the URL makes no sense.
pub fn begin(app_url: &SecretString, desk: &Desk, tasks: &TaskTracker, stop: &CancellationToken) -> anyhow::Result<()> {
    // What first appears when it happens has not risen, says Prometheus.
    for (provider, outcome) in Provider::ALL.iter().flat_map(|provider| inbox::Outcome::ALL.map(|it| (provider, it))) {
        let (provider, outcome) = (provider.as_str(), outcome.as_str());
        metrics::counter!("tillwire_provider_notices_total", "provider" => provider, "outcome" => outcome).increment(0);
    }
    // Over connections of its own: it does not wait for tills, nor tills for it.
    let desk = desk.over(desk.journal.apart(app_url, POOL_MAX)?);
    duties::begin(Payments(desk.clone()), tasks, stop);
    duties::begin(Notices(desk.clone()), tasks, stop);
    duties::begin(Refunds(desk), tasks, stop);
    Ok(())
}

/// Payments whose turn it is.
#[derive(Clone)]
struct Payments(Desk);

/// Notifications that were kept, and left.
#[derive(Clone)]
struct Notices(Desk);

#[derive(Clone)]
struct Refunds(Desk);

impl Duty for Payments {
    const NAME: &'static str = "Attending to payments";
    const LOOK_EVERY: Duration = LOOK_EVERY;
    const LOOK_AGAIN: Duration = LOOK_AGAIN;
    const LOOK_MAX: Duration = LOOK_MAX;
    const ATTEND_MAX: Duration = ATTEND_MAX;
    const AT_ONCE_MAX: usize = 32;
    const OF_ONE_MAX: usize = 8;
    type Due = (MerchantId, PaymentId);

    fn merchant((merchant, _): Self::Due) -> MerchantId {
        merchant
    }

    async fn look(&self) -> Result<Vec<Self::Due>> {
        held::due(&self.0.journal.pools.app, i32::try_from(Self::OF_ONE_MAX)?, i32::try_from(Self::AT_ONCE_MAX)?).await
    }

    async fn attend(&self, (merchant, payment): Self::Due) -> Result<()> {
        self.0.attend(merchant, payment, Cause::default()).await.map(drop)
    }
}

impl Duty for Notices {
    const NAME: &'static str = "Coming back to notifications";
    const LOOK_EVERY: Duration = LOOK_EVERY;
    const LOOK_AGAIN: Duration = LOOK_AGAIN;
    const LOOK_MAX: Duration = LOOK_MAX;
    const ATTEND_MAX: Duration = ATTEND_MAX;
    // Each may wait for a lock, with a connection.
    const AT_ONCE_MAX: usize = 2;
    const OF_ONE_MAX: usize = 1;
    type Due = (MerchantId, Uuid);

    fn merchant((merchant, _): Self::Due) -> MerchantId {
        merchant
    }

    async fn look(&self) -> Result<Vec<Self::Due>> {
        inbox::due(&self.0.journal.pools.app, i32::try_from(Self::OF_ONE_MAX)?, i32::try_from(Self::AT_ONCE_MAX)?).await
    }

    async fn attend(&self, (merchant, notice): Self::Due) -> Result<()> {
        self.0.resume(merchant, notice).await.map(drop)
    }
}

impl Duty for Refunds {
    const NAME: &'static str = "Attending to refunds";
    const LOOK_EVERY: Duration = LOOK_EVERY;
    const LOOK_AGAIN: Duration = LOOK_AGAIN;
    const LOOK_MAX: Duration = LOOK_MAX;
    const ATTEND_MAX: Duration = ATTEND_MAX;
    const AT_ONCE_MAX: usize = 8;
    const OF_ONE_MAX: usize = 2;
    type Due = (MerchantId, RefundId);

    fn merchant((merchant, _): Self::Due) -> MerchantId {
        merchant
    }

    async fn look(&self) -> Result<Vec<Self::Due>> {
        refunds::held::due(
            &self.0.journal.pools.app,
            i32::try_from(Self::OF_ONE_MAX)?,
            i32::try_from(Self::AT_ONCE_MAX)?,
        )
        .await
    }

    async fn attend(&self, (merchant, refund): Self::Due) -> Result<()> {
        self.0.attend_refund(merchant, refund, false).await.map(drop)
    }
}
