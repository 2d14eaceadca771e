//! The local bus: from the journal to the feeds of the same process, to the queues of the other buses, and a word to whoever
//! follows journals.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Carried, Claim, Moved, Queue, count_dropped};
use crate::journal::Committed;

/// Hands every announced entry and every claim on, until `stop`. Whatever a full queue does not take is dropped: its bus is
/// slow or away.
pub async fn run(
    mut announced: mpsc::Receiver<Committed>,
    mut claims: mpsc::Receiver<Claim>,
    outgoing: Vec<(&'static str, Queue)>,
    heard: Queue,
    moved: Vec<Arc<Moved>>,
    stop: CancellationToken,
) {
    loop {
        let carried = tokio::select! {
            () = stop.cancelled() => return,
            Some(committed) = announced.recv() => {
                moved.iter().for_each(|moved| moved.name(committed.entry.merchant));
                Carried::Entry(committed.into())
            }
            Some(claim) = claims.recv() => Carried::Claim(claim),
            else => return,
        };
        for (bus, queue) in &outgoing {
            if !queue.put(carried.clone()) {
                count_dropped(bus, "queue_full", 1);
            }
        }
        // A node without feeds has closed this end; a full one is behind and will read the journal.
        if !heard.put(carried) {
            count_dropped("local", "feeds_behind", 1);
        }
    }
}
