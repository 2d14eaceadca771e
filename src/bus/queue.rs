//! A queue of what is carried: bounded in number and, since entries are of any size, in bytes of them. It never waits.

use std::sync::Arc;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc};

use super::Carried;

/// Where something is put in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Queue {
    sender: mpsc::Sender<Carried>,
    /// A permit for each byte that there is room for. An entry holds its own until it is let go of.
    room: Arc<Semaphore>,
}

impl Queue {
    /// A queue, and where it is taken from.
    pub fn new(entries_max: usize, bytes_max: usize) -> (Self, mpsc::Receiver<Carried>) {
        let (sender, receiver) = mpsc::channel(entries_max);
        (Self { sender, room: Arc::new(Semaphore::new(bytes_max)) }, receiver)
    }

    /// Puts something in. False if it is full; one that nobody takes from any more is not, and what is put in is gone.
    pub fn put(&self, mut carried: Carried) -> bool {
        if let Carried::Entry(underway) = &mut carried {
            let bytes = u32::try_from(underway.entry.text.len()).unwrap_or(u32::MAX);
            let Ok(room) = self.room.clone().try_acquire_many_owned(bytes) else { return false };
            underway._room = Some(Arc::new(room));
        }
        !matches!(self.sender.try_send(carried), Err(TrySendError::Full(_)))
    }
}

#[cfg(test)]
mod tests {
    use tillwire_channels::{MerchantId, Moment, Tag};

    use super::super::Claim;
    use super::*;
    use crate::journal::{Committed, Entry};

    fn entry(bytes: usize) -> Carried {
        let (merchant, tag) = (MerchantId::new(), Tag([1; 8]));
        let entry = Entry::new(merchant, 1, Tag::GENESIS, tag, Moment::UNIX_EPOCH, " ".repeat(bytes).into());
        Carried::Entry(Committed::now(Arc::new(entry)).into())
    }

    fn claim() -> Carried {
        Carried::Claim(Claim { merchant: MerchantId::new(), screen: String::new(), epoch: 1 })
    }

    #[test]
    fn is_full_of_large_entries_and_of_many_and_has_room_when_they_are_let_go_of() {
        let (queue, mut taken) = Queue::new(3, 1_000);
        assert!(queue.put(entry(600)) && !queue.put(entry(600)) && queue.put(entry(300)));
        let first = taken.try_recv().unwrap();
        assert!(!queue.put(entry(600)), "somebody still has it");
        drop(first);
        assert!(queue.put(entry(600)) && queue.put(claim()) && !queue.put(claim()));
        assert!(!queue.put(entry(50)), "no place");
        while taken.try_recv().is_ok() {}
        assert!(queue.put(entry(1_000)), "what had no place holds no room");
        drop(taken);
        assert!(queue.put(entry(1_000)), "nobody takes from it");
    }
}
