//! Addresses that carry their role in their type, so that source and destination cannot be swapped.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The address that an application dialled, before capture rewrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrigDst(pub SocketAddr);

/// The address of the application that opened a connection, as its server should see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientAddr(pub SocketAddr);

impl fmt::Display for OrigDst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Turns a v4-mapped IPv6 address (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2) into its IPv4 form.
///
/// Java and Go open dual-stack sockets, so the same peer shows in both forms;
/// everything that compares addresses compares canonical ones.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(canonical_ip(addr.ip()), addr.port())
}

/// The same as [`canonical`] for an address without a port.
pub fn canonical_ip(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn v4_mapped_addresses_become_v4_and_others_stay() {
        let check = |input: &str, want: &str| {
            assert_eq!(canonical(input.parse().unwrap()).to_string(), want);
        };
        check("[::ffff:10.0.0.1]:80", "10.0.0.1:80");
        check("[fd00::1]:80", "[fd00::1]:80");
        check("10.0.0.1:80", "10.0.0.1:80");
    }
}
