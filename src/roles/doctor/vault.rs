//! The vault: keys that can be read, and that open what is there.

use secrecy::{ExposeSecret, SecretString};

use super::Finding;
use crate::config::VaultKeys;
use crate::journal::pool;
use crate::vault::{self, keys, rotation};

/// What to do where there is no key, or a wrong one.
const NAME_ONE: &str = "Let --vault-key-file name what `tillwire vault new-key` wrote";

/// Compares the keys that a node is given with those that are needed, and opens a data key with each.
pub async fn check(config: VaultKeys, database_url: &SecretString) -> anyhow::Result<Finding> {
    let keys = match keys::VaultKeys::open(&config.into()) {
        Ok(keys) => keys,
        Err(error) => return Ok(Finding::wrong("vault", format!("{error:#}"), NAME_ONE)),
    };
    if keys.is_demo() {
        let detail = "the demo's key is among the vault keys, which is not secret";
        return Ok(Finding::wrong("vault", detail, "Make one with `tillwire vault new-key`"));
    }
    let app = pool::open(database_url.expose_secret(), 1)?;
    let mut sql = pool::begin_of_nobody(&app).await?;
    let needed = vault::needed(&mut sql).await?;
    sql.commit().await?;
    for needed in &needed {
        let count = needed.data_keys;
        if keys.find(&needed.vault_key).is_none() {
            let detail = format!("{count} data keys need the vault key {}, which is not given", needed.vault_key);
            return Ok(Finding::wrong("vault", detail, "Let --vault-key-file name its file as well"));
        }
        if rotation::verify_one(&app, &keys, needed.merchant).await?.is_whole().is_err() {
            let detail =
                format!("a data key of {} does not open with the vault key {}", needed.merchant, needed.vault_key);
            return Ok(Finding::wrong("vault", detail, "Restore the table data_keys from a backup"));
        }
    }
    let Some(first) = keys.first() else {
        let detail =
            "no key: secrets of webhooks and devices are kept in clear, and accounts at payment providers not at all";
        return Ok(Finding::warning("vault", detail, NAME_ONE));
    };
    let of_others: i64 = needed.iter().filter(|it| it.vault_key != first.id).map(|it| it.data_keys).sum();
    if of_others > 0 {
        let detail = format!("{of_others} data keys are sealed with another vault key than the first, {}", first.id);
        return Ok(Finding::warning("vault", detail, "Run `tillwire vault rotate` when all nodes have it"));
    }
    let count: i64 = needed.iter().map(|it| it.data_keys).sum();
    Ok(Finding::good("vault", format!("{count} data keys need the vault key {}, which opens them", first.id)))
}
