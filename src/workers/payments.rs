//! Attending to payments and refunds: what notifications did not bring is asked for, what is over is called off, and what
//! somebody began and did not live to end is gone on with.
//!
//! Every node that serves REST or is a worker looks, twice a second, and takes what is due under a lease of its own. A provider
//! that is slow or dead holds up its own payments: each is attended to beside the others, within bounds.

use std::time::Duration;

use secrecy::SecretString;
use tillwire_channels::{MerchantId, PaymentId, RefundId};
use uuid::Uuid;

use super::duties::Duty;
use crate::commerce::payments::{held, refunds};
use crate::connectors::credentials::Provider;
use crate::error::Result;
use crate::payments::desk::Cause;
use crate::payments::{Desk, inbox};

/// How soon it is looked again while so much is due that there may be more.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How much is attended to at once, and how much of it for one merchant.
const AT_ONCE_MAX: usize = 32;
const OF_ONE_MAX: i32 = 8;
/// How many connections to the database this takes: a payment needs one for moments only, before and after its call.
const POOL_MAX: u32 = 4;
/// All that this takes: those, and the connections to providers.
pub const DESCRIPTORS_MAX: usize = POOL_MAX as usize + AT_ONCE_MAX;

/// Whoever attends to payments: one a node.
#[derive(Clone)]
pub struct Attending {
    /// Over connections of its own: it does not wait for tills, nor tills for it.
    desk: Desk,
}

/// Something to attend to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Due {
    Payment(MerchantId, PaymentId),
    Refund(MerchantId, RefundId),
    Notice(MerchantId, Uuid),
}

impl Attending {
    /// # Errors
    /// If the URL, which is the application's, makes no sense.
    pub fn new(app_url: &SecretString, desk: &Desk) -> anyhow::Result<Self> {
        // What first appears when it happens has not risen, says Prometheus.
        for (provider, outcome) in
            Provider::ALL.iter().flat_map(|provider| inbox::Outcome::ALL.map(|it| (provider, it)))
        {
            let (provider, outcome) = (provider.as_str(), outcome.as_str());
            metrics::counter!("tillwire_provider_notices_total", "provider" => provider, "outcome" => outcome)
                .increment(0);
        }
        Ok(Self { desk: desk.over(desk.journal.apart(app_url, POOL_MAX)?) })
    }
}

impl Duty for Attending {
    const NAME: &'static str = "Attending to payments";
    const LOOK_EVERY: Duration = Duration::from_millis(500);
    const LOOK_MAX: Duration = Duration::from_secs(5);
    const AT_ONCE_MAX: usize = AT_ONCE_MAX;
    type Due = Due;

    async fn look(&self, room: usize) -> Result<Vec<Due>> {
        if room == 0 {
            return Ok(Vec::new());
        }
        let (app, max) = (&self.desk.journal.pools.app, i32::try_from(room)?);
        let payments = held::due(app, OF_ONE_MAX, max).await?;
        let notices = inbox::due(app, OF_ONE_MAX, max).await?;
        let refunds = refunds::held::due(app, OF_ONE_MAX, max).await?;
        let payments = payments.into_iter().map(|(merchant, payment)| Due::Payment(merchant, payment));
        let notices = notices.into_iter().map(|(merchant, notice)| Due::Notice(merchant, notice));
        let refunds = refunds.into_iter().map(|(merchant, refund)| Due::Refund(merchant, refund));
        // A customer at a till goes first.
        Ok(payments.chain(notices).chain(refunds).take(room).collect())
    }

    async fn attend(&self, due: Due) -> Result<()> {
        match due {
            Due::Payment(merchant, payment) => _ = self.desk.attend(merchant, payment, Cause::default()).await?,
            Due::Refund(merchant, refund) => _ = self.desk.attend_refund(merchant, refund, false).await?,
            Due::Notice(merchant, notice) => _ = self.desk.resume(merchant, notice).await?,
        }
        Ok(())
    }

    fn pause(due: usize) -> Duration {
        if due >= OF_ONE_MAX as usize { LOOK_AGAIN } else { Self::LOOK_EVERY }
    }
}
