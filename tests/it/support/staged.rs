//! The same where the hub is a process that can be killed: its providers, its database, and a till of its only merchant.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tillwire::identity::tokens::Signer;
use tillwire_channels::{PaymentId, SaleId};
use tillwire_simulators::{Options, Simulators};

use super::buses::until;
use super::process::{Env, TillwireProcess, environment};
use super::providers::{asked_of, open_accounts, say_to, shown_by};
use super::services::postgres::{Database, Postgres};
use super::till::Till;
use super::vault;

/// How long something may take that must happen, with a hub that has to start in between.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many of its only product the till has to sell.
const PIECES: u32 = 100;

pub struct Staged {
    pub providers: Simulators,
    pub database: Database,
    pub till: Till,
    env: Env,
}

/// What a hub is told that is to know these providers, on a database that is reached so.
pub fn knowing(providers: &Simulators, app_url: &str, feed_url: &str) -> (Env, Signer) {
    let (mut env, signer) = environment(app_url, feed_url);
    env.insert("TILLWIRE_VAULT_KEY_FILE", vault::key().display().to_string());
    env.insert("TILLWIRE_MIDTRANS_TEST_URL", providers.midtrans_url());
    env.insert("TILLWIRE_XENDIT_TEST_URL", providers.xendit_url());
    (env, signer)
}

impl Staged {
    /// A hub of one process.
    pub async fn starts() -> (Self, TillwireProcess) {
        let (providers, database) = Self::outside().await;
        let (env, signer) = knowing(&providers, &database.url("tillwire_app"), &database.url("tillwire_feed"));
        let hub = TillwireProcess::start(&["serve"], &env).await;
        (Self::opens(providers, database, env, &signer, hub.public, &[hub.public]).await, hub)
    }

    /// What is there before any hub is.
    pub async fn outside() -> (Simulators, Database) {
        let providers = Simulators::start(Options::default()).await.expect("providers");
        (providers, Postgres::shared().await.database(async |url| tillwire::schema::up(&url).await.unwrap()).await)
    }

    /// A shop opens at a node. Its providers notify these.
    pub async fn opens(
        providers: Simulators,
        database: Database,
        env: Env,
        signer: &Signer,
        node: SocketAddr,
        notified: &[SocketAddr],
    ) -> Self {
        let till = Till::open(node, signer, PIECES).await;
        open_accounts(till.owner(), &providers, notified).await;
        Self { providers, database, till, env }
    }

    /// The hub comes back after it was killed. Whatever it held then is free: leases are over in half a minute.
    pub async fn restarts(&self) -> TillwireProcess {
        let hub = TillwireProcess::start(&["serve"], &self.env).await;
        self.leases_end().await;
        hub
    }

    /// Whoever holds something has had it for long enough.
    pub async fn leases_end(&self) {
        for table in ["payment_attempts", "refunds", "reconciliations"] {
            let over = format!("update {table} set leased_until = now() where leased_until is not null");
            self.database.psql(&over).await;
        }
    }

    /// Tells the simulators something.
    pub async fn says(&self, what: &str, order: Value) -> Value {
        say_to(self.providers.midtrans, what, order).await
    }

    /// What the simulators show.
    pub async fn shows(&self, what: &str) -> Value {
        shown_by(self.providers.midtrans, what).await
    }

    /// What the providers were asked of one kind, in the order it came.
    pub async fn requests(&self, operation: &str) -> Vec<Value> {
        asked_of(self.providers.midtrans, &format!("operation={operation}")).await
    }

    /// Posts with one key until it is done: whoever is killed meanwhile does not answer.
    pub async fn at_last(&self, key: &str, path: &str, body: &Value) -> Value {
        let started = Instant::now();
        loop {
            match self.till.post(key, path, body).await {
                Ok(answer) if answer.status < 300 => return answer.json(),
                Ok(answer) => assert!(answer.status == 409 || answer.status >= 500, "{answer:?}"),
                Err(_) => {}
            }
            assert!(started.elapsed() < PATIENCE, "{key} is not done");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A sale that is open, of so many pieces.
    pub async fn opens_sale(&self, quantity: &str) -> SaleId {
        let sale = SaleId::new();
        let open = json!({ "id": sale, "register": self.till.register, "open": true,
                           "lines": [{ "variant": self.till.variant, "quantity": quantity }] });
        self.at_last(&sale.to_string(), &self.till.sales(), &open).await;
        sale
    }

    pub async fn state_of(&self, payment: PaymentId) -> String {
        let state = format!("select state from payment_attempts where payment_id = '{payment}'");
        self.database.psql(&state).await.trim().to_owned()
    }

    pub async fn comes_to(&self, payment: PaymentId, state: &str) {
        let started = Instant::now();
        while self.state_of(payment).await != state {
            let found = self.state_of(payment).await;
            assert!(started.elapsed() < PATIENCE, "it does not come to {state}, but is {found}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn sale_is(&self, sale: SaleId) -> String {
        self.database.psql(&format!("select state from sales where sale_id = '{sale}'")).await.trim().to_owned()
    }

    /// The database answers so.
    pub async fn comes_true(&self, query: &str, answer: &str) {
        until(async || (self.database.psql(query).await.trim() == answer).then_some(())).await;
    }
}
