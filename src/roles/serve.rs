//! `tillwire serve`, `api`, `gateway` and `worker`: show their faces until they are told to stop.

use anyhow::{Context, ensure};

use crate::config;
use crate::identity::tokens::Verifier;
use crate::node::{Faces, Node};
use crate::vault::keys::VaultKeys;
use crate::{shutdown, telemetry};

pub async fn run(config: config::Node, faces: Faces) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    let verifier =
        Verifier::open(&config.tokens.token_keys, config.tokens.realm.clone().into()).context("--token-keys")?;
    ensure!(
        !verifier.trusts_demo(),
        "the token keys include the demo's, which is not secret: make one with `tillwire token new-key`"
    );
    ensure!(
        !VaultKeys::open(&config.vault.clone().into())?.is_demo(),
        "the vault keys include the demo's, which is not secret: make one with `tillwire vault new-key`"
    );
    let node = Node::start(config, verifier, faces, telemetry::metrics()?, stop).await?;
    node.stopped().await;
    Ok(())
}
