//! Snapshots over the socket: the state of a channel, read once for however many screens ask, encoded once for all.
//!
//! The gateway does not know what a state is made of: [`StateOf`] is its only door to that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use serde_json::value::RawValue;
use tillwire_channels::wire::Snapshot;
use tillwire_channels::{Channel, MerchantId, Position};
use tillwire_socketio::Encoded;
use tokio_util::task::TaskTracker;

use super::tell;
use crate::batches::Batches;
use crate::error::Result;

/// How large the state of a channel may be, in bytes of JSON: a catalogue of fifty thousand products. Whoever wants more
/// fetches it over REST, page by page.
pub const STATE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How many bytes of states a node may hold. A screen that reads slowly holds on to its state for as long as it takes it in,
/// and those who began later hold others. What would be more is denied as if it were too large.
const HELD_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How large a part may be, in bytes. An item, which is never divided, may be larger.
const PART_BYTES_MAX: usize = 12 * 1024;
/// How long a state is kept for screens that stand where it is true, or before.
const KEPT_MAX: Duration = Duration::from_secs(2);

/// Reads the state of a channel, and where it is true: at the journal's head at that moment. `None` if it is larger than
/// the given number of bytes.
pub type StateOf = Arc<dyn Fn(MerchantId, Channel, usize) -> BoxFuture<'static, Result<State>> + Send + Sync>;

/// What [`StateOf`] answers.
pub type State = (Position, Option<Vec<Box<RawValue>>>);

/// A state as it is sent.
#[derive(Debug)]
pub struct Parts {
    pub position: Position,
    /// `None` if it is too large for that.
    pub packets: Option<Vec<Encoded>>,
}

impl Parts {
    fn bytes(&self) -> usize {
        self.packets.iter().flatten().map(Encoded::size).sum()
    }
}

type Key = (MerchantId, Channel);

/// The snapshots that were lately sent, and those that are being read.
pub struct Snapshots {
    state_of: StateOf,
    reads: Arc<Batches<Key, u64, Arc<Parts>>>,
    kept: Mutex<HashMap<Key, (Instant, Arc<Parts>)>>,
    /// Every state that somebody still has to be sent.
    held: Mutex<Vec<Weak<Parts>>>,
}

