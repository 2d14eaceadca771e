//! The demo: a made-up merchant with five outlets, whose tills ring up a year of real baskets, again and again.
//!
//! It is a client like any other: all that it does to the hub it does over HTTP, with tokens and keys. It never looks
//! into the database, the journal or commerce, and knows its hub by an address.

mod api;
mod data;
mod link;
mod pace;
mod payments;
mod prices;
mod progress;
mod replay;
mod setup;
mod shelves;
mod shop;
mod till;
mod year;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio_util::sync::CancellationToken;

use crate::identity::tokens::Signer;
pub use pace::Pace;
pub use payments::Simulators;

use api::Api;
use link::Links;
use progress::{Tally, Terminal};
use replay::Replay;
use shop::Shop;
use year::Year;

/// Opens the shop on this hub if it is not open yet, prints the link, and sells until it is told to stop. `baskets`
/// keeps to the first so many of the year, and to the products in them. With `simulators` of payment providers there is a till
/// for a person besides.
pub async fn run(
    listens: SocketAddr,
    signer: Signer,
    pace: Pace,
    baskets: Option<usize>,
    simulators: Simulators,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let hub = reachable(listens);
    let (api, shop, terminal) = (Api::new(hub, signer), Shop::new(baskets), Terminal::new());
    let year = tokio::task::spawn_blocking(move || Year::read(baskets)).await??;
    let tally = Tally::default();
    let work = async {
        let last = replay::last_sold(&api, &shop).await?;
        if last.is_none() {
            setup::open(&api, &shop, &year, &terminal).await?;
        }
        let links = Links::new(&api, &shop, hub, simulators, &terminal).await;
        let replay = Replay::after(last, &api, &shop, &year);
        tokio::select! {
            () = replay.run(pace, &tally) => Ok(()),
            () = progress::watch(&tally, &terminal) => Ok(()),
            printed = links.print() => printed,
        }
    };
    // What is under way when we are told to stop is cut off; its key settles it at the next start.
    match stop.run_until_cancelled(work).await {
        Some(outcome) => outcome,
        None => {
            terminal.close();
            terminal.say("Stopping …");
            Ok(())
        }
    }
}

/// Where a listener on every address is reached from here.
fn reachable(listens: SocketAddr) -> SocketAddr {
    let ip = match listens.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listens.port())
}
