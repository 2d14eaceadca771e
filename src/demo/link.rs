//! The links: who opens the first sees the sales, and can change nothing. Where payments are played, there are two more, to sell
//! something and to pay for it.

use std::net::SocketAddr;
use std::time::Duration;

use super::api::Api;
use super::payments::{self, PERSON, Simulators};
use super::progress::Terminal;
use super::shop::{Shop, Who};

/// How long a link is good for.
const LINK_TTL: Duration = Duration::from_secs(3600);
/// When the next one comes: before the last one ends.
const LINK_EVERY: Duration = Duration::from_secs(3300);

pub struct Links<'a> {
    api: &'a Api,
    shop: &'a Shop,
    hub: SocketAddr,
    terminal: &'a Terminal,
    /// The page of the customer's bank, where payments are played.
    bank: Option<String>,
}

impl<'a> Links<'a> {
    /// Opens what the links lead to. A shop whose payments cannot be opened says so, and sells without.
    pub async fn new(
        api: &'a Api,
        shop: &'a Shop,
        hub: SocketAddr,
        simulators: Simulators,
        terminal: &'a Terminal,
    ) -> Self {
        let mut bank = simulators.bank();
        if bank.is_some()
            && let Err(error) = payments::open(api, shop, hub, &simulators).await
        {
            terminal.say(&format!("There are no payments by providers: {error:#}"));
            bank = None;
        }
        Self { api, shop, hub, terminal, bank }
    }

    /// Prints the links, and others before they end, until it is dropped.
    ///
    /// # Errors
    /// If no token can be made.
    pub async fn print(&self) -> anyhow::Result<()> {
        let hub = self.hub;
        loop {
            let screen = self.api.token(&self.shop.bearer(Who::Screen), LINK_TTL)?;
            // In the fragment, which browsers keep to themselves.
            let mut text = format!(
                "\n  http://{hub}/#token={screen}\n\nOpen this link: it shows the sales and can change nothing. It is good for an hour, and the next one comes in time.\n"
            );
            if let Some(bank) = &self.bank {
                let person = self.api.token(&self.shop.bearer(PERSON), LINK_TTL)?;
                text += &format!(
                    "\n  http://{hub}/kasir#token={person}\n  {bank}\n\nSell something at the first of these two, a till that is good for as long, and pay for it at the second, the customer's bank app. No money moves.\n"
                );
            }
            self.terminal.say(&text);
            tokio::time::sleep(LINK_EVERY).await;
        }
    }
}
