//! Addresses as the maps hold them: always 16 bytes, ports in host byte order.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An IPv6 address, or an IPv4 one in its mapped form (`::ffff:a.b.c.d`).
///
/// One form for both, because one dual-stack socket of an application shows in either.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ip16(pub [u8; 16]);

/// [`Ip16`] and a port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address.
    pub ip: Ip16,
    /// Port, host byte order.
    pub port: u16,
    /// Always 0.
    pub pad: u16,
}

const _: () = assert!(size_of::<Ip16>() == 16 && align_of::<Ip16>() == 1);
const _: () = assert!(size_of::<Endpoint>() == 20);

// === impl Ip16 ===

impl Ip16 {
    /// From four bytes in network order, as the kernel's `user_ip4` holds them in memory.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// From four native words in network order, as the kernel's `user_ip6` holds them.
    #[inline(always)]
    pub const fn v6_words(words: [u32; 4]) -> Self {
        let [a, b, c, d] = [
            words[0].to_ne_bytes(),
            words[1].to_ne_bytes(),
            words[2].to_ne_bytes(),
            words[3].to_ne_bytes(),
        ];
        Self([
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
            d[2], d[3],
        ])
    }

    /// The four native words of [`Self::v6_words`].
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        let b = &self.0;
        [
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ]
    }

    /// Whether this is an IPv4 address in its mapped form.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        let [a, b, c, _] = self.words();
        a == 0 && b == 0 && c == u32::from_be(0x0000_ffff)
    }

    /// Whether no address is held (`::`, never `0.0.0.0`, whose mapped form is not zero).
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        let [a, b, c, d] = self.words();
        a | b | c | d == 0
    }
}

impl From<IpAddr> for Ip16 {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::v4(ip.octets()),
            IpAddr::V6(ip) => Self(ip.octets()),
        }
    }
}

impl From<Ipv4Addr> for Ip16 {
    fn from(ip: Ipv4Addr) -> Self {
        Self::v4(ip.octets())
    }
}

impl From<Ip16> for IpAddr {
    /// Canonical: a mapped address becomes IPv4.
    fn from(ip: Ip16) -> Self {
        Ipv6Addr::from(ip.0).to_canonical()
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// Puts an address and a port together.
    #[inline(always)]
    pub const fn new(ip: Ip16, port: u16) -> Self {
        Self { ip, port, pad: 0 }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Self::new(addr.ip().into(), addr.port())
    }
}

impl From<Endpoint> for SocketAddr {
    /// Canonical: a mapped address becomes IPv4.
    fn from(endpoint: Endpoint) -> Self {
        Self::new(endpoint.ip.into(), endpoint.port)
    }
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, Ip16};
    use core::net::SocketAddr;

    #[test]
    fn addresses_survive_the_way_there_and_back_in_canonical_form() {
        let check = |input: &str, want: &str| {
            let endpoint = Endpoint::from(input.parse::<SocketAddr>().unwrap());
            assert_eq!(SocketAddr::from(endpoint), want.parse().unwrap());
            assert_eq!(Ip16::v6_words(endpoint.ip.words()), endpoint.ip);
        };
        check("10.0.0.1:80", "10.0.0.1:80");
        check("[::ffff:10.0.0.1]:80", "10.0.0.1:80");
        check("[fd00::1]:65535", "[fd00::1]:65535");
    }

    #[test]
    fn only_mapped_addresses_count_as_v4() {
        let ip = |text: &str| Ip16::from(text.parse::<core::net::IpAddr>().unwrap());
        assert!(ip("1.2.3.4").is_v4() && ip("::ffff:1.2.3.4").is_v4() && ip("0.0.0.0").is_v4());
        assert!(!ip("::1.2.3.4").is_v4() && !ip("fd00::ffff:1.2.3.4").is_v4());
        assert!(ip("::").is_empty() && !ip("0.0.0.0").is_empty());
    }
}
