//! Several nodes at one payment, and nodes that stop in the midst of a call: one effect, whoever comes last.

use futures_util::future::join_all;
use nix::sys::signal::Signal;

use super::*;
use crate::support::process::loopback;
use crate::support::services::free_port;

/// Two nodes of one hub, each a process, and the providers of their only merchant.
pub(super) struct Pair {
    pub providers: Simulators,
    pub database: Database,
    pub nodes: [TillwireProcess; 2],
    pub till: Till,
}

impl Pair {
    /// Notifications come to these nodes.
    async fn starts(notified: &[usize]) -> Self {
        Self::starts_as(notified, "info").await
    }

    /// The same, logging so much.
    pub async fn starts_as(notified: &[usize], log: &str) -> Self {
        let providers = Simulators::start(Options::default()).await.expect("providers");
        let database = Postgres::shared().await.database(async |url| tillwire::schema::up(&url).await.unwrap()).await;
        let (mut env, signer) = environment(&database.url("tillwire_app"), &database.url("tillwire_feed"));
        env.insert("TILLWIRE_VAULT_KEY_FILE", vault::key().display().to_string());
        env.insert("TILLWIRE_MIDTRANS_TEST_URL", providers.midtrans_url());
        env.insert("TILLWIRE_XENDIT_TEST_URL", providers.xendit_url());
        env.insert("TILLWIRE_LOG", log.to_owned());
        let mut second = env.clone();
        for listener in ["TILLWIRE_LISTEN", "TILLWIRE_METRICS_LISTEN"] {
            second.insert(listener, loopback(free_port()).to_string());
        }
        let nodes = [TillwireProcess::start(&["serve"], &env).await, TillwireProcess::start(&["serve"], &second).await];
        let till = Till::open(nodes[0].public, &signer, 100).await;
        let pair = Self { providers, database, nodes, till };
        for (provider, name, there, credentials) in [
            ("midtrans", "merchant_id", MIDTRANS_ID, vault::midtrans(MIDTRANS_ID, MIDTRANS_KEY)),
            ("xendit", "business_id", XENDIT_ID, vault::xendit(XENDIT_ID, XENDIT_KEY, &[XENDIT_TOKEN])),
        ] {
            let account = json!({ "credentials": credentials, "mode": "test" });
            let account =
                pair.till.post(provider, "/v1/provider-accounts", &account).await.expect("an answer").created();
            let path = account["webhook_path"].as_str().expect("a path");
            let urls: Vec<String> =
                notified.iter().map(|node| format!("http://{}{path}", pair.nodes[*node].public)).collect();
            pair.says("accounts", json!({ "provider": provider, name: there, "webhook_urls": urls })).await;
        }
        pair
    }

    pub async fn says(&self, what: &str, order: Value) {
        let headers = [("content-type", "application/json")];
        let body = order.to_string().into_bytes();
        request(self.providers.midtrans, "POST", &format!("/_sim/{what}"), &headers, body)
            .await
            .expect("an answer")
            .ok();
    }

    /// What a provider was asked about a payment, of one kind, by whatever name.
    pub async fn asked(&self, operation: &str, payment: PaymentId) -> Vec<Value> {
        let path = format!("/_sim/requests?operation={operation}");
        let answer = request(self.providers.midtrans, "GET", &path, &[], vec![]).await.expect("an answer").ok();
        let names = format!(
            "select payment_id, request_there, payment_there from payment_attempts where payment_id = '{payment}'"
        );
        let names = self.database.psql(&names).await;
        let names: Vec<&str> = names.trim().split('|').filter(|name| !name.is_empty()).collect();
        let all = answer["requests"].as_array().expect("requests").iter();
        all.filter(|it| names.iter().any(|name| it.to_string().contains(name))).cloned().collect()
    }

    /// Whether all that a provider has to tell of a payment was taken.
    async fn has_told(&self, payment: PaymentId) -> bool {
        let path = format!("/_sim/deliveries?payment={payment}");
        let answer = request(self.providers.midtrans, "GET", &path, &[], vec![]).await.expect("an answer").ok();
        let all = answer["deliveries"].as_array().expect("deliveries");
        !all.is_empty() && all.iter().all(|it| it["state"] == "delivered")
    }

    /// An open sale at the first node.
    pub async fn opens(&self) -> SaleId {
        let sale = SaleId::new();
        let open = json!({ "id": sale, "register": self.till.register, "open": true,
                           "lines": [{ "variant": self.till.variant, "quantity": "1" }] });
        self.till.post(&sale.to_string(), &self.till.sales(), &open).await.expect("an answer").created();
        sale
    }

