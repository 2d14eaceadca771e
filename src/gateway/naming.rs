//! Session ids that name their node: whoever is asked about one knows where to send the question.
//!
//! An id is, in URL-safe base64, the number of a key (2 bytes), the node's address (6 bytes, or 18 with IPv6), 128
//! random bits, and a mark over all of that. Without the mark a client could have us connect to wherever it likes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::address::Place;
use super::seals::{Keys, MARK_BYTES, Mark, Seals};

/// How often the keys are read again.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How soon after the last time, because somebody brought an id of a key that is not known.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How long nobody asks a database that did not answer.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// How long a request waits for the keys.
const WAIT_MAX: Duration = Duration::from_secs(1);
const RANDOM_BYTES: usize = 16;
const KEY_BYTES: usize = 2;
const PORT_BYTES: usize = 2;
/// What comes before and after the IP address.
const FRAME_BYTES: usize = KEY_BYTES + PORT_BYTES + RANDOM_BYTES + MARK_BYTES;

/// Makes this node's session ids, and reads everybody's.
pub struct Naming {
    seals: Arc<Seals>,
    place: Place,
    known: watch::Sender<Option<Known>>,
    /// Somebody brought an id of a key that is not known.
    asked: Notify,
}

#[derive(Clone)]
struct Known {
    keys: Arc<Keys>,
    read_at: Instant,
    /// Where this node is; none if that cannot be found out.
    own: Option<SocketAddr>,
}

impl Naming {
    pub fn new(seals: Arc<Seals>, place: Place) -> Self {
        Self { seals, place, known: watch::Sender::new(None), asked: Notify::new() }
    }

    /// Reads the keys, now and again, until `stop`.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                let read_at = Instant::now();
                match self.seals.read().await {
                    Ok(keys) => {
                        // Only now, for names that lead to the database lead somewhere now.
                        let before = self.known.borrow().as_ref().map(|known| known.own);
                        let own = match before {
                            Some(own) => own,
                            None => self.find_out().await,
                        };
                        self.known.send_replace(Some(Known { keys, read_at, own }));
                        let _ = tokio::time::timeout_at(read_at + LOOK_EVERY, self.asked.notified()).await;
                        tokio::time::sleep_until(read_at + LOOK_AGAIN_AFTER).await;
                    }
                    Err(error) => {
                        debug!("The gateways' keys cannot be read: {:#}", error.into_anyhow());
                        tokio::time::sleep(RETRY_AFTER).await;
                    }
                }
            }
        })
        .await;
    }

    async fn find_out(&self) -> Option<SocketAddr> {
        let own = self.place.find().await.map(plain);
        match own {
            Some(own) => info!("Other gateways reach this one at {own}"),
            None => warn!(
                "Other gateways cannot reach this one, for nothing says at which of its addresses: with more than one \
                 gateway, set --node-address, or let the balancer keep each client on its node"
            ),
        }
        own
    }

    /// Whether ids can be made and read. Waits a moment for it.
    pub async fn is_ready(&self) -> bool {
        if self.known.borrow().is_some() {
            return true;
        }
        let mut known = self.known.subscribe();
        tokio::time::timeout(WAIT_MAX, known.wait_for(Option::is_some)).await.is_ok_and(|known| known.is_ok())
    }

    /// An id for a session of this node.
    pub fn make(&self) -> String {
        let mut random = [0; RANDOM_BYTES];
        // The library ends the process rather than fail here.
        aws_lc_rs::rand::fill(&mut random).expect("the system's source of randomness");
        let named = self.known.borrow().as_ref().and_then(|known| id(&known.keys, known.own?, random));
        named.unwrap_or_else(|| BASE64_URL_SAFE_NO_PAD.encode(random))
    }

    /// The other node that made an id; none if it was this one, or none of ours.
    pub async fn other(&self, sid: &str) -> Option<SocketAddr> {
        let id = Id::parse(sid)?;
        let known = self.known.borrow().clone()?;
        let is_ours = match id.is_ours(&known.keys) {
            // Another node has a newer key, or somebody makes up ids.
            None if known.read_at.elapsed() > LOOK_AGAIN_AFTER => {
                let mut news = self.known.subscribe();
                self.asked.notify_one();
                let _ = tokio::time::timeout(WAIT_MAX, news.changed()).await;
                let keys = news.borrow().as_ref()?.keys.clone();
                id.is_ours(&keys)
            }
            answer => answer,
        };
        (is_ours == Some(true) && Some(id.node) != known.own).then_some(id.node)
    }
}

/// What an id says.
#[derive(Debug, PartialEq, Eq)]
struct Id {
    node: SocketAddr,
    mark: Mark,
    /// Everything before the mark.
    marked: Vec<u8>,
}

