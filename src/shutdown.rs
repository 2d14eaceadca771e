//! Stopping: told by a signal, in an order, and waited for.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// A token that the first `SIGTERM` or Ctrl-C cancels. A second one ends the process at once.
pub fn on_signal() -> anyhow::Result<CancellationToken> {
    let told = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn({
        let told = told.clone();
        async move {
            for times in 1.. {
                tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
                if times > 1 {
                    std::process::exit(130);
                }
                info!("Told to stop: draining. Once more to stop at once");
                told.cancel();
            }
        }
    });
    Ok(told)
}
