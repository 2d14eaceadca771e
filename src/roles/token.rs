//! `tillwire token`: mints tokens, and makes keys to sign them with.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use tillwire_channels::{MerchantId, StaffId};

use crate::config::{Mint, Token, TokenCommand};
use crate::identity::tokens::{self, Bearer, Realm, Signer};

pub fn run(config: Token) -> anyhow::Result<()> {
    match config.what {
        TokenCommand::Mint(mint) => print_token(mint),
        TokenCommand::NewKey { path } => print_new_key(&path),
    }
}

fn print_token(mint: Mint) -> anyhow::Result<()> {
    let merchant = match mint.merchant.as_str() {
        "new" => MerchantId::new(),
        id => id.parse().context("--merchant takes an id or `new`")?,
    };
    let signer = Signer::open(&mint.signing_key, mint.realm.into())?;
    let bearer = Bearer {
        merchant,
        staff: mint.staff.unwrap_or_else(StaffId::new),
        role: mint.role,
        outlets: mint.outlets,
        register: mint.register,
    };
    // The ids go to the other stream, so that `$(tillwire token mint …)` is the token alone.
    eprintln!("merchant {merchant}\nstaff {}", bearer.staff);
    println!("{}", signer.mint(&bearer, Duration::from_secs(mint.ttl_seconds))?);
    Ok(())
}

fn print_new_key(path: &Path) -> anyhow::Result<()> {
    tokens::write_new_key(path, false)?;
    // The realm does not matter for the public part.
    let signer = Signer::open(path, Realm { issuer: String::new(), audience: String::new() })?;
    println!("{}", serde_json::to_string_pretty(&signer.public_keys()?)?);
    Ok(())
}
