//! The map of a Redis Cluster: which master serves which of the 16,384 slots, as far as we know.
//!
//! It is asked for now and then, and corrected at once by whoever answers that a slot has moved.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value};
use tokio::sync::{Notify, watch};

const SLOTS: usize = 16_384;
/// How long an answer from an earlier epoch of the cluster is not believed: it comes from a node that has been cut off.
/// After that the cluster has been made anew.
const EPOCH_AGE_MAX: Duration = Duration::from_secs(30);

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Who serves each slot, at an epoch of the cluster.
pub struct Slots {
    owners: Vec<Option<Arc<Address>>>,
    epoch: u64,
    told_at: Instant,
}

impl Slots {
    fn unknown() -> Self {
        Self { owners: vec![None; SLOTS], epoch: 0, told_at: Instant::now() }
    }

    /// What a node of the cluster knows, which we reach at this address.
    pub async fn ask(connection: &MultiplexedConnection, address: &Address) -> anyhow::Result<Self> {
        let mut connection = connection.clone();
        let info: String = redis::cmd("CLUSTER").arg("INFO").query_async(&mut connection).await?;
        let slots: Vec<Value> = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
        Self::read(&info, &slots, address)
    }

    fn read(info: &str, ranges: &[Value], asked: &Address) -> anyhow::Result<Self> {
        let epoch = info.lines().find_map(|line| line.strip_prefix("cluster_current_epoch:"));
        let epoch = epoch.context("no epoch in what the node says of its cluster")?.trim().parse()?;
        let mut slots = Self { epoch, ..Self::unknown() };
        let mut known: HashMap<Address, Arc<Address>> = HashMap::new();
        for range in ranges {
            let (first, last, master) = range_of(range, asked).ok_or_else(|| anyhow!("a strange map of slots"))?;
            ensure!(first <= last && last < SLOTS, "a strange range of slots");
            // A node that has no name yet, and will have one when it is asked for again.
            let Some(master) = master else { continue };
            let master = known.entry(master.clone()).or_insert_with(|| Arc::new(master));
            slots.owners[first..=last].fill(Some(master.clone()));
        }
        Ok(slots)
    }

    pub fn masters(&self) -> BTreeSet<Arc<Address>> {
        self.owners.iter().flatten().cloned().collect()
    }

    /// Who serves this channel.
    pub fn owner(&self, channel: &str) -> Option<&Arc<Address>> {
        self.owners[usize::from(slot(channel))].as_ref()
    }

    /// How many slots nobody serves.
    pub fn unserved(&self) -> usize {
        self.owners.iter().filter(|owner| owner.is_none()).count()
    }
}

/// One line of `CLUSTER SLOTS`: first and last slot, and the master, whose host is not told if it is the one asked.
fn range_of(range: &Value, asked: &Address) -> Option<(usize, usize, Option<Address>)> {
    let Value::Array(range) = range else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = &range[..] else { return None };
    let [host, Value::Int(port), ..] = &master[..] else { return None };
    let host = match host {
        Value::Nil => asked.host.clone(),
        Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
        Value::SimpleString(host) => host.clone(),
        _ => return None,
    };
    let master =
        Address { host: if host.is_empty() { asked.host.clone() } else { host }, port: (*port).try_into().ok()? };
    Some(((*first).try_into().ok()?, (*last).try_into().ok()?, (master.host != "?").then_some(master)))
}

/// The map that all of a node's links to a cluster look at.
pub struct Atlas {
    slots: watch::Sender<Slots>,
    doubts: Notify,
}

impl Default for Atlas {
    fn default() -> Self {
        Self { slots: watch::Sender::new(Slots::unknown()), doubts: Notify::new() }
    }
}

impl Atlas {
    pub fn now(&self) -> watch::Ref<'_, Slots> {
        self.slots.borrow()
    }

    pub fn changes(&self) -> watch::Receiver<Slots> {
        self.slots.subscribe()
    }

    /// Takes what a node of the cluster answered, unless it is older than what we know.
    pub fn replace(&self, answer: Slots) {
        self.slots.send_if_modified(|known| {
            if answer.epoch < known.epoch && known.told_at.elapsed() < EPOCH_AGE_MAX {
                return false;
            }
            let is_new = known.owners != answer.owners;
            *known = answer;
            is_new
        });
    }

    /// Learns from the refusal of a node that does not serve a slot, or not now.
    pub fn correct(&self, refusal: &RedisError, asked: &Address) {
        if refusal.code() == Some("MOVED")
            && let Some((place, slot)) = refusal.redirect_node()
            && let Some(owner) = place_of(place, asked)
        {
            self.slots.send_if_modified(|known| {
                let Some(entry) = known.owners.get_mut(usize::from(slot)) else { return false };
                let is_new = entry.as_deref() != Some(&owner);
                *entry = Some(Arc::new(owner));
                is_new
            });
        }
        self.doubts.notify_one();
    }

    /// Waits until somebody learned that the map is wrong.
    pub async fn doubted(&self) {
        self.doubts.notified().await;
    }
}

