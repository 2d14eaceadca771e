//! Where the hub may connect to on a stranger's word: public addresses, by TLS, on few ports.
//!
//! A name is resolved by us and every address of it is judged; whoever connects, connects to an address that was judged
//! and asks for no name again, for the answer might be another the second time. Notations of addresses are the URL
//! parser's matter, which knows them all: `https://0x7f.1`, `https://2130706433` and `https://[::ffff:7f00:1]` come here as
//! the addresses that they are.

pub mod client;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

/// The port of HTTPS.
const HTTPS: u16 = 443;
/// The longest URL that is kept.
pub const URL_BYTES_MAX: usize = 2_048;

/// What of the Internet's addresses is not for everyone: <https://www.iana.org/assignments/iana-ipv4-special-registry>.
const NOT_PUBLIC_V4: [(Ipv4Addr, u8); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),       // This network.
    (Ipv4Addr::new(10, 0, 0, 0), 8),      // Private.
    (Ipv4Addr::new(100, 64, 0, 0), 10),   // Shared with a carrier's NAT.
    (Ipv4Addr::new(127, 0, 0, 0), 8),     // Loopback.
    (Ipv4Addr::new(169, 254, 0, 0), 16),  // Link-local; clouds tell secrets there.
    (Ipv4Addr::new(172, 16, 0, 0), 12),   // Private.
    (Ipv4Addr::new(192, 0, 0, 0), 24),    // Protocol assignments.
    (Ipv4Addr::new(192, 0, 2, 0), 24),    // Documentation.
    (Ipv4Addr::new(192, 31, 196, 0), 24), // AS112.
    (Ipv4Addr::new(192, 52, 193, 0), 24), // AMT.
    (Ipv4Addr::new(192, 88, 99, 0), 24),  // 6to4's relays.
    (Ipv4Addr::new(192, 168, 0, 0), 16),  // Private.
    (Ipv4Addr::new(198, 18, 0, 0), 15),   // Benchmarks.
    (Ipv4Addr::new(198, 51, 100, 0), 24), // Documentation.
    (Ipv4Addr::new(203, 0, 113, 0), 24),  // Documentation.
    (Ipv4Addr::new(224, 0, 0, 0), 3),     // Multicast, class E, broadcast.
];

/// Of IPv6 only this is given to the public: 2000::/3. All that stands for an IPv4 address but 6to4 and Teredo is outside.
const PUBLIC_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// What of that is not: <https://www.iana.org/assignments/iana-ipv6-special-registry>.
const NOT_PUBLIC_V6: [(Ipv6Addr, u8); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // Protocol assignments: Teredo, benchmarks, ORCHID.
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // Documentation.
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4.
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // Documentation.
];

/// Why a URL is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Malformed,
    TooLong,
    NotHttps,
    UserInfo,
    Port,
    Fragment,
    /// It names an address that is not public.
    Address,
}

impl Refused {
    /// In words for whoever gave it.
    pub fn detail(self) -> &'static str {
        match self {
            Self::Malformed => "This is no URL",
            Self::TooLong => "A URL has at most 2,048 characters",
            Self::NotHttps => "Only https:// is connected to",
            Self::UserInfo => "A URL must not hold a user or a password",
            Self::Port => "This port is not connected to",
            Self::Fragment => "A URL must not have a fragment",
            Self::Address => "This address is not public",
        }
    }
}

/// What an operator allows besides public addresses by HTTPS.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    /// Networks of their own, to which plain HTTP may go as well.
    pub networks: Vec<IpNet>,
    /// Ports besides 443.
    pub ports: Vec<u16>,
}

impl Egress {
    /// A URL that may be connected to, as far as that can be said before its name is resolved.
    ///
    /// # Errors
    /// With the reason.
    pub fn parse(&self, text: &str) -> Result<Url, Refused> {
        if text.len() > URL_BYTES_MAX {
            return Err(Refused::TooLong);
        }
        let url = Url::parse(text).map_err(|_| Refused::Malformed)?;
        let host = url.host().ok_or(Refused::Malformed)?;
        let address = match host {
            Host::Ipv4(address) => Some(IpAddr::V4(address)),
            Host::Ipv6(address) => Some(IpAddr::V6(address)),
            Host::Domain(_) => None,
        };
        let is_ours = address.is_some_and(|it| self.is_ours(it));
        match url.scheme() {
            "https" => {}
            // A name might lead anywhere, and by HTTP whoever is there is believed.
            "http" if is_ours => {}
            _ => return Err(Refused::NotHttps),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::UserInfo);
        }
        if url.fragment().is_some() {
            return Err(Refused::Fragment);
        }
        let port = url.port_or_known_default().ok_or(Refused::Port)?;
        if !is_ours && port != HTTPS && !self.ports.contains(&port) {
            return Err(Refused::Port);
        }
        if address.is_some_and(|it| !self.allows(it)) {
            return Err(Refused::Address);
        }
        Ok(url)
    }

    /// Of the addresses that a name has, those that may be connected to. Whoever gives a name both kinds gets none: it was
    /// made to lead us there.
    pub fn allowed(&self, addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
        let addresses: Vec<SocketAddr> = addresses.into_iter().collect();
        if addresses.iter().all(|it| self.allows(it.ip())) { addresses } else { Vec::new() }
    }

    /// Whether this address may be connected to.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.is_ours(address) || is_public(address)
    }

    fn is_ours(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }
}

