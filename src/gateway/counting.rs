//! The Socket.IO server's own counters, brought to where metrics are collected.

use std::time::Duration;

use tillwire_socketio::SocketIo;
use tokio_util::sync::CancellationToken;

/// How often they are read. Reading takes a few atomic loads.
const EVERY: Duration = Duration::from_secs(1);

/// Brings them until `stop`.
pub async fn bring(io: SocketIo, stop: CancellationToken) {
    let mut pace = tokio::time::interval(EVERY);
    while stop.run_until_cancelled(pace.tick()).await.is_some() {
        let counters = io.counters();
        for (transport, sessions) in
            [("polling", counters.sessions_polling), ("websocket", counters.sessions_websocket)]
        {
            metrics::gauge!("tillwire_gateway_sessions", "transport" => transport).set(sessions as f64);
        }
        for (reason, count) in counters.closed {
            metrics::counter!("tillwire_gateway_closed_total", "reason" => reason).absolute(count);
        }
        for (reason, count) in counters.refused {
            metrics::counter!("tillwire_gateway_turned_away_total", "reason" => reason).absolute(count);
        }
    }
}
