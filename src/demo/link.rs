//! The link: who opens it sees the sales, and can change nothing.

use std::net::SocketAddr;
use std::time::Duration;

use super::api::Api;
use super::progress::Terminal;
use super::shop::{Shop, Who};

/// How long a link is good for.
const LINK_TTL: Duration = Duration::from_secs(3600);
/// When the next one comes: before the last one ends.
const LINK_EVERY: Duration = Duration::from_secs(3300);

/// Prints a link, and another before it ends, until it is dropped.
///
/// # Errors
/// If no token can be made.
pub async fn print(api: &Api, shop: &Shop, hub: SocketAddr, terminal: &Terminal) -> anyhow::Result<()> {
    loop {
        let token = api.token(&shop.bearer(Who::Screen), LINK_TTL)?;
        // In the fragment, which browsers keep to themselves.
        terminal.say(&format!("\n  http://{hub}/#token={token}\n\nOpen this link: it shows the sales and can change nothing. It is good for an hour, and the next one comes in time.\n"));
        tokio::time::sleep(LINK_EVERY).await;
    }
}
