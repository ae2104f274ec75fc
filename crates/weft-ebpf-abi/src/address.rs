//! Addresses as the maps hold them: always 16 bytes, ports in host byte order.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An IPv6 address, or an IPv4 one in its mapped form (`::ffff:a.b.c.d`): 16 bytes in network order.
///
/// One form for both, because one dual-stack socket of an application shows in either.
/// Held as four native words, as the kernel's contexts hold them: byte arrays make the programs five times as long.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ip16(pub [u32; 4]);

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

const _: () = assert!(size_of::<Ip16>() == 16 && align_of::<Ip16>() == 4);
const _: () = assert!(size_of::<Endpoint>() == 20);

// === impl Ip16 ===

impl Ip16 {
    /// From the native word in network order that the kernel's `user_ip4` and its like hold.
    #[inline(always)]
    pub const fn v4_word(word: u32) -> Self {
        Self([0, 0, u32::from_be(0x0000_ffff), word])
    }

    /// From four native words in network order, as `user_ip6` and its like hold them.
    #[inline(always)]
    pub const fn v6_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// The four native words of [`Self::v6_words`].
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        self.0
    }

    /// Whether this is an IPv4 address in its mapped form.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        let [a, b, c, _] = self.0;
        a == 0 && b == 0 && c == u32::from_be(0x0000_ffff)
    }

    /// Whether no address is held (`::`, never `0.0.0.0`, whose mapped form is not zero).
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        let [a, b, c, d] = self.0;
        a | b | c | d == 0
    }
}

impl From<IpAddr> for Ip16 {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => ip.into(),
        }
    }
}

impl From<Ipv4Addr> for Ip16 {
    fn from(ip: Ipv4Addr) -> Self {
        Self::v4_word(u32::from_ne_bytes(ip.octets()))
    }
}

impl From<Ipv6Addr> for Ip16 {
    fn from(ip: Ipv6Addr) -> Self {
        let bits = u128::from(ip);
        Self([96, 64, 32, 0].map(|shift| ((bits >> shift) as u32).to_be()))
    }
}

impl From<Ip16> for IpAddr {
    /// Canonical: a mapped address becomes IPv4.
    fn from(ip: Ip16) -> Self {
        let [a, b, c, d] = ip.0.map(|word| u128::from(u32::from_be(word)));
        Ipv6Addr::from(a << 96 | b << 64 | c << 32 | d).to_canonical()
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
