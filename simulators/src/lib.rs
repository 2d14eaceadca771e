//! The payment providers, as a hub sees them: Midtrans (Core API v2) and Xendit (Payments API v3), each on a port of its
//! own, with the clock, the customers and the faults in the caller's hand. HTTP only, in memory only, and for tests and
//! demonstrations only: nothing here is part of what serves merchants.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use tillwire_simulators::{Options, Simulators};
//!
//! let simulators = Simulators::start(Options::default()).await?;
//! println!("{} {} {}", simulators.midtrans_url(), simulators.xendit_url(), simulators.bank_url());
//! simulators.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! What they do is what the providers document, and what their official clients expect: shapes, codes, signatures, limits,
//! states, refunds in two steps, and webhooks with each provider's own headers, time limits and pauses. Where nothing is
//! published, something was chosen, and the code says so. They are strict where a provider may be: a call that works by
//! luck there does not work here. `docs/simulators.md` has the control API under `/_sim` and all faults.
//!
//! The same seed and the same calls in the same order bring the same ids. The clock begins where it is told, runs at a
//! speed, stands at 0 and can be advanced: expiry, refunds, limits and webhooks go by it, and by nothing else.
//!
//! Reading order: `world`, which never waits; `sending`, which moves it on and carries its webhooks out; `serve`, the
//! doors; `midtrans` and `xendit`, a noun a file; `control`, the world outside.

mod account;
mod bank;
mod call;
mod clock;
mod control;
mod deliveries;
mod faults;
mod ids;
mod midtrans;
mod picture;
mod qris;
mod requests;
mod sending;
mod serve;
mod world;
mod xendit;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use time::OffsetDateTime;
use tokio::net::TcpListener;

pub use account::{Account, MidtransAccount, Provider, Shop, XenditAccount};
use clock::{Clock, Moment};
use midtrans::Midtrans;
pub use midtrans::signature as midtrans_signature;
use sending::Shared;
use world::World;
use xendit::Xendit;

/// The most rupiah that anything here is about.
pub const AMOUNT_MAX: i64 = 999_999_999_999;

/// What to simulate, and where.
#[derive(Clone)]
pub struct Options {
    /// Port 0 is any.
    pub midtrans_listen: SocketAddr,
    pub xendit_listen: SocketAddr,
    /// More can be added at `/_sim/accounts`.
    pub midtrans: Vec<MidtransAccount>,
    pub xendit: Vec<XenditAccount>,
    /// How many seconds pass in one; 0 stands still.
    pub speed: f64,
    /// When it begins; now, unless it is said.
    pub start: Option<OffsetDateTime>,
    pub seed: u64,
    /// Calls a minute at each of Xendit's endpoints, in place of 60 in test mode and 600 live.
    pub xendit_rate_max: Option<u32>,
}

impl Default for Options {
    /// One account at each, with keys that are printed in the documents.
    fn default() -> Self {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            midtrans_listen: anywhere,
            xendit_listen: anywhere,
            midtrans: vec![MidtransAccount::default()],
            xendit: vec![XenditAccount::default()],
            speed: 1.0,
            start: None,
            seed: 1,
            xendit_rate_max: None,
        }
    }
}

/// Both, running. They end when this is dropped.
pub struct Simulators {
    /// Where each is bound.
    pub midtrans: SocketAddr,
    pub xendit: SocketAddr,
    shared: Arc<Shared>,
}

impl Simulators {
    /// # Errors
    /// If an account makes no sense, or a port cannot be had.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let of_midtrans = options.midtrans.iter().cloned().map(Account::Midtrans);
        let of_xendit = options.xendit.iter().cloned().map(Account::Xendit);
        for account in of_midtrans.chain(of_xendit) {
            account.check().map_err(|why| anyhow!("an account makes no sense: {why}"))?;
        }
        let listen = async |address: SocketAddr| {
            TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))
        };
        let (to_midtrans, to_xendit) = (listen(options.midtrans_listen).await?, listen(options.xendit_listen).await?);
        let (midtrans, xendit) = (reachable(to_midtrans.local_addr()?), reachable(to_xendit.local_addr()?));
        let start = options.start.map_or_else(Moment::of_the_machine, Moment::of);
        let world = World::new(
            Clock::new(start, options.speed),
            options.seed,
            Midtrans::new(format!("http://{midtrans}"), options.midtrans),
            Xendit::new(format!("http://{xendit}"), options.xendit, options.xendit_rate_max),
        );
        let shared = Arc::new(Shared::new(world)?);
        let control = control::router(shared.clone());
        for (provider, listener) in [(Provider::Midtrans, to_midtrans), (Provider::Xendit, to_xendit)] {
            shared.tasks.spawn(serve::serve(shared.clone(), provider, listener, control.clone()));
        }
        shared.tasks.spawn(shared.clone().keep_time());
        Ok(Self { midtrans, xendit, shared })
    }

    /// Without a slash at the end, as a base URL.
    pub fn midtrans_url(&self) -> String {
        format!("http://{}", self.midtrans)
    }

    pub fn xendit_url(&self) -> String {
        format!("http://{}", self.xendit)
    }

    /// The page that plays the customer's bank.
    pub fn bank_url(&self) -> String {
        format!("http://{}/_sim/bank", self.midtrans)
    }

    /// Ends every connection and every webhook that is under way.
    pub async fn stop(self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Drop for Simulators {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
    }
}

/// An address that a client on this machine can use.
fn reachable(bound: SocketAddr) -> SocketAddr {
    match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, bound.port())),
        _ => bound,
    }
}
