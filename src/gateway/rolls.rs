//! What screens have joined since they connected, kept outside the gateway so that any node knows it.

use std::collections::HashMap;
use std::sync::Arc;

use tillwire_channels::MerchantId;
use tokio_util::task::TaskTracker;

use super::batches::Batches;
use super::source::Source;
use crate::error::Result;
use crate::screens::joined::Roll;

pub struct Rolls {
    source: Source,
    stores: Arc<Batches<Roll, bool>>,
    finds: Arc<Batches<String, Option<Roll>>>,
}

impl Rolls {
    pub fn new(source: Source, tasks: TaskTracker) -> Self {
        Self { source, stores: Batches::new(tasks.clone()), finds: Batches::new(tasks) }
    }

    /// Stores what a screen has joined. False if a newer connection of the screen has stored something.
    ///
    /// # Errors
    /// If the database did not take it, or did not say so.
    pub async fn store(&self, merchant: MerchantId, roll: Roll) -> Result<bool> {
        let source = self.source.clone();
        let store = move |rolls: Vec<Roll>| {
            let source = source.clone();
            async move {
                let newest = newest(&rolls);
                let refused = source.store(merchant, newest.values().map(|roll| (*roll).clone()).collect()).await?;
                let is_stored =
                    |roll: &Roll| newest[&roll.screen].epoch == roll.epoch && !refused.contains(&roll.screen);
                Ok(rolls.iter().map(is_stored).collect())
            }
        };
        self.stores.ask(merchant, roll, store).await
    }

    /// What was stored of a screen, if anything.
    ///
    /// # Errors
    /// If the database does not say.
    pub async fn find(&self, merchant: MerchantId, screen: String) -> Result<Option<Roll>> {
        let source = self.source.clone();
        let find = move |screens: Vec<String>| {
            let source = source.clone();
            async move {
                let found = source.find(merchant, &screens).await?;
                let found: HashMap<String, Roll> = found.into_iter().map(|roll| (roll.screen.clone(), roll)).collect();
                Ok(screens.iter().map(|screen| found.get(screen).cloned()).collect())
            }
        };
        self.finds.ask(merchant, screen, find).await
    }
}

/// Of each screen the last word of its newest connection.
fn newest(rolls: &[Roll]) -> HashMap<String, &Roll> {
    let mut newest: HashMap<String, &Roll> = HashMap::new();
    for roll in rolls {
        let held = newest.entry(roll.screen.clone()).or_insert(roll);
        if held.epoch <= roll.epoch {
            *held = roll;
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_the_newest_connection_counts() {
        let roll = |screen: &str, epoch, count| Roll {
            screen: screen.to_owned(),
            epoch,
            joined: vec![crate::screens::joined::Joined { channel: "sales".parse().unwrap(), since: 0 }; count],
        };
        let rolls = [roll("a", 2, 1), roll("b", 1, 2), roll("a", 1, 3), roll("a", 2, 4)];
        let newest = newest(&rolls);
        assert_eq!((newest["a"].joined.len(), newest["b"].joined.len()), (4, 2));
    }
}
