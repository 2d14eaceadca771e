//! Planning the comparisons of each day: a run for each account that is in use. They go on by themselves.

use tillwire_channels::MerchantId;
use tracing::info;
use uuid::Uuid;

use super::{Job, Run, Schedule};
use crate::connectors::credentials::Provider;
use crate::error::Error;
use crate::reconciliation::runs;

/// How many accounts are planned for in one transaction.
const BATCH: i32 = 100;

/// Daily, before shops open.
///
/// # Errors
/// If there is no such time.
pub fn job() -> anyhow::Result<Job> {
    Ok(Job::new("reconciliations", Schedule::daily(3, 0, "Asia/Jakarta")?, plan))
}

async fn plan(run: Run) -> anyhow::Result<()> {
    let (mut behind, mut count) = ((Uuid::nil(), Uuid::nil()), 0);
    loop {
        let mut sql = run.begin().await?;
        let accounts = sqlx::query!(
            r#"select merchant as "merchant!", account as "account!", provider as "provider!"
               from provider_accounts_enabled($1, $2, $3)"#,
            behind.0,
            behind.1,
            BATCH,
        )
        .fetch_all(&mut *sql)
        .await?;
        let Some(last) = accounts.last() else { break };
        behind = (last.merchant, last.account);
        count += accounts.len();
        for row in accounts {
            let Some(provider) = Provider::of(&row.provider) else { continue };
            let merchant = MerchantId(row.merchant);
            sqlx::query!("select set_config('tillwire.merchant', $1, true)", merchant.to_string())
                .fetch_one(&mut *sql)
                .await?;
            runs::plan(&mut sql, merchant, row.account, provider).await.map_err(Error::into_anyhow)?;
        }
        run.commit(sql).await?;
    }
    info!(count, "Planned to compare the payments of {count} accounts");
    Ok(())
}
