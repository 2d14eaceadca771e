//! Several nodes at one payment, and nodes that stop in the midst of a call: one effect, whoever comes last.

use std::ops::Deref;

use futures_util::future::join_all;
use nix::sys::signal::Signal;

use super::*;
use crate::support::process::{TillwireProcess, loopback};
use crate::support::services::free_port;
use crate::support::staged::knowing;

/// Two nodes of one hub, each a process.
pub(super) struct Pair {
    staged: Staged,
    pub nodes: [TillwireProcess; 2],
}

impl Deref for Pair {
    type Target = Staged;

    fn deref(&self) -> &Staged {
        &self.staged
    }
}

impl Pair {
    /// Notifications come to these nodes.
    async fn starts(notified: &[usize]) -> Self {
        Self::starts_as(notified, "info").await
    }

    /// The same, logging so much.
    pub async fn starts_as(notified: &[usize], log: &str) -> Self {
        let (providers, database) = Staged::outside().await;
        let (mut env, signer) = knowing(&providers, &database.url("tillwire_app"), &database.url("tillwire_feed"));
        env.insert("TILLWIRE_LOG", log.to_owned());
        let mut second = env.clone();
        for listener in ["TILLWIRE_LISTEN", "TILLWIRE_METRICS_LISTEN"] {
            second.insert(listener, loopback(free_port()).to_string());
        }
        let nodes = [TillwireProcess::start(&["serve"], &env).await, TillwireProcess::start(&["serve"], &second).await];
        let notified: Vec<SocketAddr> = notified.iter().map(|node| nodes[*node].public).collect();
        let staged = Staged::opens(providers, database, env, &signer, nodes[0].public, &notified).await;
        Self { staged, nodes }
    }

    /// What a provider was asked about a payment, of one kind, by whatever name.
    pub async fn asked(&self, operation: &str, payment: PaymentId) -> Vec<Value> {
        let names = format!(
            "select payment_id, request_there, payment_there from payment_attempts where payment_id = '{payment}'"
        );
        let names = self.database.psql(&names).await;
        let names: Vec<&str> = names.trim().split('|').filter(|name| !name.is_empty()).collect();
        let all = self.requests(operation).await.into_iter();
        all.filter(|it| names.iter().any(|name| it.to_string().contains(name))).collect()
    }

    /// Whether all that a provider has to tell of a payment was taken.
    async fn has_told(&self, payment: PaymentId) -> bool {
        let answer = self.shows(&format!("deliveries?payment={payment}")).await;
        let all = answer["deliveries"].as_array().expect("deliveries");
        !all.is_empty() && all.iter().all(|it| it["state"] == "delivered")
    }

    /// Asks for a payment at the first node.
    pub async fn asks(&self, sale: SaleId, payment: PaymentId, provider: &str) -> Value {
        let body = json!({ "id": payment, "method": "qris", "provider": provider, "mode": "test" });
        let path = format!("/v1/sales/{sale}/payments");
        self.till.post(&payment.to_string(), &path, &body).await.expect("an answer").created()
    }

    /// Nobody is at it, nor is to be at once.
    async fn is_free(&self, payment: PaymentId) {
        let free = format!(
            "select count(*) from payment_attempts
             where payment_id = '{payment}' and not prompted and coalesce(leased_until, '-infinity') <= now()"
        );
        until(async || (self.database.psql(&free).await.trim() == "1").then_some(())).await;
    }

    /// Nobody is at it any more, nor is to be.
    async fn is_left(&self, payment: PaymentId) {
        let left = format!(
            "select count(*) from payment_attempts
             where payment_id = '{payment}' and next_at is null and coalesce(leased_until, '-infinity') <= now()"
        );
        until(async || (self.database.psql(&left).await.trim() == "1").then_some(())).await;
    }

    /// Everything is done once, and nobody has to look at anything.
    async fn adds_up(&self) {
        adds_up(&self.database).await;
        let found = self.database.psql("select string_agg(kind || ': ' || detail, ' ') from payment_tasks").await;
        assert_eq!(found.trim(), "", "nobody is wanted");
    }
}