/// A place as a redirection writes it: without a host, it is on the one that was asked.
fn place_of(place: &str, asked: &Address) -> Option<Address> {
    let (host, port) = place.rsplit_once(':')?;
    let host = if host.is_empty() { &asked.host } else { host };
    (host != "?").then(|| Some(Address { host: host.to_owned(), port: port.parse().ok()? }))?
}

/// The slot of a channel whose name has no braces: CRC-16/XMODEM, as Redis has it.
fn slot(channel: &str) -> u16 {
    let crc = channel.bytes().fold(0_u16, |crc, byte| (crc << 8) ^ CRC[usize::from((crc >> 8) as u8 ^ byte)]);
    crc % SLOTS as u16
}

const CRC: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Address {
        Address { host: "10.0.0.1".to_owned(), port }
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        let id = Value::BulkString(b"07c37d".to_vec());
        let node = Value::Array(vec![host, Value::Int(port), id, Value::Map(vec![])]);
        Value::Array(vec![Value::Int(first), Value::Int(last), node.clone(), node])
    }

    fn whole(epoch: u64, port: i64) -> Slots {
        let ranges = [range(0, 16_383, Value::Nil, port)];
        Slots::read(&format!("cluster_state:ok\r\ncluster_current_epoch:{epoch}\r\n"), &ranges, &address(1)).unwrap()
    }

    fn refusal(text: &str) -> RedisError {
        redis::parse_redis_value(text.as_bytes()).unwrap().extract_error().unwrap_err()
    }

    #[test]
    fn slots_are_those_of_redis() {
        // As `CLUSTER KEYSLOT` answers.
        assert_eq!((slot("123456789"), slot("foo"), slot("bar")), (0x31c3, 12_182, 5_061));
        let channel = "tillwire:live:0192d3a4-5b6c-7d8e-9fa0-b1c2d3e4f506";
        assert_eq!(slot(channel), 15_876);
    }

    #[test]
    fn a_map_is_read_whoever_is_named_in_it() {
        let ranges = [
            range(0, 5_460, Value::Nil, 7_000),
            range(5_461, 10_922, Value::BulkString(b"fd00::2".to_vec()), 7_001),
            range(10_923, 16_000, Value::BulkString(b"?".to_vec()), 7_002),
        ];
        let slots = Slots::read("cluster_current_epoch:6", &ranges, &address(7_000)).unwrap();
        let masters: Vec<String> = slots.masters().iter().map(ToString::to_string).collect();
        assert_eq!(masters, ["10.0.0.1:7000", "[fd00::2]:7001"]);
        assert_eq!(slots.unserved(), 16_384 - 10_923);
        assert_eq!(slots.owner("bar").unwrap().port, 7_000);
        assert!(slots.owner("foo").is_none());
        for strange in
            [range(5, 4, Value::Nil, 1), range(0, 16_384, Value::Nil, 1), range(0, 1, Value::Nil, -1), Value::Nil]
        {
            assert!(Slots::read("cluster_current_epoch:6", &[strange], &address(1)).is_err());
        }
        assert!(Slots::read("", &[], &address(1)).is_err());
    }

    #[test]
    fn a_node_that_was_cut_off_is_not_believed() {
        let atlas = Atlas::default();
        atlas.replace(whole(6, 7_000));
        atlas.replace(whole(7, 7_001));
        atlas.replace(whole(6, 7_000));
        assert_eq!(atlas.now().owner("foo").unwrap().port, 7_001);
    }

    #[test]
    fn a_slot_that_moved_is_looked_for_where_it_is_said_to_be() {
        let atlas = Atlas::default();
        atlas.replace(whole(6, 7_000));
        let mut changes = atlas.changes();
        atlas.correct(&refusal("-MOVED 12182 10.0.0.2:7001\r\n"), &address(7_000));
        assert_eq!(atlas.now().owner("foo").unwrap().to_string(), "10.0.0.2:7001");
        assert_eq!(atlas.now().owner("bar").unwrap().to_string(), "10.0.0.1:7000");
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        atlas.correct(&refusal("-MOVED 12182 :7002\r\n"), &address(7_000));
        assert_eq!(atlas.now().owner("foo").unwrap().to_string(), "10.0.0.1:7002");
        changes.mark_unchanged();
        for other in [
            "-CLUSTERDOWN Hash slot not served\r\n",
            "-MOVED 12182 ?:7001\r\n",
            "-MOVED 99999 h:1\r\n",
            "-ASK 12182 h:1\r\n",
        ] {
            atlas.correct(&refusal(other), &address(7_000));
            assert!(!changes.has_changed().unwrap(), "{other}");
        }
    }
}
