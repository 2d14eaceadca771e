//! The replay: basket after basket, on and on, each rung up once whatever is killed meanwhile.
//!
//! INVARIANT: where it stands is read from the hub and kept nowhere else. A basket's sale carries a key and a receipt
//! number that say which one it is, so the hub itself refuses to have it twice.

use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use super::api::{Api, Failure};
use super::pace::Pace;
use super::progress::Tally;
use super::setup::receive;
use super::shelves::{Load, Shelves};
use super::shop::{OUTLETS, Shop, Who};
use super::till::{self, Number};
use super::year::{Basket, Year};

/// How many sales are looked at in one request, and how many pages of them, to find the demo's own among those that
/// others made at an outlet.
const SALES_PAGE: usize = 200;
const PAGES_MAX: usize = 50;
/// How often a basket's stock is brought because somebody else bought it meanwhile.
const RUSHES_MAX: u32 = 5;
/// How long a hub that does not answer is left alone.
const TROUBLE_PAUSE: Duration = Duration::from_secs(2);
/// How far the replay may lag behind its pace before it lets the rest go.
const LAG_MAX: Duration = Duration::from_secs(2);
/// As long as the runtime can wait: a year or so.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// The last basket that was sold by an earlier run. None if there is none, or no shop yet.
pub async fn last_sold(api: &Api, shop: &Shop) -> anyhow::Result<Option<Number>> {
    let mut last = None;
    for outlet in 0..OUTLETS.len() {
        last = last.max(last_sold_at(api, shop, outlet).await.context("looking for the last sale")?);
    }
    Ok(last)
}

async fn last_sold_at(api: &Api, shop: &Shop, outlet: usize) -> Result<Option<Number>, Failure> {
    let sales = format!("/v1/outlets/{}/sales?limit={SALES_PAGE}", shop.outlet(outlet));
    let mut path = sales.clone();
    for _ in 0..PAGES_MAX {
        let page = match api.get(&shop.bearer(Who::Owner), &path).await {
            Err(failure) if failure.is("not_found") => return Ok(None),
            page => page?,
        };
        let items = page["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        // The newest come first, and the demo sells in order. It opens no sales: an open one, or one that came to nothing, is
        // somebody else's, whatever its number.
        let mut sold = items.iter().filter(|sale| sale["state"] == "completed");
        let own = sold.find_map(|sale| Number::of_receipt(sale["number"].as_str()?));
        match (own, page["next_cursor"].as_str()) {
            (None, Some(cursor)) => path = format!("{sales}&cursor={cursor}"),
            (own, _) => return Ok(own),
        }
    }
    Ok(None) // Beginning anew is slow, and right as well: the hub knows each sale.
}

/// Where a replay goes on.
pub struct Replay<'a> {
    api: &'a Api,
    shop: &'a Shop,
    year: &'a Year,
    shelves: Shelves,
    next: Number,
}

impl<'a> Replay<'a> {
    pub fn after(last: Option<Number>, api: &'a Api, shop: &'a Shop, year: &'a Year) -> Self {
        let mut replay = Self { api, shop, year, shelves: Shelves::full(year), next: Number::FIRST };
        // The shelves are as the baskets left them that were sold already.
        while last.is_some_and(|last| replay.next <= last) {
            replay.shelves.deliver(replay.basket());
            replay.shelves.take(replay.basket());
            replay.next = replay.next.next(year.baskets.len());
        }
        replay
    }

    fn basket(&self) -> &'a Basket {
        &self.year.baskets[self.next.basket - 1]
    }

    /// Sells at this pace, until it is dropped.
    pub async fn run(mut self, pace: Pace, tally: &Tally) {
        let mut due = Instant::now();
        loop {
            due += pace.before(self.year, self.next).min(WAIT_MAX);
            sleep_until(due).await;
            // What a moment held up is caught up on, and what a hub that was away held up is not.
            if due.elapsed() > LAG_MAX {
                due = Instant::now();
            }
            let load = self.shelves.deliver(self.basket());
            self.sell(load, tally).await;
            self.shelves.take(self.basket());
            self.next = self.next.next(self.year.baskets.len());
        }
    }

    /// Sells the next basket, after what it needs has been brought. Goes on until that is settled.
    async fn sell(&self, load: Load, tally: &Tally) {
        loop {
            match self.try_to_sell(&load, tally).await {
                Ok(()) => return tally.sold(self.next, self.basket()),
                Err(failure @ Failure::Refused { .. }) => {
                    warn!(receipt = self.receipt(), "The hub refused a sale, which is left out: {failure}");
                    return tally.failed();
                }
                Err(failure @ Failure::Unsettled(_)) => {
                    warn!(receipt = self.receipt(), "The hub does not answer; the sale is tried again: {failure}");
                    tally.failed();
                    sleep(TROUBLE_PAUSE).await;
                }
            }
        }
    }

    async fn try_to_sell(&self, load: &Load, tally: &Tally) -> Result<(), Failure> {
        let (basket, receipt) = (self.basket(), self.receipt());
        if !load.is_empty() {
            self.receive(&format!("delivery-{receipt}"), load).await?;
            tally.delivered();
        }
        for rush in 0.. {
            match self.complete(&receipt).await {
                Err(failure) if failure.is("out_of_stock") && rush < RUSHES_MAX => {
                    // Somebody else sold from these shelves. A rush that was brought before a crash changes nothing
                    // when it is asked for again, and then the next one does.
                    let wanted: Load = basket.lines.iter().map(|line| (line.product, line.quantity)).collect();
                    self.receive(&format!("rush-{rush}-{receipt}"), &wanted).await?;
                    tally.delivered();
                }
                Err(failure) if failure.is_done_already() => return Ok(()),
                settled => return settled,
            }
        }
        unreachable!("the last rush answers")
    }

    async fn receive(&self, key: &str, load: &Load) -> Result<(), Failure> {
        receive(self.api, self.shop, self.year, self.basket().outlet, key, load).await
    }

    async fn complete(&self, receipt: &str) -> Result<(), Failure> {
        let outlet = self.basket().outlet;
        let cashier = self.shop.bearer(Who::Cashier(outlet, self.next.register()));
        let path = format!("/v1/outlets/{}/sales", self.shop.outlet(outlet));
        let body = till::sale(self.shop, self.year, self.next, self.basket());
        self.api.post(&cashier, &path, receipt, &body).await.map(|_| ())
    }

    fn receipt(&self) -> String {
        self.next.receipt(self.basket().outlet)
    }
}
