//! How far handlers have come with what the broker gives them, for whoever asks how old a queue is.

use std::collections::BTreeMap;

use sqlx::PgPool;
use tillwire_channels::Moment;

/// A handler has taken an entry that was recorded then. `pool` is the relay's, as for all that is of no merchant.
pub async fn tell(pool: &PgPool, handler: &str, recorded_at: Moment) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into handler_progress (handler, recorded_at) values ($1, $2)
         on conflict (handler) do update set recorded_at = excluded.recorded_at
         where handler_progress.recorded_at < excluded.recorded_at",
        handler,
        recorded_at,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// When the newest entry that each handler has taken was recorded.
pub async fn all(pool: &PgPool) -> sqlx::Result<BTreeMap<String, Moment>> {
    let rows = sqlx::query!("select handler, recorded_at from handler_progress").fetch_all(pool).await?;
    Ok(rows.into_iter().map(|row| (row.handler, row.recorded_at)).collect())
}