    /// Asks for a payment at the first node.
    pub async fn asks(&self, sale: SaleId, payment: PaymentId, provider: &str) -> Value {
        let body = json!({ "id": payment, "method": "qris", "provider": provider, "mode": "test" });
        let path = format!("/v1/sales/{sale}/payments");
        self.till.post(&payment.to_string(), &path, &body).await.expect("an answer").created()
    }

    async fn state(&self, payment: PaymentId) -> String {
        let state = format!("select state from payment_attempts where payment_id = '{payment}'");
        self.database.psql(&state).await.trim().to_owned()
    }

    pub async fn comes_to(&self, payment: PaymentId, state: &str) {
        let started = Instant::now();
        while self.state(payment).await != state {
            let found = self.state(payment).await;
            assert!(started.elapsed() < PATIENCE, "it does not come to {state}, but is {found}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whoever holds a payment has had half a minute.
    async fn leases_end(&self) {
        self.database.psql("update payment_attempts set leased_until = now() where leased_until is not null").await;
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
    // One of each that nobody pays for a while.
    let waiting = [PaymentId::new(), PaymentId::new()];
    for (payment, provider) in waiting.iter().zip(["midtrans", "xendit"]) {
        let sale = pair.opens().await;
        pair.asks(sale, *payment, provider).await;
    }
    let began = Instant::now();
    for provider in ["midtrans", "xendit"].repeat(3) {
        let (sale, payment) = (pair.opens().await, PaymentId::new());
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
    let most = usize::try_from(began.elapsed().as_secs() / 10).unwrap() + 2;
    let asked = pair.asked("status", waiting[0]).await.len();
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
    let first = &pair.nodes[0];
    for (provider, operation) in
        [("midtrans", "status"), ("midtrans", "cancel"), ("xendit", "get"), ("xendit", "cancel")]
    {
        let (sale, payment) = (pair.opens().await, PaymentId::new());
        assert_eq!(pair.asks(sale, payment, provider).await["state"], "pending");
        let one = format!("/v1/payments/{payment}");
        let slow = json!({ "fault": "slow_s", "provider": provider, "on": operation, "seconds": 0.5 });
        pair.says("faults", slow).await;
        let asking = async {
            let key = format!("{operation}-{payment}");
            match operation {
                "cancel" => pair.till.post(&key, &format!("{one}/cancel"), &json!({})).await.expect("an answer"),
                _ => pair.till.get(&format!("{one}?ask=true")).await,
            }
        };
        let stopping = async {
            let asks = async || {
                let path = format!("/_sim/requests?provider={provider}&operation={operation}");
                let all = request(pair.providers.midtrans, "GET", &path, &[], vec![]).await.expect("an answer").ok();
                all["requests"].as_array().expect("requests").last().cloned()
            };
            let last = async |is_answered: bool| {
                let last = asks().await?;
                let is_slow = last["faults"].as_array().is_some_and(|faults| !faults.is_empty());
                (is_slow && last["status"].is_number() == is_answered).then_some(())
            };
            until(async || last(false).await).await;
            first.signal(Signal::SIGSTOP);
            until(async || last(true).await).await;
            // It has been answered by now, and hears nothing. The customer pays, and the other node is told.
            pair.says("pay", json!({ "id": payment, "late": true })).await;
            until(async || pair.has_told(payment).await.then_some(())).await;
            assert_eq!(pair.state(payment).await, "pending", "it is the first one's still");
            pair.leases_end().await;
            pair.comes_to(payment, "paid").await;
            first.signal(Signal::SIGCONT);
        };
        let (found, ()) = tokio::join!(asking, stopping);
        assert_eq!(found.ok()["state"], "paid", "{provider} {operation}");
        pair.is_left(payment).await;
        assert_eq!(pair.state(payment).await, "paid", "{provider} {operation}");
        let sale = pair.database.psql(&format!("select state from sales where sale_id = '{sale}'")).await;
        assert_eq!(sale.trim(), "completed", "{provider} {operation}");
    }
    pair.adds_up().await;
}

/// The same where the first node asks for the payment itself.
#[tokio::test]
async fn a_payment_is_asked_for_once_although_whoever_asked_was_stopped_and_another_went_on() {
    let pair = Pair::starts(&[1]).await;
    let first = &pair.nodes[0];
    for (provider, charge) in [("xendit", "create"), ("midtrans", "charge")] {
        let (sale, payment) = (pair.opens().await, PaymentId::new());
        let slow = json!({ "fault": "slow_s", "provider": provider, "on": charge, "seconds": 0.5 });
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
            assert_eq!(pair.state(payment).await, "canceled");
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
            comes_to(shop, &payment, "paid").await;
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
