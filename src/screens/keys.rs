//! The keys that gateways seal with.

use secrecy::SecretSlice;

use crate::error::Result;
use crate::journal::Pools;

/// A key, and the number under which what it sealed is known.
pub struct Key {
    pub id: i16,
    /// 32 bytes.
    pub bytes: SecretSlice<u8>,
}

/// Every key, the newest last.
pub async fn all(pools: &Pools) -> Result<Vec<Key>> {
    let rows = sqlx::query!("select key_id, key from gateway_keys order by key_id").fetch_all(&pools.app).await?;
    Ok(rows.into_iter().map(|row| Key { id: row.key_id, bytes: row.key.into() }).collect())
}
