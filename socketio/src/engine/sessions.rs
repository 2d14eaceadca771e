//! All open sessions of a server, by their private id.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::session::Session;

/// Few enough to be walked, many enough that handshakes seldom meet.
const SHARDS: usize = 16;

type Shard = HashMap<Arc<str>, Arc<Session>>;

#[derive(Default)]
pub(crate) struct Sessions {
    shards: [Mutex<Shard>; SHARDS],
}

impl Sessions {
    pub fn get(&self, sid: &str) -> Option<Arc<Session>> {
        self.shard(sid).get(sid).cloned()
    }

    /// False if the id is taken, which an id maker that is random never sees.
    pub fn insert(&self, session: &Arc<Session>) -> bool {
        let mut shard = self.shard(&session.sid);
        if shard.contains_key(&session.sid) {
            return false;
        }
        shard.insert(session.sid.clone(), session.clone());
        true
    }

    pub fn remove(&self, sid: &str) {
        self.shard(sid).remove(sid);
    }

    pub fn all(&self) -> Vec<Arc<Session>> {
        self.shards.iter().flat_map(|shard| lock(shard).values().cloned().collect::<Vec<_>>()).collect()
    }

    fn shard(&self, sid: &str) -> MutexGuard<'_, Shard> {
        // The end of an id is random even where its beginning names a node.
        let sum = sid.bytes().rev().take(4).fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        lock(&self.shards[sum % SHARDS])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
