//! A caller: someone with a token who asks, over REST, whoever listens at an address.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tillwire::identity::tokens::Bearer;
use tillwire_channels::{MerchantId, OutletId, RegisterId, Role, StaffId};
use uuid::Uuid;

use super::hub::{Answer, request};

/// How long an answer may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
pub struct Caller<'a> {
    pub address: SocketAddr,
    pub token: &'a str,
}

impl Caller<'_> {
    /// An error means that no answer came.
    pub async fn get(self, path: &str) -> anyhow::Result<Answer> {
        self.send("GET", path, &[], vec![]).await
    }

    /// The same for a write under this idempotency key.
    pub async fn post(self, key: &str, path: &str, body: Vec<u8>) -> anyhow::Result<Answer> {
        self.send("POST", path, &[("idempotency-key", key), ("content-type", "application/json")], body).await
    }

    pub async fn send(
        self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> anyhow::Result<Answer> {
        let bearer = format!("Bearer {}", self.token);
        let headers = [&[("authorization", bearer.as_str())], headers].concat();
        tokio::time::timeout(PATIENCE, request(self.address, method, path, &headers, body)).await?
    }

    /// Writes what must be taken: again, with the same key, as long as it is told to come again.
    pub async fn creates(self, path: &str, body: Value) -> Value {
        let (key, body) = (Uuid::new_v4().to_string(), body.to_string().into_bytes());
        let started = Instant::now();
        loop {
            let answer = self.post(&key, path, body.clone()).await.expect("an answer");
            if answer.status != 503 || started.elapsed() > PATIENCE {
                return answer.created();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Opens the merchant, with an outlet and a register.
    pub async fn opens(self, name: &str) -> (OutletId, RegisterId) {
        let (outlet, register) = (OutletId::new(), RegisterId::new());
        self.creates("/v1/merchant", json!({ "name": name, "currency": "IDR" })).await;
        let body = json!({ "id": outlet, "code": "JKT", "name": name, "time_zone": "Asia/Jakarta" });
        self.creates("/v1/outlets", body).await;
        let body = json!({ "id": register, "code": "R1", "name": "Kasir 1" });
        self.creates(&format!("/v1/outlets/{outlet}/registers"), body).await;
        (outlet, register)
    }

    /// A new product at this price. Answers its variant.
    pub async fn product(self, name: &str, price_minor: i64) -> String {
        let body = json!({ "name": name, "variants": [{ "sku": name, "price_minor": price_minor }] });
        let product = self.creates("/v1/products", body).await;
        product["variants"][0]["variant"].as_str().expect("a variant").to_owned()
    }

    /// So many of a variant arrive at an outlet.
    pub async fn receives(self, outlet: OutletId, variant: &str, quantity: &str) {
        let lines = json!([{ "variant": variant, "quantity": quantity }]);
        let body = json!({ "reason": "received", "lines": lines });
        self.creates(&format!("/v1/outlets/{outlet}/stock/moves"), body).await;
    }

    /// Every event of the journal, page by page, as this part of a query asks for them.
    pub async fn journal(self, query: &str) -> Vec<Value> {
        let (mut events, mut after) = (Vec::new(), "0-00000000".to_owned());
        loop {
            let page = self.get(&format!("/v1/journal?{query}&after={after}")).await.expect("an answer").ok();
            events.extend(page["events"].as_array().expect("events").clone());
            after = page["position"].as_str().expect("a position").to_owned();
            if page["more"] == false {
                return events;
            }
        }
    }
}

/// Someone who is bound to no outlet.
pub fn bearer(merchant: MerchantId, staff: StaffId, role: Role) -> Bearer {
    Bearer { merchant, staff, role, outlets: Vec::new(), register: None }
}
