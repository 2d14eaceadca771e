//! Witness: takes the word of screens that a person has seen payments, in company.

use std::sync::Arc;

use tillwire_channels::MerchantId;
use tillwire_channels::wire::SnapshotReason;
use tokio_util::task::TaskTracker;

use super::source::Source;
use crate::batches::Batches;
use crate::error::Result;
use crate::screens::seen::Seen;

/// How many words are kept together.
const BATCH_MAX: usize = 256;

pub struct Witness {
    source: Source,
    words: Arc<Batches<MerchantId, Seen, Result<(), SnapshotReason>>>,
}

impl Witness {
    pub fn new(source: Source, tasks: TaskTracker) -> Self {
        Self { source, words: Batches::new(BATCH_MAX, tasks) }
    }

    /// Keeps a screen's word; answers why not, if its position is not one of the journal's.
    ///
    /// # Errors
    /// If the database did not take it, or did not say so.
    pub async fn keep(&self, merchant: MerchantId, seen: Seen) -> Result<Result<(), SnapshotReason>> {
        let source = self.source.clone();
        let keep = move |words: Vec<Seen>| {
            let source = source.clone();
            async move { source.keep_seen(merchant, &words).await }
        };
        self.words.ask(merchant, seen, keep).await
    }
}
