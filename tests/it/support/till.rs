//! A till that is told an address and nothing else: for hubs that come and go, and answers that never arrive.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tillwire::identity::tokens::Signer;
use tillwire_channels::{MerchantId, OutletId, RegisterId, Role, StaffId};

use super::caller::{Caller, bearer};
use super::hub::Answer;

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
        let (merchant, staff) = (MerchantId::new(), StaffId::new());
        let bearer = bearer(merchant, staff, Role::Owner);
        let token = signer.mint(&bearer, Duration::from_secs(3600)).expect("a token");
        let owner = Caller { address, token: &token };
        let (outlet, register) = owner.opens("Toko Roti").await;
        let variant = owner.product("roti", PRICE_MINOR).await;
        owner.receives(outlet, &variant, &pieces.to_string()).await;
        Self { address, merchant, outlet, staff, token, register, variant }
    }

    /// Its owner, where it was told that the hub is.
    pub fn owner(&self) -> Caller<'_> {
        Caller { address: self.address, token: &self.token }
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
                Ok(answer) => assert!(answer.status == 409 || answer.status >= 500, "{answer:?}"),
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
        self.owner().post(key, path, body.to_string().into_bytes()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.owner().get(path).await.expect("an answer")
    }

    pub fn stock(&self) -> String {
        format!("/v1/outlets/{}/stock/{}", self.outlet, self.variant)
    }

    pub async fn on_hand(&self) -> String {
        let level = self.get(&self.stock()).await.ok();
        level["on_hand"].as_str().expect("a quantity").to_owned()
    }

    /// Every event of the journal, page by page.
    pub async fn journal(&self) -> Vec<Value> {
        self.owner().journal("limit=500").await
    }
}
