//! Whose requests these are, by address, and how many sessions each has.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use http::{Extensions, HeaderMap};

use crate::Config;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The address that a client's sessions are counted under; `None` if nobody knows it.
///
/// A proxy that is trusted vouches for whoever called it, and that one for the next if it is trusted as well: read from the
/// end of the list, where our own proxy has written. What a stranger says of itself is not looked at.
pub(crate) fn counted_address(config: &Config, headers: &HeaderMap, extensions: &Extensions) -> Option<IpAddr> {
    let mut address = (config.remote_addr)(extensions)?.ip().to_canonical();
    let lines = headers.get_all(FORWARDED_FOR).into_iter().rev();
    let mut hops = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
    while (config.is_proxy)(address)
        && let Some(next) = hops.next().and_then(hop)
    {
        address = next;
    }
    Some(block(address))
}

/// An address as proxies write it, with or without a port.
fn hop(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse().map(|address: SocketAddr| address.ip())).ok()?;
    Some(IpAddr::to_canonical(&address))
}

/// What one customer is given by a provider: an IPv4 address, or 64 bits of IPv6.
fn block(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// How many sessions each address has. An address that has none takes no room.
#[derive(Default)]
pub(crate) struct Addresses(Mutex<HashMap<IpAddr, usize>>);

impl Addresses {
    /// Counts one more, unless it has as many as it may.
    pub fn enter(&self, address: IpAddr, max: usize) -> bool {
        let mut counts = self.lock();
        let count = counts.entry(address).or_default();
        let is_free = *count < max;
        *count += usize::from(is_free);
        if *count == 0 {
            counts.remove(&address);
        }
        is_free
    }

    /// Counts one less.
    pub fn leave(&self, address: IpAddr) {
        let mut counts = self.lock();
        let Some(count) = counts.get_mut(&address) else { return };
        *count -= 1;
        if *count == 0 {
            counts.remove(&address);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn counted(peer: &str, forwarded: &[&str]) -> String {
        let config = Config {
            is_proxy: Arc::new(|address| address.is_loopback() || address.to_string().starts_with("10.")),
            ..Config::default()
        };
        let (mut headers, mut extensions) = (HeaderMap::new(), Extensions::new());
        forwarded.iter().for_each(|line| _ = headers.append(FORWARDED_FOR, line.parse().unwrap()));
        extensions.insert(SocketAddr::new(peer.parse().unwrap(), 4711));
        counted_address(&config, &headers, &extensions).unwrap().to_string()
    }

    #[test]
    fn only_a_trusted_proxy_says_who_called_it() {
        assert_eq!(counted("203.0.113.7", &["198.51.100.1"]), "203.0.113.7", "a stranger's word");
        assert_eq!(counted("127.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(counted("127.0.0.1", &["192.0.2.9, 198.51.100.1"]), "198.51.100.1", "what the client made up");
        assert_eq!(counted("127.0.0.1", &["192.0.2.9", "198.51.100.1, 10.0.0.2"]), "198.51.100.1", "two proxies");
        assert_eq!(counted("::ffff:127.0.0.1", &["198.51.100.1:5000"]), "198.51.100.1");
        for nothing in [&[][..], &[""], &["unknown"], &["198.51.100.1,"]] {
            assert_eq!(counted("127.0.0.1", nothing), "127.0.0.1", "{nothing:?}: the proxy's own");
        }
    }

    #[test]
    fn an_address_of_version_6_counts_with_its_neighbours() {
        assert_eq!(counted("2001:db8:1:2:3:4:5:6", &[]), "2001:db8:1:2::");
        assert_eq!(counted("127.0.0.1", &["[2001:db8:1:2::9]:443"]), "2001:db8:1:2::");
        assert_eq!(counted("127.0.0.1", &["[2001:db8:1:2::9]"]), "2001:db8:1:2::");
        assert_eq!(counted("::ffff:203.0.113.7", &[]), "203.0.113.7");
    }

    #[test]
    fn who_has_left_takes_no_room() {
        let (addresses, address) = (Addresses::default(), IpAddr::from([203, 0, 113, 7]));
        assert!(addresses.enter(address, 1) && !addresses.enter(address, 1));
        addresses.leave(address);
        assert!(addresses.lock().is_empty());
        assert!(!addresses.enter(address, 0) && addresses.lock().is_empty());
    }
}
