//! The Socket.IO server's own counters, brought to where metrics are collected; and those that begin at nothing.

use std::time::Duration;

use tillwire_socketio::SocketIo;
use tokio_util::sync::CancellationToken;

/// How often they are read. Reading takes a few atomic loads.
const EVERY: Duration = Duration::from_secs(1);

/// A counter that first appears when there is something to count has not risen, says Prometheus.
fn begin() {
    for counter in [
        metrics::counter!("tillwire_gateway_heads_failed_total"),
        metrics::counter!("tillwire_gateway_diverged_total"),
        metrics::counter!("tillwire_gateway_snapshots_required_total"),
        metrics::counter!("tillwire_gateway_gaps_total"),
        metrics::counter!("tillwire_gateway_entries_total"),
    ] {
        counter.increment(0);
    }
    for reason in ["revoked", "expired", "unverifiable"] {
        metrics::counter!("tillwire_gateway_signed_out_total", "reason" => reason).increment(0);
    }
}

/// Brings them until `stop`.
pub async fn bring(io: SocketIo, stop: CancellationToken) {
    begin();
    let mut pace = tokio::time::interval(EVERY);
    while stop.run_until_cancelled(pace.tick()).await.is_some() {
        let counters = io.counters();
        for (transport, sessions) in
            [("polling", counters.sessions_polling), ("websocket", counters.sessions_websocket)]
        {
            metrics::gauge!("tillwire_gateway_sessions", "transport" => transport).set(sessions as f64);
        }
        // What the server closed for a reason of its own is counted by that.
        let reasons = counters.closed.into_iter().filter(|(reason, _)| *reason != "server");
        let reasons = reasons.map(|(reason, count)| (reason.to_owned(), count));
        let own = counters.closed_for.into_iter().map(|(text, count)| (text.replace(' ', "_"), count));
        for (reason, count) in reasons.chain(own) {
            metrics::counter!("tillwire_gateway_closed_total", "reason" => reason).absolute(count);
        }
        for (reason, count) in counters.refused {
            metrics::counter!("tillwire_gateway_turned_away_total", "reason" => reason).absolute(count);
        }
    }
}
