//! Workers: what must happen outside because something happened here. They follow journals, each by a cursor of its own in
//! the database, so that whoever is killed at any moment loses nothing, and somebody else goes on.

pub mod handlers;
pub mod push;
pub mod webhooks;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tracing::error;

/// How long after a panic a worker begins again.
const BEGIN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Does work until `stop`: again, if it should come to an end by a panic, for nobody else on this node would do it.
pub async fn until<F: Future<Output = ()>>(what: &str, stop: &CancellationToken, work: impl Fn() -> F) {
    while AssertUnwindSafe(work()).catch_unwind().await.is_err() {
        error!("{what} has panicked, and begins again");
        if stop.run_until_cancelled(tokio::time::sleep(BEGIN_AGAIN_AFTER)).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_panics_begins_again() {
        let (begun, stop) = (AtomicU32::new(0), CancellationToken::new());
        let work = || async { assert!(begun.fetch_add(1, Ordering::Relaxed) >= 2, "not yet") };
        until("A test", &stop, work).await;
        assert_eq!(begun.load(Ordering::Relaxed), 3);
    }
}