impl Snapshots {
    pub fn new(state_of: StateOf, tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self {
            state_of,
            reads: Batches::new(usize::MAX, tasks),
            kept: Mutex::default(),
            held: Mutex::default(),
        })
    }

    /// The state of a channel at `cursor` or later.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn of(self: &Arc<Self>, merchant: MerchantId, channel: Channel, cursor: Position) -> Result<Arc<Parts>> {
        let (key, snapshots) = ((merchant, channel), self.clone());
        if let Some(parts) = self.kept(key, cursor.seq) {
            return Ok(parts);
        }
        let answer = move |cursors: Vec<u64>| {
            let snapshots = snapshots.clone();
            async move {
                let furthest = cursors.iter().copied().max().unwrap_or_default();
                // Perhaps the one before us brought what we need.
                let parts = match snapshots.kept(key, furthest) {
                    Some(parts) => parts,
                    None => snapshots.read(key).await?,
                };
                Ok(vec![parts; cursors.len()])
            }
        };
        self.reads.ask(key, cursor.seq, answer).await
    }

    /// Reads a state. It is of now: whatever the cursor of whoever asked, it had been committed by then.
    async fn read(&self, (merchant, channel): Key) -> Result<Arc<Parts>> {
        metrics::counter!("tillwire_gateway_snapshots_read_total").increment(1);
        let (position, items) = (self.state_of)(merchant, channel, STATE_BYTES_MAX).await?;
        let packets = items.map(|items| encode(channel, position, &items));
        let parts = self.hold(Parts { position, packets }, HELD_BYTES_MAX);
        self.lock().insert((merchant, channel), (Instant::now(), parts.clone()));
        Ok(parts)
    }

    /// Keeps account of a state as long as anybody holds it; without its packets if that would be more than `bytes_max`.
    fn hold(&self, mut parts: Parts, bytes_max: usize) -> Arc<Parts> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|it| it.strong_count() > 0);
        let bytes: usize = held.iter().filter_map(Weak::upgrade).map(|it| it.bytes()).sum();
        if bytes + parts.bytes() > bytes_max {
            parts.packets = None;
        }
        let parts = Arc::new(parts);
        held.push(Arc::downgrade(&parts));
        parts
    }

    fn kept(&self, key: Key, at_least: u64) -> Option<Arc<Parts>> {
        let kept = self.lock();
        let (at, parts) = kept.get(&key)?;
        (at.elapsed() < KEPT_MAX && parts.position.seq >= at_least).then(|| parts.clone())
    }

    /// Lets go of what was kept long enough.
    pub fn tidy(&self) {
        self.lock().retain(|_, (at, _)| at.elapsed() < KEPT_MAX);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, (Instant, Arc<Parts>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The packets of a state: at least one, also of nothing.
fn encode(channel: Channel, position: Position, items: &[Box<RawValue>]) -> Vec<Encoded> {
    let mut parts: Vec<&[Box<RawValue>]> = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (at, item) in items.iter().enumerate() {
        if at > begin && bytes + item.get().len() > PART_BYTES_MAX {
            parts.push(&items[begin..at]);
            (begin, bytes) = (at, 0);
        }
        bytes += item.get().len();
    }
    parts.push(&items[begin..]);
    let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    let snapshot = |(number, state): (u32, &&[Box<RawValue>])| {
        tell::snapshot(&Snapshot { channel, of: (number, count), state: state.to_vec() }, position)
    };
    (1..).zip(&parts).map(snapshot).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use futures_util::future::join_all;
    use serde_json::Value;
    use serde_json::value::to_raw_value;
    use tillwire_channels::Tag;

    use super::*;

    fn items(count: usize, bytes: usize) -> Vec<Box<RawValue>> {
        (0..count).map(|_| to_raw_value(&"x".repeat(bytes)).unwrap()).collect()
    }

    #[test]
    fn parts_are_small_complete_and_numbered() {
        let channel: Channel = "catalog".parse().unwrap();
        let position = Position::of_entry(7, Tag([7; 8]));
        for (count, bytes, parts) in [(0, 0, 1), (3, 100, 1), (100, 1_000, 9), (3, 2 * PART_BYTES_MAX, 3)] {
            let packets = encode(channel, position, &items(count, bytes));
            assert_eq!(packets.len(), parts);
            let mut found = 0;
            for (at, packet) in (1..).zip(&packets) {
                let packet: Value = serde_json::from_str(packet.text().trim_start_matches(char::is_numeric)).unwrap();
                assert_eq!(packet[0], "snapshot");
                assert_eq!(packet[1]["of"], serde_json::json!([at, parts]));
                assert_eq!(packet[2], position.to_string());
                found += packet[1]["state"].as_array().unwrap().len();
            }
            assert_eq!(found, count);
        }
    }

    #[test]
    fn states_that_slow_screens_hold_are_bounded_together() {
        let state_of: StateOf = Arc::new(|_, _, _| Box::pin(async { Ok((Position::START, None)) }));
        let snapshots = Snapshots::new(state_of, TaskTracker::new());
        let channel = "stock".parse().unwrap();
        let state = || {
            let packets = Some(encode(channel, Position::START, &items(10, 1_000)));
            Parts { position: Position::START, packets }
        };
        let bytes_max = 2 * state().bytes();
        let [first, second, third] = [(); 3].map(|()| snapshots.hold(state(), bytes_max));
        assert!(first.packets.is_some() && second.packets.is_some() && third.packets.is_none());
        drop(first);
        assert!(snapshots.hold(state(), bytes_max).packets.is_some());
    }

    #[tokio::test]
    async fn a_state_is_read_once_for_all_who_ask_and_again_for_who_is_further() {
        let (head, reads) = (Arc::new(AtomicU64::new(5)), Arc::new(AtomicU64::new(0)));
        let state_of: StateOf = {
            let (head, reads) = (head.clone(), reads.clone());
            Arc::new(move |_, _, _| {
                reads.fetch_add(1, Relaxed);
                let position = Position::of_entry(head.load(Relaxed), Tag::GENESIS);
                Box::pin(async move {
                    tokio::task::yield_now().await;
                    Ok((position, Some(items(3, 10))))
                })
            })
        };
        let snapshots = Snapshots::new(state_of, TaskTracker::new());
        let (merchant, channel) = (MerchantId::new(), "stock".parse().unwrap());
        let asks = async |seq| {
            let cursor = Position::of_entry(seq, Tag::GENESIS);
            let all = join_all((0..2_000).map(|_| snapshots.of(merchant, channel, cursor))).await;
            all.into_iter().map(|parts| parts.unwrap().position.seq).all(|at| at >= seq)
        };
        assert!(asks(5).await && asks(4).await && asks(5).await);
        assert_eq!(reads.load(Relaxed), 1);
        head.store(6, Relaxed);
        assert!(asks(6).await);
        assert_eq!(reads.load(Relaxed), 2);
    }
}