/// Whether an address is for everyone on the Internet.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !NOT_PUBLIC_V4.iter().any(|(net, bits)| Ipv4Net::new_assert(*net, *bits).contains(&address))
        }
        IpAddr::V6(address) => {
            let (net, bits) = PUBLIC_V6;
            Ipv6Net::new_assert(net, bits).contains(&address)
                && !NOT_PUBLIC_V6.iter().any(|(net, bits)| Ipv6Net::new_assert(*net, *bits).contains(&address))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_not_for_everyone_are_refused_in_every_notation() {
        let egress = Egress::default();
        let hosts = [
            // The same loopback, over and over.
            "127.0.0.1",
            "127.1",
            "127.0.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "017700000001",
            "127.0.0.1.",
            "１２７.0.0.1",
            "127。0。0。1",
            "0",
            "0.0.0.0",
            "127.255.255.254",
            "[::1]",
            "[::]",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::127.0.0.1]",
            // Private, shared, link-local, where clouds tell their secrets.
            "10.0.0.1",
            "10.255.255.255",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.255.254",
            "169.254.169.254",
            "0xa9fea9fe",
            "2852039166",
            "0251.0376.0251.0376",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "[fec0::1]",
            "[fc00::1]",
            "[fdff::1]",
            // Of no use to anyone.
            "192.0.0.1",
            "192.0.0.170",
            "192.0.2.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.2.3",
            "240.0.0.1",
            "255.255.255.255",
            "192.88.99.1",
            "[ff02::1]",
            "[2001:db8::1]",
            "[3fff::1]",
            "[100::1]",
            // An IPv4 address within: mapped, 6to4, Teredo, NAT64.
            "[::ffff:10.0.0.1]",
            "[::ffff:8.8.8.8]",
            "[2002:7f00:1::]",
            "[2002:a9fe:a9fe::1]",
            "[2001:0:7f00:1::]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b::a9fe:a9fe]",
            "[64:ff9b:1::1]",
        ];
        for host in hosts {
            assert_eq!(egress.parse(&format!("https://{host}/hook")), Err(Refused::Address), "{host}");
        }
        for host in [
            "8.8.8.8",
            "1.1.1.1",
            "134744072",
            "[2606:4700:4700::1111]",
            "[2a00:1450::1]",
            "hooks.example",
            "xn--bcher-kva.example",
        ] {
            assert!(egress.parse(&format!("https://{host}/hook")).is_ok(), "{host}");
        }
    }

    #[test]
    fn a_url_is_plain_https() {
        let egress = Egress { networks: Vec::new(), ports: vec![8443] };
        for (url, why) in [
            ("", Refused::Malformed),
            ("hooks.example", Refused::Malformed),
            ("https://", Refused::Malformed),
            ("https://[fe80::1%25eth0]/", Refused::Malformed),
            ("https://[::1%eth0]/", Refused::Malformed),
            ("https://256.1.1.1/", Refused::Malformed),
            ("https://1.2.3.4.5/", Refused::Malformed),
            ("http://hooks.example/", Refused::NotHttps),
            ("http://8.8.8.8/", Refused::NotHttps),
            ("ftp://hooks.example/", Refused::NotHttps),
            ("gopher://hooks.example/", Refused::NotHttps),
            ("file://hooks.example/etc/passwd", Refused::NotHttps),
            ("https://user@hooks.example/", Refused::UserInfo),
            ("https://user:pass@hooks.example/", Refused::UserInfo),
            ("https://hooks.example@127.0.0.1/", Refused::UserInfo),
            ("https://hooks.example:22/", Refused::Port),
            ("https://hooks.example:80/", Refused::Port),
            ("https://hooks.example:0/", Refused::Port),
            ("https://hooks.example/#frag", Refused::Fragment),
        ] {
            assert_eq!(egress.parse(url), Err(why), "{url}");
        }
        assert_eq!(
            egress.parse(&format!("https://hooks.example/{}", "x".repeat(URL_BYTES_MAX))),
            Err(Refused::TooLong)
        );
        for url in [
            "https://hooks.example",
            "https://hooks.example:443/a?b=c",
            "https://hooks.example:8443/",
            "HTTPS://HOOKS.example/",
        ] {
            assert!(egress.parse(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn a_name_with_an_address_that_is_not_public_leads_nowhere() {
        let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let egress = Egress::default();
        let public = [at("8.8.8.8:443"), at("[2606:4700::1]:443")];
        assert_eq!(egress.allowed(public), public);
        assert!(egress.allowed([at("8.8.8.8:443"), at("127.0.0.1:443")]).is_empty());
        assert!(egress.allowed([at("[::ffff:8.8.8.8]:443")]).is_empty());
    }

    #[test]
    fn an_operators_own_network_is_connected_to_on_any_port_and_without_tls() {
        let egress = Egress { networks: vec!["10.1.0.0/16".parse().unwrap()], ports: Vec::new() };
        for url in ["http://10.1.2.3:8080/hook", "https://10.1.2.3:9000/", "http://0x0a010203/"] {
            assert!(egress.parse(url).is_ok(), "{url}");
        }
        assert_eq!(egress.parse("http://10.2.2.3:8080/"), Err(Refused::NotHttps));
        assert_eq!(egress.parse("https://10.2.2.3/"), Err(Refused::Address));
        // What a name leads to is only known later; plain HTTP goes to none.
        assert_eq!(egress.parse("http://printer.local/"), Err(Refused::NotHttps));
    }
}
