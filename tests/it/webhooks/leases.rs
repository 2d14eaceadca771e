//! Leases of endpoints and redeliveries, taken and written by hand: what a worker may write twice, and what clocks may do.

use futures_util::FutureExt as _;
use sqlx::PgPool;
use tillwire::journal::{Journal, pool};
use tillwire::webhooks::attempts::{Answer, Attempted};
use tillwire::webhooks::leases::{self as endpoints, GivenUp};
use tillwire::webhooks::message::Message;
use tillwire::webhooks::redeliveries::leases as redeliveries;
use tillwire_channels::{EndpointId, Moment, Position};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::super::support::vault;
use super::*;

/// A merchant with a webhook that nobody serves and that has two sales to be told, and with a redelivery of both.
struct Alone<'a> {
    owner: Owner<'a>,
    sales: [Position; 2],
    endpoint: endpoints::Due,
    redelivery: redeliveries::Due,
}

impl<'a> Alone<'a> {
    async fn on(hub: &'a TestHub) -> Self {
        let owner = Owner::at(hub, hub.address, "Toko Roti").await;
        let added = owner.asks("POST", "/v1/webhooks", json!({ "url": "https://hooks.example/" })).await.created();
        let sales = [owner.sells().await, owner.sells().await];
        let path = format!("/v1/webhooks/{}/redeliveries", added["id"].as_str().unwrap());
        let again = owner.asks("POST", &path, json!({ "from": sales[0], "to": sales[1] })).await.created();
        let uuid = |view: &Value| view["id"].as_str().unwrap().parse::<Uuid>().unwrap();
        let (merchant, endpoint) = (owner.shop.merchant, EndpointId(uuid(&added)));
        Self {
            owner,
            sales: sales.map(|sale| sale.parse().unwrap()),
            endpoint: endpoints::Due { merchant, endpoint },
            redelivery: redeliveries::Due { merchant, endpoint, redelivery: uuid(&again) },
        }
    }

    fn app(&self) -> &PgPool {
        &self.owner.shop.hub.pools.app
    }

    async fn psql(&self, sql: &str) -> String {
        self.owner.shop.hub.database.psql(sql).await.trim().to_owned()
    }

    /// How many attempts were taken down.
    async fn attempts(&self) -> usize {
        self.psql("select count(*) from webhook_attempts").await.parse().unwrap()
    }

    async fn endpoint(&self) -> endpoints::Held {
        self.psql("update webhook_endpoints set next_at = null").await;
        endpoints::take(self.app(), &vault::with(&[]), self.endpoint).await.unwrap().expect("it is free")
    }

    async fn redelivery(&self) -> redeliveries::Held {
        self.psql("update webhook_redeliveries set next_at = null").await;
        redeliveries::take(self.app(), &vault::with(&[]), self.redelivery).await.unwrap().expect("it is free")
    }
}

fn answered(code: u16) -> Attempted {
    let answer = Answer::Status { code, body: String::new(), retry_after: None };
    Attempted::new(Moment::now_utc(), Duration::from_millis(5), answer)
}

