//! The hub: the handles that a role is given.

use std::sync::Arc;

use serde_json::value::RawValue;
use tillwire_channels::{Channel, MerchantId, Position};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::commerce::snapshots::{self, Shared, Whole};
use crate::egress::Egress;
use crate::error::Result;
use crate::identity::tokens::Verifier;
use crate::journal::Journal;
use crate::journal::read::ReadTx;
use crate::payments::{Desk, inbox};
use crate::push::services::Services;
use crate::vault::Vault;
use crate::webhooks::sender::Sender;
use crate::webhooks::trials::Trials;

/// What every edge needs. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    pub journal: Journal,
    pub verifier: Arc<Verifier>,
    pub snapshots: Arc<Shared>,
    /// Where the hub may connect to on a merchant's word.
    pub egress: Arc<Egress>,
    /// Posts to webhooks.
    pub sender: Sender,
    /// Whose test messages are under way.
    pub trials: Arc<Trials>,
    /// Sends to phones and browsers.
    pub push: Arc<Services>,
    /// Whose devices are being sent a test.
    pub device_trials: Arc<Trials>,
    /// Seals and opens what is kept secret.
    pub vault: Arc<Vault>,
    /// Attends to payments that providers carry.
    pub desk: Desk,
    /// How many of their providers' notifications may still be worked on.
    pub notified: Arc<Semaphore>,
    /// Cancelled when the node begins to drain: readiness fails from then on.
    pub draining: CancellationToken,
}

impl Hub {
    /// `tasks` owns what is done for several requests at once.
    pub fn new(
        journal: Journal,
        verifier: Arc<Verifier>,
        egress: Arc<Egress>,
        push: Arc<Services>,
        desk: Desk,
        tasks: TaskTracker,
        draining: CancellationToken,
    ) -> Self {
        let snapshots = Arc::new(Shared::new(journal.pools.app.clone(), tasks));
        let sender = Sender::new(egress.clone());
        let vault = desk.vault.clone();
        let (trials, device_trials) = (Arc::default(), Arc::default());
        let notified = Arc::new(Semaphore::new(inbox::AT_ONCE_MAX));
        Self {
            journal,
            verifier,
            snapshots,
            egress,
            sender,
            trials,
            push,
            device_trials,
            vault,
            desk,
            notified,
            draining,
        }
    }

    /// What gateways ask for the state of a channel with: the one place where they and commerce meet.
    pub async fn state_of(
        self,
        merchant: MerchantId,
        channel: Channel,
        bytes_max: usize,
    ) -> Result<(Position, Option<Vec<Box<RawValue>>>)> {
        let mut tx = ReadTx::of(&self.journal.pools.app, merchant).await?;
        let Whole { position, items } = snapshots::read_whole(&mut tx, channel, bytes_max).await?;
        Ok((position, items))
    }
}
