//! Vault keys, and vaults as nodes have them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tillwire::vault::Vault;
use tillwire::vault::keys::{Source, VaultKeys, write_new_key};

use super::services::{dir, unique};

/// A new key, in a file of its own.
pub fn key() -> PathBuf {
    let path = dir("vault").join(unique("key"));
    write_new_key(&path, false).expect("a key");
    path
}

/// What a key is called.
pub fn id(file: &Path) -> String {
    let keys = VaultKeys::open(&Source { files: vec![file.to_owned()], keys: Vec::new() }).expect("a key");
    keys.ids().next().expect("a key").to_owned()
}

/// Files as the flag and the variable take them.
pub fn list(files: &[&PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(",")
}

/// A vault with these keys, or with none.
pub fn with(files: &[&PathBuf]) -> Arc<Vault> {
    let files = files.iter().map(|file| (*file).clone()).collect();
    Arc::new(Vault::open(&Source { files, keys: Vec::new() }).expect("a vault"))
}

/// A merchant's keys at Midtrans' sandbox, as a body has them; `secret` is part of the key.
pub fn midtrans(merchant_there: &str, secret: &str) -> serde_json::Value {
    serde_json::json!({
        "provider": "midtrans",
        "server_key": format!("SB-Mid-server-{secret}"),
        "client_key": "SB-Mid-client-everybody-may-know",
        "merchant_id": merchant_there,
    })
}

/// The same at Xendit.
pub fn xendit(merchant_there: &str, secret: &str, tokens: &[&str]) -> serde_json::Value {
    serde_json::json!({
        "provider": "xendit",
        "secret_key": format!("xnd_development_{secret}"),
        "callback_tokens": tokens,
        "business_id": merchant_there,
    })
}