#[tokio::test]
async fn a_notification_at_two_nodes_at_once_is_one_payment_and_neither_asks_beside_the_other() {
    let pair = Pair::starts(&[0, 1]).await;
    let began = Instant::now();
    // One of each that nobody pays for a while.
    let waiting = [PaymentId::new(), PaymentId::new()];
    for (payment, provider) in waiting.iter().zip(["midtrans", "xendit"]) {
        let sale = pair.opens_sale("1").await;
        pair.asks(sale, *payment, provider).await;
    }
    for provider in ["midtrans", "xendit"].repeat(3) {
        let (sale, payment) = (pair.opens_sale("1").await, PaymentId::new());
        assert_eq!(pair.asks(sale, payment, provider).await["state"], "pending");
        let more = json!({ "fault": "duplicate", "payment": payment, "n": 3, "concurrent": true });
        pair.says("faults", more).await;
        pair.says("pay", json!({ "id": payment })).await;
        pair.comes_to(payment, "paid").await;
        pair.is_left(payment).await;
        let asked = pair.asked(if provider == "midtrans" { "status" } else { "get_payment" }, payment).await.len();
        assert!((1..=5).contains(&asked), "eight notifications, and {provider} was asked {asked} times");
    }
    tokio::time::sleep(Duration::from_secs(21).saturating_sub(began.elapsed())).await;
    // Every ten seconds, and when Midtrans has told that it can be paid, at each node.
    let asked = pair.asked("status", waiting[0]).await.len();
    let most = usize::try_from(began.elapsed().as_secs() / 10).unwrap() + 2;
    println!("two nodes: midtrans was asked {asked} times in {:?} for a payment that waits", began.elapsed());
    assert!((1..=most).contains(&asked), "{asked} times in {:?}", began.elapsed());
    for payment in waiting {
        pair.says("pay", json!({ "id": payment })).await;
        pair.comes_to(payment, "paid").await;
    }
    pair.adds_up().await;
}

/// The first node asks, is stopped before it hears the answer, and goes on when another has long taken over.
#[tokio::test]
async fn what_a_node_hears_when_its_lease_is_long_over_takes_nothing_back() {
    let pair = Pair::starts(&[1]).await;
    let [first, second] = &pair.nodes;
    for (provider, operation) in
        [("midtrans", "status"), ("midtrans", "cancel"), ("xendit", "get"), ("xendit", "cancel")]
    {
        let (sale, payment) = (pair.opens_sale("1").await, PaymentId::new());
        assert_eq!(pair.asks(sale, payment, provider).await["state"], "pending");
        let one = format!("/v1/payments/{payment}");
        // That it can be paid one of them tells, and it is looked at.
        if provider == "midtrans" {
            until(async || pair.has_told(payment).await.then_some(())).await;
        }
        pair.is_free(payment).await;
        let slow = json!({ "fault": "slow_s", "provider": provider, "on": operation, "seconds": 8 });
        pair.says("faults", slow).await;
        second.signal(Signal::SIGSTOP);
        let asking = async {
            let key = format!("{operation}-{payment}");
            match operation {
                "cancel" => pair.till.post(&key, &format!("{one}/cancel"), &json!({})).await.expect("an answer"),
                _ => pair.till.get(&format!("{one}?ask=true")).await,
            }
        };
        let stopping = async {
            let asks = async || pair.requests(&format!("{operation}&provider={provider}")).await.pop();
            let last = async |is_answered: bool| {
                let last = asks().await?;
                let is_slow = last["faults"].as_array().is_some_and(|faults| !faults.is_empty());
                (is_slow && last["status"].is_number() == is_answered).then_some(())
            };
            until(async || last(false).await).await;
            first.signal(Signal::SIGSTOP);
            second.signal(Signal::SIGCONT);
            until(async || last(true).await).await;
            // It has been answered by now, and hears nothing. The customer pays, and the other node is told.
            pair.says("pay", json!({ "id": payment, "late": true })).await;
            until(async || pair.has_told(payment).await.then_some(())).await;
            assert_eq!(pair.state_of(payment).await, "pending", "it is the first one's still");
            pair.leases_end().await;
            pair.comes_to(payment, "paid").await;
            first.signal(Signal::SIGCONT);
        };
        let (found, ()) = tokio::join!(asking, stopping);
        assert_eq!(found.ok()["state"], "paid", "{provider} {operation}");
        pair.is_left(payment).await;
        assert_eq!(pair.state_of(payment).await, "paid", "{provider} {operation}");
        assert_eq!(pair.sale_is(sale).await, "completed", "{provider} {operation}");
    }
    pair.adds_up().await;
}

