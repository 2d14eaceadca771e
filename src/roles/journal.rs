//! `tillwire journal`: looks after journals.

use anyhow::bail;
use secrecy::ExposeSecret;

use crate::config::{Journal, JournalCommand};
use crate::journal::{chain, pool, upkeep};

pub async fn run(config: Journal) -> anyhow::Result<()> {
    match config.what {
        JournalCommand::Verify { feed_database_url, merchant } => {
            let pool = pool::open_for_owner(feed_database_url.expose_secret())?;
            match chain::verify(&pool, merchant).await? {
                Ok(chain::Verified { entries: 0, head, .. }) if head.seq > 0 => {
                    println!("No entries are left: retention has dropped them all. The head is at {head}.");
                }
                Ok(chain::Verified { entries: 0, head, .. }) => println!("No entries; the head is at {head}."),
                Ok(chain::Verified { first, entries, head }) => {
                    println!("{entries} entries from number {first}, every link good; the head is at {head}.");
                }
                Err(broken) => bail!("the journal of {merchant} is broken: {broken}"),
            }
        }
        JournalCommand::Prune { migrate_database_url, before, force } => {
            let pool = pool::open_for_owner(migrate_database_url.expose_secret())?;
            upkeep::prune(&pool, before, force, |partition| println!("Dropped {partition}.")).await?;
        }
    }
    Ok(())
}
