//! The `:authority` of a `CONNECT` request: who is to be reached.
//!
//! In: `ip:port` or `hostname:port` as text from a peer. Out: a parsed [`Authority`], or what is wrong with it.
//! Deliberately not here: whether the peer may ask for this destination.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// Longest authority that is accepted: a DNS name of 253 bytes (RFC 1035 section 2.3.4), a colon and five digits.
const AUTHORITY_LENGTH_MAX: usize = 253 + 1 + 5;

/// The destination of a tunnel (RFC 9110 section 9.3.6: host and port, both required).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Authority {
    /// `10.0.0.1:80` or `[fd00::1]:80`; v4-mapped addresses are kept as they came.
    Address(SocketAddr),
    /// `reviews.default.svc.cluster.local:80`, in lower case.
    Host {
        /// DNS name without a trailing dot.
        host: String,
        /// Port, never 0.
        port: u16,
    },
}

/// Why a text is not an authority. The peer is at fault: answered by status 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// Over 259 bytes.
    #[error("authority is longer than {AUTHORITY_LENGTH_MAX} bytes")]
    TooLong,
    /// No `:port` at the end, or port 0.
    #[error("authority needs a port between 1 and 65535 after its last colon")]
    Port,
    /// Neither an address nor a DNS name; user info is refused here too.
    #[error("authority names neither an IP address nor a DNS name")]
    Host,
}

impl Authority {
    /// The port, never 0.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Host { port, .. } => *port,
        }
    }

    /// The address, if the authority is one.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Host { .. } => None,
        }
    }
}

impl From<SocketAddr> for Authority {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(SocketAddr::V4(address)) => address.fmt(f),
            // A scope id means nothing to a peer and is not valid in an authority.
            Self::Address(SocketAddr::V6(address)) => {
                write!(f, "[{}]:{}", address.ip(), address.port())
            }
            Self::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > AUTHORITY_LENGTH_MAX {
            return Err(AuthorityError::TooLong);
        }
        let (host, port) = text.rsplit_once(':').ok_or(AuthorityError::Port)?;
        let port = parse_port(port)?;
        if let Some(inner) = host.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(AuthorityError::Host)?;
            let ip = inner.parse().map_err(|_| AuthorityError::Host)?;
            return Ok(Self::Address(SocketAddr::new(IpAddr::V6(ip), port)));
        }
        if let Ok(ip) = host.parse::<Ipv4Addr>() {
            return Ok(Self::Address(SocketAddr::new(IpAddr::V4(ip), port)));
        }
        if !is_dns_name(host) {
            return Err(AuthorityError::Host);
        }
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        Ok(Self::Host { host, port })
    }
}

/// Digits only: `u16::from_str` would admit a leading plus sign.
fn parse_port(text: &str) -> Result<u16, AuthorityError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(AuthorityError::Port);
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(AuthorityError::Port),
        Ok(port) => Ok(port),
    }
}

/// Labels of 1 to 63 letters, digits, hyphens and underscores (Kubernetes names have no underscore, ServiceEntry
/// hosts may). A name whose last label is all digits is refused: it is an IPv4 address that did not parse, such as
/// `10.0.0.256` or `0x7f.1`, which resolvers read in ways that a policy does not.
fn is_dns_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last_is_number = host
        .rsplit('.')
        .next()
        .is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()));
    !last_is_number && host.split('.').all(label_ok)
}

#[cfg(test)]
mod tests {
    use super::{Authority, AuthorityError};

    #[test]
    fn addresses_and_names_survive_a_round_trip() {
        let check = |input: &str, want: &str| {
            let parsed: Authority = input.parse().unwrap();
            assert_eq!(parsed.to_string(), want);
        };
        check("10.0.0.1:80", "10.0.0.1:80");
        check("[fd00::1]:15008", "[fd00::1]:15008");
        check("[::ffff:10.0.0.1]:80", "[::ffff:10.0.0.1]:80");
        check(
            "Reviews.Default.svc.cluster.local:9080",
            "reviews.default.svc.cluster.local:9080",
        );
        check("reviews.:1", "reviews:1");
        check("a_b.example:65535", "a_b.example:65535");
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        let check = |input: &str, want: AuthorityError| {
            assert_eq!(input.parse::<Authority>(), Err(want), "{input}");
        };
        for port in [
            "10.0.0.1",
            "10.0.0.1:",
            "10.0.0.1:0",
            "h:65536",
            "h:+80",
            "h:-1",
            "h: 80",
            "h:８",
        ] {
            check(port, AuthorityError::Port);
        }
        for host in [
            ":80",
            "[::1:80",
            "::1:80",
            "fd00::1:80",
            "[10.0.0.1]:80",
            "[fe80::1%1]:80",
            "10.0.0.256:80",
            "1:80",
            "user@host:80",
            "a..b:80",
            "-a:80",
            "a-:80",
            "a b:80",
            "..:80",
            "a/b:80",
            "*.a:80",
        ] {
            check(host, AuthorityError::Host);
        }
        check(&format!("{}:80", "a".repeat(300)), AuthorityError::TooLong);
        check(&format!("{}:80", "a".repeat(64)), AuthorityError::Host);
    }
}
