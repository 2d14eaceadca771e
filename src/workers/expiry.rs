//! Expiring open sales: one that nobody has paid anything of in its time ends by itself, and what it kept back of stock is free.
//!
//! Every node that serves REST or is a worker looks, once a second, and whoever comes first ends a sale: that is decided under
//! the sale's lock, and whoever comes second finds nothing to do. So there is no lease that could be waited for when a node
//! dies.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use secrecy::SecretString;
use tillwire_channels::{MerchantId, SaleId};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::commerce::sales::{self, Expiry};
use crate::journal::Journal;

/// How often it is looked which sales are to end. Nodes do it out of step.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the database may take to say it.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// How many sales are ended after one look, and how many of one merchant.
const SALES_MAX: i32 = 1_000;
const OF_ONE_MAX: i32 = 100;
/// For how long one merchant's are ended before others have their turn.
const TURN_MAX: Duration = Duration::from_millis(500);
/// Of how many merchants sales are ended at once.
const MERCHANTS_AT_ONCE: usize = 3;
/// All that this takes of the database.
pub const CONNECTIONS_MAX: u32 = MERCHANTS_AT_ONCE as u32 + 1;

/// Whoever ends open sales: one a node.
pub struct Expiring {
    /// Over connections of its own, with [`CONNECTIONS_MAX`]: it does not wait for tills, nor tills for it.
    journal: Journal,
}

impl Expiring {
    /// # Errors
    /// If the URL, which is the application's, makes no sense.
    pub fn new(app_url: &SecretString, journal: &Journal) -> anyhow::Result<Self> {
        // What first appears when it happens has not risen, says Prometheus.
        for outcome in ["expired", "stalled"] {
            metrics::counter!("tillwire_open_sales_overdue_total", "outcome" => outcome).increment(0);
        }
        Ok(Self { journal: journal.apart(app_url, CONNECTIONS_MAX)? })
    }

    /// Ends what is to end, until `stop`.
    pub async fn run(&self, stop: &CancellationToken) {
        let mut is_failing = false;
        while !stop.is_cancelled() {
            match self.round(stop).await {
                Ok(()) => is_failing = false,
                Err(error) if std::mem::replace(&mut is_failing, true) => {
                    debug!("Open sales are still not ended in time: {error:#}");
                }
                Err(error) => warn!("Open sales are not ended in time, which is tried again: {error:#}"),
            }
            let pause = LOOK_EVERY.mul_f64(0.75 + fastrand::f64() / 2.0);
            stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
    }

    /// One look, and what follows from it. A sale that cannot be ended keeps none of the others from it; the first such error is
    /// answered.
    async fn round(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        let looking = sales::due(&self.journal.pools.app, OF_ONE_MAX, SALES_MAX);
        let due = tokio::time::timeout(LOOK_MAX, looking).await?.map_err(crate::error::Error::into_anyhow)?;
        let mut of: HashMap<MerchantId, Vec<SaleId>> = HashMap::new();
        for (merchant, sale) in due {
            of.entry(merchant).or_default().push(sale);
        }
        let turns: Vec<_> = of.into_iter().map(|(merchant, sales)| self.turn(merchant, sales, stop).boxed()).collect();
        let ended: Vec<_> = stream::iter(turns).buffer_unordered(MERCHANTS_AT_ONCE).collect().await;
        ended.into_iter().flatten().next().map_or(Ok(()), Err)
    }

    /// Ends a merchant's, the oldest first, for a while. Answers the first error.
    async fn turn(&self, merchant: MerchantId, sales: Vec<SaleId>, stop: &CancellationToken) -> Option<anyhow::Error> {
        let (began, mut failure) = (Instant::now(), None);
        for sale in sales {
            if began.elapsed() > TURN_MAX || stop.is_cancelled() {
                break;
            }
            match self.end(merchant, sale).await {
                Ok(()) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure
    }

    async fn end(&self, merchant: MerchantId, sale: SaleId) -> anyhow::Result<()> {
        let outcome = self.journal.act(merchant, move |tx| sales::expire(tx, sale).boxed()).await;
        let outcome = outcome.map_err(crate::error::Error::into_anyhow);
        match outcome.with_context(|| format!("sale {sale} of merchant {merchant}"))? {
            Expiry::Expired => {
                metrics::counter!("tillwire_open_sales_overdue_total", "outcome" => "expired").increment(1);
                debug!(%merchant, %sale, "An open sale has expired");
            }
            Expiry::Stalled => {
                metrics::counter!("tillwire_open_sales_overdue_total", "outcome" => "stalled").increment(1);
                info!(%merchant, %sale, "An open sale was paid in part and not in time: it stays open, and its outlet is told");
            }
            Expiry::NotDue => {}
        }
        Ok(())
    }
}
