//! A till that is told an address and nothing else: for hubs that come and go, and answers that never arrive.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tillwire::identity::tokens::{Bearer, Signer};
use tillwire_channels::{MerchantId, OutletId, RegisterId, Role, StaffId};
use uuid::Uuid;

use super::hub::{Answer, request};

pub struct Till {
    pub address: SocketAddr,
    pub merchant: MerchantId,
    pub outlet: OutletId,
    pub staff: StaffId,
    pub token: String,
    pub register: RegisterId,
    pub variant: String,
}

/// What one piece of the till's only product costs.
const PRICE_MINOR: i64 = 7_500;
/// How long a till tries to get one sale recorded.
const PATIENCE: Duration = Duration::from_secs(60);

impl Till {
    /// Opens a merchant with one outlet and this till, and so many pieces of one product to sell.
    pub async fn open(address: SocketAddr, signer: &Signer, pieces: u32) -> Self {
        let (merchant, outlet, register) = (MerchantId::new(), OutletId::new(), RegisterId::new());
        let staff = StaffId::new();
        let bearer = Bearer { merchant, staff, role: Role::Owner, outlets: vec![], register: None };
        let token = signer.mint(&bearer, Duration::from_secs(3600)).expect("a token");
        let mut till = Self { address, merchant, outlet, staff, token, register, variant: String::new() };
        till.put("/v1/merchant", json!({ "name": "Toko Roti", "currency": "IDR" })).await;
        till.put("/v1/outlets", json!({ "id": outlet, "code": "JKT", "name": "Jakarta", "time_zone": "Asia/Jakarta" }))
            .await;
        let registers = format!("/v1/outlets/{outlet}/registers");
        till.put(&registers, json!({ "id": register, "code": "R1", "name": "Kasir 1" })).await;
        let bread = json!({ "name": "Roti", "variants": [{ "sku": "roti", "price_minor": PRICE_MINOR }] });
        let product = till.put("/v1/products", bread).await;
        till.variant = product["variants"][0]["variant"].as_str().expect("a variant").to_owned();
        let lines = json!([{ "variant": till.variant, "quantity": pieces.to_string() }]);
        till.put(&format!("/v1/outlets/{outlet}/stock/moves"), json!({ "reason": "received", "lines": lines })).await;
        till
    }

    /// What must work.
    async fn put(&self, path: &str, body: Value) -> Value {
        self.post(&Uuid::new_v4().to_string(), path, &body).await.expect("an answer").created()
    }

    /// Sells one piece. An error means that no answer came.
    pub async fn sell(&self, key: &str) -> anyhow::Result<Answer> {
        self.post(key, &self.sales(), &self.sale()).await
    }

    /// Sells one piece, again and again until it is recorded. The outcome of each try before is unknown.
    pub async fn sell_at_last(&self, key: &str) -> Answer {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            match self.sell(key).await {
                Ok(answer) if answer.status == 201 => return answer,
                // Not there, too busy, or still at it: the same key will tell.
                Ok(answer) => assert!([409, 500, 503].contains(&answer.status), "{answer:?}"),
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("sale {key} was not recorded within {PATIENCE:?}");
    }

    pub fn sales(&self) -> String {
        format!("/v1/outlets/{}/sales", self.outlet)
    }

    pub fn sale(&self) -> Value {
        json!({
            "register": self.register,
            "lines": [{ "variant": self.variant, "quantity": "1" }],
            "tenders": [{ "method": "cash", "amount_minor": PRICE_MINOR }],
        })
    }

    pub async fn post(&self, key: &str, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let bearer = format!("Bearer {}", self.token);
        let headers =
            [("authorization", bearer.as_str()), ("idempotency-key", key), ("content-type", "application/json")];
        request(self.address, "POST", path, &headers, body.to_string().into_bytes()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        let bearer = format!("Bearer {}", self.token);
        request(self.address, "GET", path, &[("authorization", &bearer)], vec![]).await.expect("an answer")
    }

    pub async fn on_hand(&self) -> String {
        let level = self.get(&format!("/v1/outlets/{}/stock/{}", self.outlet, self.variant)).await.ok();
        level["on_hand"].as_str().expect("a quantity").to_owned()
    }

    /// Every event of the journal, page by page.
    pub async fn journal(&self) -> Vec<Value> {
        let (mut events, mut after) = (Vec::new(), "0-00000000".to_owned());
        loop {
            let page = self.get(&format!("/v1/journal?limit=500&after={after}")).await.ok();
            events.extend(page["events"].as_array().expect("events").clone());
            after = page["position"].as_str().expect("a position").to_owned();
            if page["more"] == false {
                return events;
            }
        }
    }
}
