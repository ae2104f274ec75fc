//! Values with a form of their own, checked while they are read so that an error carries its line.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

/// An address block as Istio writes it: a CIDR, or an address that stands for itself. Host bits are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpBlock(pub IpNet);

/// A port that is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(pub u16);

/// A port written as text, as AuthorizationPolicy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortText(pub u16);

/// A duration as Go writes it: `24h`, `1h30m`, `500ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoDuration(pub Duration);

/// Text that is not of the form asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {wanted}")]
pub struct FormError {
    /// The text.
    pub text: String,
    /// What would be right.
    pub wanted: &'static str,
}

const BLOCK: &str = "an address or an address block such as 10.0.0.0/8";
const PORT: &str = "a port from 1 to 65535";
const DURATION: &str = "a duration such as 24h, 1h30m or 500ms";

impl FromStr for IpBlock {
    type Err = FormError;

    fn from_str(text: &str) -> Result<Self, FormError> {
        let block = text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        match block {
            Ok(block) => Ok(Self(canonical(block))),
            Err(_) => Err(form_error(text, BLOCK)),
        }
    }
}

/// A v4-mapped block is IPv4: connections are compared in canonical form and would never match it.
fn canonical(block: IpNet) -> IpNet {
    let mapped = match block {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => v6.addr().to_ipv4_mapped(),
        _ => None,
    };
    let canonical = mapped.and_then(|v4| IpNet::new(IpAddr::V4(v4), block.prefix_len() - 96).ok());
    canonical.unwrap_or(block).trunc()
}

impl FromStr for PortText {
    type Err = FormError;

    fn from_str(text: &str) -> Result<Self, FormError> {
        match text.parse() {
            Ok(port) if port != 0 => Ok(Self(port)),
            _ => Err(form_error(text, PORT)),
        }
    }
}

impl FromStr for GoDuration {
    type Err = FormError;

    fn from_str(text: &str) -> Result<Self, FormError> {
        parse_duration(text)
            .map(Self)
            .ok_or_else(|| form_error(text, DURATION))
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    if text.is_empty() {
        return None;
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = &rest[digits..];
        let unit_length = unit
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(unit.len());
        let part = match &unit[..unit_length] {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            _ => return None,
        };
        total = total.checked_add(part)?;
        rest = &unit[unit_length..];
    }
    Some(total)
}

fn form_error(text: &str, wanted: &'static str) -> FormError {
    FormError {
        text: text.to_owned(),
        wanted,
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let port = u16::deserialize(deserializer)?;
        if port == 0 {
            return Err(D::Error::invalid_value(Unexpected::Unsigned(0), &PORT));
        }
        Ok(Self(port))
    }
}

macro_rules! deserialize_from_text {
    ($($name:ident => $wanted:ident),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($wanted)
                    }

                    fn visit_str<E: Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    )*};
}

deserialize_from_text!(IpBlock => BLOCK, PortText => PORT, GoDuration => DURATION);

#[cfg(test)]
mod tests {
    use super::{GoDuration, IpBlock, PortText};

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let check = |text: &str, want: Option<u64>| {
            let got = text.parse::<GoDuration>().ok();
            assert_eq!(got.map(|d| d.0.as_millis() as u64), want, "{text}");
        };
        check("24h", Some(86_400_000));
        check("1h30m", Some(5_400_000));
        check("500ms", Some(500));
        check("0", Some(0));
        check("", None);
        check("5", None);
        check("h", None);
        check("-1h", None);
        check("1d", None);
        check("99999999999999999999h", None);
        check("18446744073709551615h", None);
    }

    #[test]
    fn blocks_are_canonical_and_without_host_bits() {
        let check = |text: &str, want: &str| {
            assert_eq!(text.parse::<IpBlock>().unwrap().0.to_string(), want);
        };
        check("10.1.2.3/8", "10.0.0.0/8");
        check("10.1.2.3", "10.1.2.3/32");
        check("fd00::1", "fd00::1/128");
        check("::ffff:10.0.0.0/104", "10.0.0.0/8");
        assert!("10.0.0.0/33".parse::<IpBlock>().is_err());
        assert!("example.com".parse::<IpBlock>().is_err());
    }

    #[test]
    fn a_port_is_a_number_that_is_not_zero() {
        assert_eq!("80".parse(), Ok(PortText(80)));
        for bad in ["", "0", "65536", "http", "80 ", "8*"] {
            assert!(bad.parse::<PortText>().is_err(), "{bad:?}");
        }
    }
}
