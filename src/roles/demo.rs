//! `tillwire demo`: a private PostgreSQL, a node on it, and a shop that sells through it.

use std::path::Path;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Demo};
use crate::demo::{self, Pace, Simulators};
use crate::embedded::{self, Postgres};
use crate::identity::tokens::{Signer, Verifier, write_new_key};
use crate::node::{Faces, Node};
use crate::vault;
use crate::{schema, shutdown, telemetry};

/// The private cluster's database, and its roles.
const DATABASE: &str = "tillwire";
/// In the data directory.
const KEY_FILE: &str = "demo-signing-key.pem";
const VAULT_KEY_FILE: &str = "demo-vault.key";

pub async fn run(config: Demo) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    let options = embedded::Options { home: config.data_dir.clone(), ..embedded::Options::default() };
    let mut postgres = embedded::start(options, &|doing| println!("{doing}")).await?;
    println!("The demo's data is in {}. To begin anew, stop it and remove that folder.", postgres.dir().display());
    let outcome = open(&postgres, config, stop).await;
    // Last, and whatever happened: nothing of ours is left running.
    let stopped = postgres.stop().await.context("stopping the private PostgreSQL");
    outcome.and(stopped)
}

async fn open(postgres: &Postgres, config: Demo, stop: CancellationToken) -> anyhow::Result<()> {
    let url = |role| postgres.url(role, DATABASE);
    schema::up(&url("tillwire_migrate")).await?;

    let (key, vault_key) = (postgres.dir().join(KEY_FILE), postgres.dir().join(VAULT_KEY_FILE));
    make_key(&key, |aside| write_new_key(aside, true))?;
    make_key(&vault_key, |aside| vault::keys::write_new_key(aside, true))?;
    let realm = config::Realm { token_issuer: "tillwire-demo".to_owned(), token_audience: "tillwire-demo".to_owned() };
    let signer = Signer::open(&key, realm.clone().into())?;
    let verifier = Verifier::new(realm.clone().into(), &signer.public_keys()?)?;

    let pace = config.speed.map_or(Pace::Rate(config.rate), Pace::Speed);
    let baskets = config.baskets.map(|baskets| baskets as usize);
    let simulators = Simulators {
        midtrans: config.providers.midtrans_test_url.clone(),
        xendit: config.providers.xendit_test_url.clone(),
    };
    let node = config::Node {
        database: config::Database {
            database_url: url("tillwire_app").into(),
            feed_database_url: url("tillwire_feed").into(),
            relay_database_url: Some(url("tillwire_relay").into()),
            database_connections: 16,
        },
        tokens: config::Tokens { token_keys: key, realm },
        buses: config.buses,
        listen: config.listen,
        webhooks: config.webhooks,
        push: config::Push::default(),
        providers: config.providers,
        vault: config::VaultKeys { vault_key_file: vec![vault_key], vault_keys: Vec::new() },
    };
    // Told after the tills have stopped, and before the database does.
    let close = CancellationToken::new();
    let node = Node::start(node, verifier, Faces::ALL, telemetry::metrics()?, close.clone()).await?;
    let outcome = demo::run(node.public, signer, pace, baskets, simulators, stop).await;
    close.cancel();
    node.stopped().await;
    outcome
}

/// Makes a key of this demo's, once. It becomes the key in one step: half of one would be in the way for ever.
fn make_key(path: &Path, write: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let aside = path.with_extension("new");
    if aside.exists() {
        std::fs::remove_file(&aside)?;
    }
    write(&aside)?;
    std::fs::rename(&aside, path).with_context(|| format!("keeping a key in {}", path.display()))
}
