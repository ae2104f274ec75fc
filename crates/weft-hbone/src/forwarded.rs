//! The `forwarded` header (RFC 7239): the client's address and the host that it asked for, for metrics alone.
//!
//! In: an address and a host, or a header value from a peer. Out: the value, or address and host.
//! Deliberately not here: trust. Policy sees the TCP peer and the certificate, never this header.

use std::net::{IpAddr, SocketAddr};

/// Longest header value that is read: an address, a DNS name and their keys fit several times.
const LENGTH_MAX: usize = 1024;

/// `for="ip:port";host=fqdn`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// The client that the sender speaks for.
    pub client: Option<SocketAddr>,
    /// The service host name that the client dialled.
    pub host: Option<String>,
}

/// Why a `forwarded` value was not read. The tunnel goes on without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardedError {
    /// Over 1024 bytes.
    #[error("forwarded is longer than {LENGTH_MAX} bytes")]
    TooLong,
    /// Bytes that are not visible ASCII, or an unclosed quote.
    #[error("forwarded is not a list of name=value pairs")]
    Malformed,
}

impl Forwarded {
    /// The header value; empty when nothing is known.
    pub fn encode(&self) -> String {
        let client = self.client.map(|client| match client {
            SocketAddr::V4(v4) => format!("for=\"{v4}\""),
            SocketAddr::V6(v6) => format!("for=\"[{}]:{}\"", v6.ip(), v6.port()),
        });
        // A host with characters outside a DNS name would need quoting; it is left out instead.
        let host_ok = |host: &&String| {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
        };
        let host = self
            .host
            .as_ref()
            .filter(host_ok)
            .map(|host| format!("host={host}"));
        client.into_iter().chain(host).collect::<Vec<_>>().join(";")
    }

    /// Reads the first element of a header value; unknown parameters are skipped.
    pub fn parse(value: &[u8]) -> Result<Self, ForwardedError> {
        if value.len() > LENGTH_MAX {
            return Err(ForwardedError::TooLong);
        }
        let text = std::str::from_utf8(value).map_err(|_| ForwardedError::Malformed)?;
        if !text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            return Err(ForwardedError::Malformed);
        }
        let mut forwarded = Self::default();
        for pair in split_first_element(text)? {
            let Some((name, value)) = pair.split_once('=') else {
                continue;
            };
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "for" if forwarded.client.is_none() => forwarded.client = parse_node(value),
                "host" if forwarded.host.is_none() && !value.is_empty() => {
                    forwarded.host = Some(value.to_owned());
                }
                _ => {}
            }
        }
        Ok(forwarded)
    }
}

/// Splits at `;` outside quotes up to the first `,` outside quotes (later elements are earlier proxies' words).
fn split_first_element(text: &str) -> Result<Vec<&str>, ForwardedError> {
    let mut pairs = Vec::new();
    let (mut start, mut end, mut quoted) = (0, text.len(), false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b';' if !quoted => {
                pairs.push(&text[start..at]);
                start = at + 1;
            }
            b',' if !quoted => {
                end = at;
                break;
            }
            _ => {}
        }
    }
    if quoted {
        return Err(ForwardedError::Malformed);
    }
    pairs.push(&text[start..end]);
    Ok(pairs)
}

/// `ip:port`, or an address without a port, which gets port 0.
fn parse_node(value: &str) -> Option<SocketAddr> {
    if let Ok(address) = value.parse() {
        return Some(address);
    }
    let ip: IpAddr = value
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()?;
    Some(SocketAddr::new(ip, 0))
}

#[cfg(test)]
mod tests {
    use super::{Forwarded, ForwardedError};

    #[test]
    fn address_and_host_survive_a_round_trip() {
        let check = |client: &str, want: &str| {
            let forwarded = Forwarded {
                client: Some(client.parse().unwrap()),
                host: Some("a.b.svc".into()),
            };
            assert_eq!(forwarded.encode(), want);
            assert_eq!(Forwarded::parse(want.as_bytes()), Ok(forwarded));
        };
        check("10.0.0.1:4000", "for=\"10.0.0.1:4000\";host=a.b.svc");
        check("[fd00::1]:4000", "for=\"[fd00::1]:4000\";host=a.b.svc");
    }

    #[test]
    fn the_first_element_counts_and_the_rest_is_skipped() {
        let check = |text: &str, client: Option<&str>, host: Option<&str>| {
            let want = Forwarded {
                client: client.map(|c| c.parse().unwrap()),
                host: host.map(Into::into),
            };
            assert_eq!(Forwarded::parse(text.as_bytes()), Ok(want), "{text}");
        };
        check(
            "For=10.0.0.1;proto=http, for=10.0.0.2",
            Some("10.0.0.1:0"),
            None,
        );
        check("for=\"[fd00::1]\"", Some("[fd00::1]:0"), None);
        check("for=unknown;host=\"a;b,c\"", None, Some("a;b,c"));
        check("", None, None);
    }

    #[test]
    fn hostile_values_are_refused_or_left_out() {
        assert_eq!(
            Forwarded::parse(&[b'a'; 1025]),
            Err(ForwardedError::TooLong)
        );
        assert_eq!(
            Forwarded::parse(b"for=\"10.0.0.1"),
            Err(ForwardedError::Malformed)
        );
        assert_eq!(
            Forwarded::parse(b"host=\x00"),
            Err(ForwardedError::Malformed)
        );
        let injected = Forwarded {
            client: None,
            host: Some("a\r\nx: y".into()),
        };
        assert_eq!(injected.encode(), "");
    }
}