impl Id {
    fn parse(sid: &str) -> Option<Self> {
        let mut marked = BASE64_URL_SAFE_NO_PAD.decode(sid).ok()?;
        let ip_bytes = marked.len().checked_sub(FRAME_BYTES)?;
        let (key, rest) = marked.split_first_chunk::<KEY_BYTES>()?;
        let (ip, rest) = rest.split_at_checked(ip_bytes)?;
        let ip: IpAddr = match ip_bytes {
            4 => <[u8; 4]>::try_from(ip).ok()?.into(),
            16 => <[u8; 16]>::try_from(ip).ok()?.into(),
            _ => return None,
        };
        let port = u16::from_be_bytes(*rest.first_chunk()?);
        let mark = Mark { key: i16::from_be_bytes(*key), bytes: *rest.last_chunk()? };
        marked.truncate(marked.len() - MARK_BYTES);
        Some(Self { node: (ip, port).into(), mark, marked })
    }

    /// Whether one of us made it; `None` if the key is not known.
    fn is_ours(&self, keys: &Keys) -> Option<bool> {
        keys.is_marked(&self.mark, &self.marked)
    }
}

fn id(keys: &Keys, node: SocketAddr, random: [u8; RANDOM_BYTES]) -> Option<String> {
    let key = keys.marks_with()?;
    let mut bytes = Vec::with_capacity(FRAME_BYTES + 16);
    bytes.extend(key.to_be_bytes());
    match node.ip() {
        IpAddr::V4(ip) => bytes.extend(ip.octets()),
        IpAddr::V6(ip) => bytes.extend(ip.octets()),
    }
    bytes.extend(node.port().to_be_bytes());
    bytes.extend(random);
    bytes.extend(keys.mark(key, &bytes)?.bytes);
    Some(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

/// An address without what only its own machine knows of it.
fn plain(address: SocketAddr) -> SocketAddr {
    (address.ip(), address.port()).into()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::super::seals::tests::keys;
    use super::*;

    fn nodes() -> [SocketAddr; 2] {
        [(Ipv4Addr::new(10, 0, 0, 7), 8080).into(), (Ipv6Addr::from_bits(7), 65_535).into()]
    }

    #[test]
    fn an_id_names_its_node_to_whoever_knows_the_key() {
        for node in nodes() {
            let sid = id(&keys(&[1]), node, [9; RANDOM_BYTES]).unwrap();
            let read = Id::parse(&sid).unwrap();
            assert_eq!((read.node, read.is_ours(&keys(&[1, 2]))), (node, Some(true)));
            assert_eq!(read.is_ours(&keys(&[2])), None);
            assert!(sid.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it)), "{sid}");
            assert!(sid.len().is_multiple_of(4), "no bits to spare that could be changed unseen: {sid}");
        }
    }

    #[test]
    fn an_id_that_was_changed_or_cut_is_none_of_ours() {
        for node in nodes() {
            let sid = id(&keys(&[1]), node, [9; RANDOM_BYTES]).unwrap();
            for at in 0..sid.len() {
                let mut changed = sid.clone().into_bytes();
                changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
                let changed = Id::parse(std::str::from_utf8(&changed).unwrap());
                assert_ne!(changed.and_then(|id| id.is_ours(&keys(&[1]))), Some(true), "{at}");
                assert_ne!(Id::parse(&sid[..at]).and_then(|id| id.is_ours(&keys(&[1]))), Some(true), "{at}");
            }
        }
        for sid in ["", "A", "!", "é", &"A".repeat(48), &"A".repeat(64), &"A".repeat(10_000)] {
            assert_ne!(Id::parse(sid).and_then(|id| id.is_ours(&keys(&[1]))), Some(true), "{sid}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_id_names_the_node_that_made_it_and_no_other_text_names_one(
            (v4, v6, is_v4, port, random) in (any::<u32>(), any::<u128>(), any::<bool>(), any::<u16>(), any::<[u8; RANDOM_BYTES]>()),
            (made_with, known) in (1..4_i16, prop::collection::btree_set(1..4_i16, 1..4)),
            (at, bit, made_up) in (any::<prop::sample::Index>(), 0..8_u8, "[A-Za-z0-9_-]{0,80}"),
        ) {
            let ip: IpAddr = if is_v4 { Ipv4Addr::from_bits(v4).into() } else { Ipv6Addr::from_bits(v6).into() };
            let known: Vec<i16> = known.into_iter().collect();
            let (known_there, node) = (keys(&known), SocketAddr::new(ip, port));
            let sid = id(&keys(&[made_with]), node, random).unwrap();
            let read = Id::parse(&sid).unwrap();
            let is_known = known.contains(&made_with).then_some(true);
            prop_assert_eq!((read.node, read.is_ours(&known_there)), (node, is_known));
            let mut changed = sid.clone().into_bytes();
            changed[at.index(sid.len())] ^= 1 << bit;
            let changed = String::from_utf8_lossy(&changed).into_owned();
            for other in [&changed, &sid[..at.index(sid.len())], &format!("{sid}A"), &made_up] {
                let is_ours = Id::parse(other).and_then(|id| id.is_ours(&known_there));
                prop_assert_ne!(is_ours, Some(true), "{}", other);
            }
        }
    }
}
