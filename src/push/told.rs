//! Told: which devices have been sent an event, so that one that is heard again is sent to the others alone.

use std::collections::HashSet;

use sqlx::PgConnection;
use tillwire_channels::{DeviceId, MerchantId, Position};

use crate::error::Result;

/// The devices that this event was sent to, or never will be.
pub async fn of(sql: &mut PgConnection, merchant: MerchantId, position: Position) -> Result<HashSet<DeviceId>> {
    let rows = sqlx::query_scalar!(
        "select device_id from push_told where merchant_id = $1 and seq = $2 and event = $3 and tag = $4",
        merchant.0,
        position.seq.cast_signed(),
        number(position)?,
        &position.tag,
    )
    .fetch_all(sql)
    .await?;
    Ok(rows.into_iter().map(DeviceId).collect())
}

/// Writes down that a device has been.
pub async fn mark(sql: &mut PgConnection, merchant: MerchantId, position: Position, device: DeviceId) -> Result<()> {
    sqlx::query!(
        "insert into push_told (merchant_id, seq, event, tag, device_id) values ($1, $2, $3, $4, $5) on conflict do nothing",
        merchant.0,
        position.seq.cast_signed(),
        number(position)?,
        &position.tag,
        device.0,
    )
    .execute(sql)
    .await?;
    Ok(())
}

/// Which event of its entry it is.
fn number(position: Position) -> anyhow::Result<i32> {
    Ok(i32::try_from(position.event.unwrap_or(1))?)
}
