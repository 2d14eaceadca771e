//! What screens have joined since they connected, kept outside the gateway so that any node knows it.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{BuildHasher as _, BuildHasherDefault};
use std::sync::Arc;

use tillwire_channels::MerchantId;
use tillwire_socketio::SocketRef;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard};
use tokio_util::task::TaskTracker;

use super::source::Source;
use crate::batches::Batches;
use crate::error::Result;
use crate::screens::joined::Roll;

/// How many screens' rolls are read or stored together.
const BATCH_MAX: usize = 256;
/// How many screens may change what they have joined at once.
const CHANGES_MAX: usize = 256;

pub struct Rolls {
    source: Source,
    /// Held while a roll is changed: what was stored last must be what happened last.
    changing: [AsyncMutex<()>; CHANGES_MAX],
    stores: Arc<Batches<MerchantId, Roll, bool>>,
    finds: Arc<Batches<MerchantId, String, Option<Roll>>>,
}

impl Rolls {
    pub fn new(source: Source, tasks: TaskTracker) -> Self {
        let changing = std::array::from_fn(|_| AsyncMutex::default());
        let (stores, finds) = (Batches::new(BATCH_MAX, tasks.clone()), Batches::new(BATCH_MAX, tasks));
        Self { source, stores, finds, changing }
    }

    /// A screen's turn to change its roll, from reading it to having stored it.
    pub async fn turn(&self, screen: &SocketRef) -> AsyncMutexGuard<'_, ()> {
        let place = BuildHasherDefault::<DefaultHasher>::default().hash_one(screen.id()) as usize;
        self.changing[place % CHANGES_MAX].lock().await
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
    use tillwire_channels::Channel;

    use super::*;
    use crate::screens::joined::Joined;

    #[test]
    fn the_last_word_of_the_newest_connection_counts() {
        let roll = |screen: &str, epoch, count| Roll {
            screen: screen.to_owned(),
            epoch,
            joined: vec![Joined::from("sales".parse::<Channel>().unwrap()); count],
        };
        let rolls = [roll("a", 2, 1), roll("b", 1, 2), roll("a", 1, 3), roll("a", 2, 4)];
        let newest = newest(&rolls);
        assert_eq!((newest["a"].joined.len(), newest["b"].joined.len()), (4, 2));
    }
}
