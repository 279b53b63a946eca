//! Socket addresses on the wire, and which of them may be dialled.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use cascade_primitives::{Decode, DecodeError, DecodeErrorKind, Encode, Reader};

/// A socket address in its one canonical form: IPv4-mapped IPv6 addresses are written as IPv4, and the flow label and
/// scope of IPv6 are not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint(SocketAddr);

impl Endpoint {
    /// The canonical form of an address.
    #[must_use]
    pub const fn new(addr: SocketAddr) -> Self {
        Self(canonical(addr))
    }

    /// The address.
    #[must_use]
    pub const fn addr(self) -> SocketAddr {
        self.0
    }

    /// Whether this address can be dialled: a port, and an address of one host. Addresses of private networks
    /// (RFC 1918, RFC 4193, link local, loopback) count only with `private`, so that strangers cannot make a node
    /// dial into the network that it stands in.
    #[must_use]
    pub fn is_dialable(self, private: bool) -> bool {
        if self.0.port() == 0 {
            return false;
        }
        match self.0.ip() {
            IpAddr::V4(ip) => {
                let host = !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast();
                let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
                host && (private || !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared))
            }
            IpAddr::V6(ip) => {
                let host = !ip.is_unspecified() && !ip.is_multicast();
                let inside = ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local();
                host && (private || !inside)
            }
        }
    }
}

/// The address with IPv4-mapped IPv6 written as IPv4, as a dual-stack socket reports it otherwise.
pub(crate) const fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// What limits per host are counted by: an IPv4 address, or the /64 that an IPv6 host is usually given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HostKey([u8; 9]);

impl HostKey {
    pub(crate) fn of(ip: IpAddr) -> Self {
        let mut key = [0; 9];
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                key[0] = 4;
                key[1..5].copy_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                key[0] = 6;
                key[1..].copy_from_slice(&ip.octets()[..8]);
            }
        }
        Self(key)
    }
}

impl Encode for Endpoint {
    fn encode(&self, out: &mut Vec<u8>) {
        match self.0.ip() {
            IpAddr::V4(ip) => {
                out.push(4);
                out.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                out.push(6);
                out.extend_from_slice(&ip.octets());
            }
        }
        self.0.port().encode(out);
    }
}

impl Decode for Endpoint {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let ip = match u8::decode(r.field("address family"))? {
            4 => IpAddr::V4(Ipv4Addr::from(r.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(r.array::<16>()?)),
            tag => return Err(r.error(DecodeErrorKind::UnknownTag(u64::from(tag)))),
        };
        if ip != ip.to_canonical() {
            return Err(r.error(DecodeErrorKind::NotCanonical("an IPv4 address is not written as IPv6")));
        }
        Ok(Self(SocketAddr::new(ip, u16::decode(r.field("port"))?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        Endpoint::new(text.parse().unwrap())
    }

    #[test]
    fn an_address_has_one_encoding() {
        for text in ["1.2.3.4:5", "[2001:db8::1]:30303", "[::ffff:1.2.3.4]:5"] {
            let addr = endpoint(text);
            assert_eq!(Endpoint::from_slice(&addr.to_bytes()), Ok(addr));
        }
        assert_eq!(endpoint("[::ffff:1.2.3.4]:5"), endpoint("1.2.3.4:5"));
        let mut mapped = vec![6];
        mapped.extend_from_slice(&Ipv4Addr::new(1, 2, 3, 4).to_ipv6_mapped().octets());
        mapped.extend_from_slice(&[5, 0]);
        let error = Endpoint::from_slice(&mapped).unwrap_err();
        assert!(matches!(error.kind, DecodeErrorKind::NotCanonical(_)));
    }

    #[test]
    fn strangers_cannot_send_us_into_our_own_network() {
        for inside in ["127.0.0.1:1", "10.1.1.1:1", "192.168.0.1:1", "169.254.169.254:80", "100.64.0.1:1", "[::1]:1"] {
            assert!(!endpoint(inside).is_dialable(false), "{inside}");
            assert!(endpoint(inside).is_dialable(true), "{inside}");
        }
        for never in ["0.0.0.0:1", "8.8.8.8:0", "224.0.0.1:1", "255.255.255.255:1", "[::]:1", "[ff02::1]:1"] {
            assert!(!endpoint(never).is_dialable(true), "{never}");
        }
        assert!(endpoint("8.8.8.8:53").is_dialable(false));
    }

    #[test]
    fn limits_per_host_see_through_mapped_addresses_and_ipv6_subnets() {
        let key = |text: &str| HostKey::of(text.parse().unwrap());
        assert_eq!(key("::ffff:1.2.3.4"), key("1.2.3.4"));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
    }
}
