//! Payment providers of a test's own, and a shop with accounts at them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tillwire_channels::{MerchantId, OutletId, RegisterId};
use tillwire_simulators::{Options, Simulators};

use super::caller::Caller;
use super::hub::{Shop, TestHub, request};
use super::vault;

/// How long something may take that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// The keys that simulators have without being told.
pub const MIDTRANS_KEY: &str = "EXAMPLEKEY1234567890ab";
pub const MIDTRANS_ID: &str = "G552010987";
pub const XENDIT_KEY: &str = "EXAMPLEKEY1234567890";
pub const XENDIT_ID: &str = "64f0c1d2e3a4b5c6d7e8f901";
pub const XENDIT_TOKEN: &str = "EXAMPLE-callback-token-1234567890";

/// A market with one shop, which has ten loaves at 48,500: where most stories of payments begin.
pub struct Stage {
    pub market: Market,
    merchant: MerchantId,
    outlet: OutletId,
    register: RegisterId,
    owner: String,
    bread: String,
}

impl Stage {
    pub async fn opens() -> Self {
        Self::with(Market::opens().await, "10").await
    }

    /// The same in a market of one's own, with so many loaves.
    pub async fn with(market: Market, loaves: &str) -> Self {
        let shop = market.shop("Toko Roti").await;
        let bread = shop.stocked("roti", 48_500, loaves).await;
        let Shop { merchant, outlet, register, owner, .. } = shop;
        Self { market, merchant, outlet, register, owner, bread }
    }

    /// Who plays: the market, the shop, and a loaf of its bread.
    pub fn cast(&self) -> (&Market, Shop<'_>, &str) {
        let Self { market, merchant, outlet, register, owner, bread } = self;
        let (merchant, outlet, register, owner) = (*merchant, *outlet, *register, owner.clone());
        (market, Shop { hub: &market.hub, merchant, outlet, register, owner }, bread)
    }
}

/// Both providers, and a hub that knows them.
pub struct Market {
    pub hub: TestHub,
    pub providers: Simulators,
    /// The flag of its vault key, for further nodes.
    pub vault_keys: String,
}

impl Market {
    pub async fn opens() -> Self {
        let providers = Simulators::start(Options::default()).await.expect("providers");
        let (midtrans, xendit) = (providers.midtrans_url(), providers.xendit_url());
        Self::of(providers, &midtrans, &xendit).await
    }

    /// The same with providers of one's own, which are reached somewhere else.
    pub async fn of(providers: Simulators, midtrans_url: &str, xendit_url: &str) -> Self {
        let vault_keys = vault::list(&[&vault::key()]);
        let hub = TestHub::start_with(&[
            "--vault-key-file",
            &vault_keys,
            "--midtrans-test-url",
            midtrans_url,
            "--xendit-test-url",
            xendit_url,
        ])
        .await;
        Self { hub, providers, vault_keys }
    }

    /// A merchant with an account at each provider, whose notifications come here.
    pub async fn shop(&self, name: &str) -> Shop<'_> {
        let shop = self.hub.merchant(name).await;
        open_accounts(shop.owner(), &self.providers, &[self.hub.address]).await;
        shop
    }

    /// Tells the simulators something.
    pub async fn says(&self, what: &str, order: Value) -> Value {
        say_to(self.providers.midtrans, what, order).await
    }

    /// Takes back what the simulators were told of one kind.
    pub async fn says_delete(&self, what: &str) {
        let path = format!("/_sim/{what}");
        request(self.providers.midtrans, "DELETE", &path, &[], vec![]).await.expect("an answer").ok();
    }

    /// A customer pays, with an app.
    pub async fn pays(&self, payment: &Value) -> Value {
        self.says("pay", json!({ "id": payment["id"], "issuer": "DANA" })).await
    }

    /// How often a provider was asked something of one kind.
    pub async fn asked(&self, provider: &str, operation: &str) -> usize {
        self.requests(provider).await.iter().filter(|it| it["operation"] == operation).count()
    }

    /// All that a provider was asked, in the order it came.
    pub async fn requests(&self, provider: &str) -> Vec<Value> {
        asked_of(self.providers.midtrans, &format!("provider={provider}")).await
    }

    /// All that providers have told of a payment, or have kept to themselves.
    pub async fn deliveries(&self, payment: &Value) -> Vec<Value> {
        let path = format!("deliveries?payment={}", payment["id"].as_str().expect("an id"));
        shown_by(self.providers.midtrans, &path).await["deliveries"].as_array().expect("deliveries").clone()
    }

    /// Posts a notification, as anybody could.
    pub async fn notifies(&self, path: &str, headers: &[(&str, &str)], body: &str) -> u16 {
        let headers = [&[("content-type", "application/json")], headers].concat();
        let caller = Caller { address: self.hub.address, token: "" };
        request(caller.address, "POST", path, &headers, body.as_bytes().to_vec()).await.expect("an answer").status
    }
}

/// Accounts at both providers, whose notifications come to these nodes.
pub async fn open_accounts(owner: Caller<'_>, providers: &Simulators, notified: &[SocketAddr]) {
    let midtrans = vault::midtrans(MIDTRANS_ID, MIDTRANS_KEY);
    let xendit = vault::xendit(XENDIT_ID, XENDIT_KEY, &[XENDIT_TOKEN]);
    for (provider, id, name, credentials) in
        [("midtrans", MIDTRANS_ID, "merchant_id", midtrans), ("xendit", XENDIT_ID, "business_id", xendit)]
    {
        let account = json!({ "credentials": credentials, "mode": "test" });
        let account = owner.creates("/v1/provider-accounts", account).await;
        let path = account["webhook_path"].as_str().expect("a path");
        let urls: Vec<String> = notified.iter().map(|node| format!("http://{node}{path}")).collect();
        let there = json!({ "provider": provider, name: id, "webhook_urls": urls });
        say_to(providers.midtrans, "accounts", there).await;
    }
}

/// Tells simulators something, at either address of theirs.
pub async fn say_to(simulators: SocketAddr, what: &str, order: Value) -> Value {
    let (headers, body) = ([("content-type", "application/json")], order.to_string().into_bytes());
    request(simulators, "POST", &format!("/_sim/{what}"), &headers, body).await.expect("an answer").ok()
}

/// What simulators show.
pub async fn shown_by(simulators: SocketAddr, what: &str) -> Value {
    request(simulators, "GET", &format!("/_sim/{what}"), &[], vec![]).await.expect("an answer").ok()
}

/// What simulators were asked of some kind, in the order it came.
pub async fn asked_of(simulators: SocketAddr, which: &str) -> Vec<Value> {
    shown_by(simulators, &format!("requests?{which}")).await["requests"].as_array().expect("requests").clone()
}

/// A payment of a shop comes to a state.
pub async fn comes_to(shop: &Shop<'_>, payment: &Value, state: &str) -> Value {
    let path = format!("/v1/payments/{}", payment["id"].as_str().expect("an id"));
    let started = Instant::now();
    loop {
        let found = shop.get(&path).await.ok();
        if found["state"] == state {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "it does not come to {state}: {found}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
