//! Both simulators as a process of their own. It says where they are, a line each, and ends when it is told to.

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::Context;
use clap::Parser;
use tillwire_simulators::{MidtransAccount, Options, Shop, Simulators, XenditAccount};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::signal::unix::{SignalKind, signal};

/// Simulates Midtrans and Xendit on this machine, for tests and demonstrations.
///
/// Prints three lines: `midtrans URL`, `xendit URL` and `bank URL`, the page on which a customer pays. The control API is
/// under /_sim at either. docs/simulators.md says what it can do.
#[derive(Parser)]
#[command(version)]
struct Flags {
    /// Where Midtrans listens; port 0 is any.
    #[arg(long, default_value = "127.0.0.1:7201")]
    midtrans_listen: SocketAddr,
    /// Where Xendit listens; port 0 is any.
    #[arg(long, default_value = "127.0.0.1:7202")]
    xendit_listen: SocketAddr,
    /// Where Midtrans sends notifications; up to three.
    #[arg(long)]
    midtrans_webhook_url: Vec<String>,
    /// Where Xendit sends webhooks; up to three.
    #[arg(long)]
    xendit_webhook_url: Vec<String>,
    #[arg(long, env = "TILLWIRE_SIMULATORS_MIDTRANS_SERVER_KEY", hide_env_values = true)]
    midtrans_server_key: Option<String>,
    #[arg(long, env = "TILLWIRE_SIMULATORS_MIDTRANS_CLIENT_KEY", hide_env_values = true)]
    midtrans_client_key: Option<String>,
    #[arg(long)]
    midtrans_merchant_id: Option<String>,
    /// Its prefix decides the mode: `xnd_development_` is test.
    #[arg(long, env = "TILLWIRE_SIMULATORS_XENDIT_SECRET_KEY", hide_env_values = true)]
    xendit_secret_key: Option<String>,
    #[arg(long)]
    xendit_business_id: Option<String>,
    #[arg(long, env = "TILLWIRE_SIMULATORS_XENDIT_CALLBACK_TOKEN", hide_env_values = true)]
    xendit_callback_token: Option<String>,
    /// Calls a minute at each of Xendit's endpoints, in place of 60 in test mode and 600 live.
    #[arg(long)]
    xendit_rate_max: Option<u32>,
    /// What customers read on their phones: at most 25 characters count.
    #[arg(long)]
    shop_name: Option<String>,
    #[arg(long)]
    shop_city: Option<String>,
    /// How many seconds pass in one; 0 stands still.
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// When the clock begins, as 2026-01-14T03:05:02Z; now, unless it is said.
    #[arg(long, value_parser = moment)]
    start: Option<OffsetDateTime>,
    /// The same seed and the same calls bring the same ids.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn moment(text: &str) -> Result<OffsetDateTime, time::error::Parse> {
    OffsetDateTime::parse(text, &Rfc3339)
}

impl Flags {
    fn options(self) -> Options {
        let usual = Shop::default();
        let shop = Shop {
            name: self.shop_name.unwrap_or(usual.name.clone()),
            city: self.shop_city.unwrap_or(usual.city.clone()),
            ..usual
        };
        let (midtrans, xendit) = (MidtransAccount::default(), XenditAccount::default());
        let midtrans = MidtransAccount {
            server_key: self.midtrans_server_key.unwrap_or(midtrans.server_key),
            client_key: self.midtrans_client_key.unwrap_or(midtrans.client_key),
            merchant_id: self.midtrans_merchant_id.unwrap_or(midtrans.merchant_id),
            webhook_urls: self.midtrans_webhook_url,
            shop: shop.clone(),
            ..MidtransAccount::default()
        };
        let xendit = XenditAccount {
            secret_key: self.xendit_secret_key.unwrap_or(xendit.secret_key),
            business_id: self.xendit_business_id.unwrap_or(xendit.business_id),
            callback_token: self.xendit_callback_token.unwrap_or(xendit.callback_token),
            webhook_urls: self.xendit_webhook_url,
            shop,
            ..XenditAccount::default()
        };
        Options {
            midtrans_listen: self.midtrans_listen,
            xendit_listen: self.xendit_listen,
            midtrans: vec![midtrans],
            xendit: vec![xendit],
            speed: self.speed,
            start: self.start,
            seed: self.seed,
            xendit_rate_max: self.xendit_rate_max,
        }
    }
}

/// Says where they are, in one write. Whoever started it may have read enough, or reads nothing at all: the simulators are
/// there all the same.
fn say_where(simulators: &Simulators) {
    let (midtrans, xendit) = (simulators.midtrans_url(), simulators.xendit_url());
    let places = format!("midtrans {midtrans}\nxendit {xendit}\nbank {}\n", simulators.bank_url());
    let _ = std::io::stdout().write_all(places.as_bytes());
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt()).context("waiting for signals")?, signal(SignalKind::terminate())?);
    let simulators = Simulators::start(flags.options()).await?;
    say_where(&simulators);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    simulators.stop().await;
    Ok(())
}