fn message() -> Message {
    Message { id: "evt_1".to_owned(), position: None, kind: "sale.completed".to_owned(), body: "{}".to_owned() }
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn what_an_endpoint_came_to_is_written_once_however_often_it_is_tried() {
    let hub = TestHub::start().await;
    let alone = Alone::on(&hub).await;
    let app = alone.app();
    let stands = "select attempts || ' ' || seq || ' ' || state from webhook_endpoints";
    let [first, second] = alone.sales;

    let (held, attempted) = (alone.endpoint().await, answered(500));
    assert!(endpoints::later(app, &held, &message(), &attempted, HOUR).await.unwrap());
    let waits = alone.psql("select webhook_endpoints from webhook_endpoints").await;
    assert!(endpoints::later(app, &held, &message(), &attempted, HOUR).await.unwrap());
    assert_eq!(alone.psql("select webhook_endpoints from webhook_endpoints").await, waits);
    assert_eq!(alone.attempts().await, 1);

    let (held, attempted) = (alone.endpoint().await, answered(200));
    assert_eq!(held.attempts, 1);
    for _ in 0..2 {
        assert!(endpoints::delivered(app, &held, &message(), &attempted, first).await.unwrap());
    }
    assert_eq!((alone.psql(stands).await, alone.attempts().await), (format!("0 {} enabled", first.seq), 2));
    // What was lost is not taken for ours, whatever was written; nor is it moved.
    assert!(endpoints::delivered(app, &held, &message(), &answered(200), second).await.unwrap());
    alone.psql("update webhook_endpoints set lease = gen_random_uuid(), leased_until = now()").await;
    assert!(!endpoints::delivered(app, &held, &message(), &attempted, first).await.unwrap());
    assert!(!endpoints::delivered(app, &held, &message(), &answered(200), first).await.unwrap());
    assert_eq!((alone.psql(stands).await, alone.attempts().await), (format!("0 {} enabled", second.seq), 4));

    let given_up = GivenUp { held: alone.endpoint().await, message: message(), attempted: answered(410), why: "gone" };
    let (announce, _heard) = mpsc::channel(8);
    let journal = Journal::new(hub.pools.clone(), announce, TaskTracker::new());
    for _ in 0..2 {
        let given_up = given_up.clone();
        let disable = journal.act(alone.endpoint.merchant, move |tx| endpoints::disabled(tx, given_up.clone()).boxed());
        assert!(disable.await.unwrap());
    }
    assert_eq!((alone.psql(stands).await, alone.attempts().await), (format!("1 {} disabled", second.seq), 5));
    assert_eq!(alone.owner.journal_after(0, &["alert.raised"]).await.len(), 1);
}

#[tokio::test]
async fn what_a_redelivery_came_to_is_written_once_however_often_it_is_tried() {
    let hub = TestHub::start().await;
    let alone = Alone::on(&hub).await;
    let app = alone.app();
    let stands = "select attempts || ' ' || delivered || ' ' || state from webhook_redeliveries";
    let [first, second] = alone.sales;

    let (held, attempted) = (alone.redelivery().await, answered(500));
    for _ in 0..2 {
        assert!(redeliveries::later(app, &held, &message(), &attempted, HOUR).await.unwrap());
    }
    assert_eq!((alone.psql(stands).await, alone.attempts().await), ("1 0 running".to_owned(), 1));
    // Also where it comes to its end by that.
    let held = alone.redelivery().await;
    for (to, expected, attempts) in [(first, "0 1 running", 2), (second, "0 2 done", 3)] {
        let attempted = answered(200);
        for _ in 0..2 {
            assert!(redeliveries::delivered(app, &held, &message(), &attempted, to).await.unwrap());
        }
        assert_eq!((alone.psql(stands).await, alone.attempts().await), (expected.to_owned(), attempts));
    }

    alone.psql("update webhook_redeliveries set state = 'running', ended_at = null, leased_until = now()").await;
    let (held, attempted, message) = (alone.redelivery().await, answered(410), message());
    for _ in 0..2 {
        assert!(redeliveries::failed(app, &held, Some((&message, &attempted)), "gone").await.unwrap());
    }
    assert_eq!((alone.psql(stands).await, alone.attempts().await), ("1 2 failed".to_owned(), 4));
}

#[tokio::test]
async fn a_lease_of_a_clock_that_was_far_ahead_is_nobodys() {
    let hub = TestHub::start().await;
    let alone = Alone::on(&hub).await;
    let relay = pool::open(&hub.database.url("tillwire_relay"), 1).unwrap();
    let (first, again) = (alone.endpoint().await, alone.redelivery().await);
    let is_due = async || {
        let endpoints = endpoints::due(&relay, None, &[], 8, 8).await.unwrap();
        let redeliveries = redeliveries::due(&relay, None, &[], 8, 8).await.unwrap();
        (endpoints == [alone.endpoint], redeliveries == [alone.redelivery])
    };
    for (ahead, is_free) in [("100 seconds", false), ("1 day", true)] {
        for table in ["webhook_endpoints", "webhook_redeliveries"] {
            alone.psql(&format!("update {table} set leased_until = now() + interval '{ahead}'")).await;
        }
        assert_eq!(is_due().await, (is_free, is_free), "{ahead}");
        let endpoint = endpoints::take(alone.app(), &vault::with(&[]), alone.endpoint).await.unwrap();
        let redelivery = redeliveries::take(alone.app(), &vault::with(&[]), alone.redelivery).await.unwrap();
        assert_eq!((endpoint.is_some(), redelivery.is_some()), (is_free, is_free), "{ahead}");
    }
    // Whoever had it has lost it.
    assert!(!endpoints::passed(alone.app(), &first).await.unwrap());
    assert!(!redeliveries::passed(alone.app(), &again).await.unwrap());
    assert_eq!(is_due().await, (false, false));
}