/// The same where the first node asks for the payment itself.
#[tokio::test]
async fn a_payment_is_asked_for_once_although_whoever_asked_was_stopped_and_another_went_on() {
    let pair = Pair::starts(&[1]).await;
    let first = &pair.nodes[0];
    for (provider, charge) in [("xendit", "create"), ("midtrans", "charge")] {
        let (sale, payment) = (pair.opens_sale("1").await, PaymentId::new());
        let slow = json!({ "fault": "slow_s", "provider": provider, "on": charge, "seconds": 8 });
        pair.says("faults", slow).await;
        let stopping = async {
            until(async || (pair.asked(charge, payment).await.len() == 1).then_some(())).await;
            first.signal(Signal::SIGSTOP);
            let answered = async || pair.asked(charge, payment).await[0]["status"].is_number();
            until(async || answered().await.then_some(())).await;
            pair.leases_end().await;
            // Midtrans tells its code no second time: nobody could pay, and it is called off.
            pair.comes_to(payment, if provider == "xendit" { "pending" } else { "canceled" }).await;
            first.signal(Signal::SIGCONT);
        };
        let (found, ()) = tokio::join!(pair.asks(sale, payment, provider), stopping);
        assert_eq!(pair.asked(charge, payment).await.len(), 1, "{provider}");
        if provider == "xendit" {
            assert!(found["shown"]["text"].is_string(), "{found}");
            pair.says("pay", json!({ "id": payment })).await;
            pair.comes_to(payment, "paid").await;
        } else {
            assert_eq!(pair.state_of(payment).await, "canceled");
            let payment = PaymentId::new();
            assert_eq!(pair.asks(sale, payment, provider).await["state"], "pending");
            pair.says("pay", json!({ "id": payment })).await;
            pair.comes_to(payment, "paid").await;
        }
    }
    pair.adds_up().await;
}

/// Whoever asks how it stands may be at the payment just then; whoever wants it to be called off waits until it is.
#[tokio::test]
async fn whoever_calls_a_payment_off_hears_that_it_is_although_others_are_at_it() {
    let stage = Stage::with(Market::opens().await, "50").await;
    let (_, shop, bread) = stage.cast();
    for provider in ["midtrans", "xendit"].repeat(6) {
        let sale = opens(&shop, bread).await;
        let payment = asks(&shop, &sale, qris(provider)).await.created();
        let one = format!("/v1/payments/{}", payment["id"].as_str().unwrap());
        let (check, cancel) = (format!("{one}?ask=true"), format!("{one}/cancel"));
        let checking = join_all((0..3).map(|_| shop.get(&check)));
        let (canceled, checked) = tokio::join!(shop.post(&cancel, json!({})), checking);
        assert!(checked.iter().all(|it| it.status == 200));
        assert_eq!(canceled.ok()["state"], "canceled", "{provider}");
    }
    assert!(tasks(&shop).await.is_empty());
}

#[tokio::test]
async fn a_provider_that_is_down_when_it_tells_of_a_payment_is_asked_later() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for on in ["status", "get", "get_payment"] {
        market.says("faults", json!({ "fault": "reset", "on": on, "times": 1 })).await;
    }
    let paying = ["midtrans", "xendit"].map(|provider| {
        let shop = &shop;
        async move {
            let sale = opens(shop, bread).await;
            let payment = asks(shop, &sale, qris(provider)).await.created();
            market.pays(&payment).await;
            // Ten seconds after each time that it was down.
            let now = format!("/v1/payments/{}", payment["id"].as_str().unwrap());
            until(async || (shop.get(&now).await.ok()["state"] == "paid").then_some(())).await;
            assert_eq!(sale_of(shop, &sale).await["state"], "completed");
        }
    });
    join_all(paying).await;
    for provider in ["midtrans", "xendit"] {
        let requests = market.requests(provider).await;
        assert!(requests.iter().any(|it| it["faults"] == json!(["reset"])), "{provider} was there all the time");
    }
    assert!(tasks(&shop).await.is_empty());
}
