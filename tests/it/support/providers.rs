//! Payment providers of a test's own, and a shop with accounts at them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
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

/// Both providers, and a hub that knows them.
pub struct Market {
    pub hub: TestHub,
    pub providers: Simulators,
}

impl Market {
    pub async fn opens() -> Self {
        let providers = Simulators::start(Options::default()).await.expect("providers");
        let (key, midtrans, xendit) = (vault::key(), providers.midtrans_url(), providers.xendit_url());
        let hub = TestHub::start_with(&[
            "--vault-key-file",
            &vault::list(&[&key]),
            "--midtrans-test-url",
            &midtrans,
            "--xendit-test-url",
            &xendit,
        ])
        .await;
        Self { hub, providers }
    }

    /// A merchant with an account at each provider, whose notifications come here.
    pub async fn shop(&self, name: &str) -> Shop<'_> {
        let shop = self.hub.merchant(name).await;
        let midtrans = vault::midtrans(MIDTRANS_ID, MIDTRANS_KEY);
        let xendit = vault::xendit(XENDIT_ID, XENDIT_KEY, &[XENDIT_TOKEN]);
        for (provider, id, name, credentials) in
            [("midtrans", MIDTRANS_ID, "merchant_id", midtrans), ("xendit", XENDIT_ID, "business_id", xendit)]
        {
            let account = shop
                .post("/v1/provider-accounts", json!({ "credentials": credentials, "mode": "test" }))
                .await
                .created();
            let url = format!("http://{}{}", self.hub.address, account["webhook_path"].as_str().expect("a path"));
            self.says("accounts", json!({ "provider": provider, name: id, "webhook_urls": [url] })).await;
        }
        shop
    }

    /// Tells the simulators something.
    pub async fn says(&self, what: &str, order: Value) -> Value {
        let headers = [("content-type", "application/json")];
        let body = order.to_string().into_bytes();
        request(self.providers.midtrans, "POST", &format!("/_sim/{what}"), &headers, body)
            .await
            .expect("an answer")
            .ok()
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

    /// What the simulators were asked, of one kind.
    pub async fn asked(&self, provider: &str, operation: &str) -> usize {
        let path = format!("/_sim/requests?provider={provider}&operation={operation}");
        let answer = request(self.providers.midtrans, "GET", &path, &[], vec![]).await.expect("an answer").ok();
        let list = answer.as_array().or_else(|| answer["requests"].as_array());
        list.unwrap_or_else(|| panic!("{answer}")).len()
    }

    /// Posts a notification, as anybody could.
    pub async fn notifies(&self, path: &str, headers: &[(&str, &str)], body: &str) -> u16 {
        let headers = [&[("content-type", "application/json")], headers].concat();
        let caller = Caller { address: self.hub.address, token: "" };
        request(caller.address, "POST", path, &headers, body.as_bytes().to_vec()).await.expect("an answer").status
    }
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
