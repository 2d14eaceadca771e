//! The local bus: from the journal to the feeds of the same process, and to the queues of the other buses.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;

use super::{Carried, count_dropped};
use crate::journal::Entry;

/// Hands every announced entry on, until `stop`. Whatever a full queue does not take is dropped: its bus is slow or away.
pub async fn run(
    mut announced: mpsc::Receiver<Arc<Entry>>,
    outgoing: Vec<(&'static str, mpsc::Sender<Arc<Entry>>)>,
    heard: mpsc::Sender<Carried>,
    stop: CancellationToken,
) {
    while let Some(Some(entry)) = stop.run_until_cancelled(announced.recv()).await {
        for (bus, queue) in &outgoing {
            if queue.try_send(entry.clone()).is_err() {
                count_dropped(bus, "queue_full", 1);
            }
        }
        // A node without feeds has closed this end; a full one is behind and will read the journal.
        if let Err(TrySendError::Full(_)) = heard.try_send(Carried::Entry(entry)) {
            super::count_dropped("local", "feeds_behind", 1);
        }
    }
}
