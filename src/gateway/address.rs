//! Where the other gateways of the hub reach this node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{UdpSocket, lookup_host};

/// How long names may take to become addresses.
const LOOKUP_MAX: Duration = Duration::from_secs(2);

/// What is known of where a node is.
#[derive(Clone, Debug)]
pub struct Place {
    /// What the configuration says, which is then so.
    pub given: Option<SocketAddr>,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The database, if it is reached over a network: other nodes are likely to be where it is.
    pub database: Option<(String, u16)>,
}

impl Place {
    /// `None` if there is nothing to go by.
    pub async fn find(&self) -> Option<SocketAddr> {
        if self.given.is_some() {
            return self.given;
        }
        if !self.listen.ip().is_unspecified() {
            return Some(self.listen);
        }
        let (host, port) = self.database.as_ref()?;
        let found = tokio::time::timeout(LOOKUP_MAX, lookup_host((host.as_str(), *port))).await.ok()?.ok()?;
        // Whoever listens on `[::]` hears IPv4 as well, and not the other way round.
        for there in found.filter(|there| there.is_ipv4() || self.listen.is_ipv6()) {
            if let Ok(ip) = here_towards(there).await {
                return Some((ip, self.listen.port()).into());
            }
        }
        None
    }
}

/// This machine's address on the way to another. Nothing is sent: the kernel only chooses a route.
async fn here_towards(there: SocketAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr = if there.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(there).await?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_given_comes_before_what_is_listened_on_and_that_before_what_is_found() {
        let address = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let database = |host: &str| Some((host.to_owned(), 5432));
        let place = |given: Option<&str>, listen, database| Place {
            given: given.map(address),
            listen: address(listen),
            database,
        };
        for (place, found) in [
            (place(Some("10.0.0.7:80"), "0.0.0.0:8080", database("127.0.0.1")), Some("10.0.0.7:80")),
            (place(None, "10.0.0.7:8080", database("127.0.0.1")), Some("10.0.0.7:8080")),
            (place(None, "[fd00::7]:8080", None), Some("[fd00::7]:8080")),
            (place(None, "0.0.0.0:8080", database("127.0.0.1")), Some("127.0.0.1:8080")),
            (place(None, "[::]:8080", database("127.0.0.1")), Some("127.0.0.1:8080")),
            (place(None, "[::]:8080", database("::1")), Some("[::1]:8080")),
            (place(None, "0.0.0.0:8080", database("::1")), None),
            (place(None, "0.0.0.0:8080", None), None),
        ] {
            assert_eq!(place.find().await, found.map(address), "{place:?}");
        }
    }
}
