//! The `baggage` header: what a workload tells its peer about itself, for metrics and logs alone.
//!
//! In: names of a workload, or a header value from a peer. Out: the header value, or the names, read when they are asked
//! for.
//! Deliberately not here: trust. Nothing in baggage is proven; identity comes from the certificate.

use std::fmt::Write as _;
use std::sync::Arc;

use http::HeaderValue;

/// Longest header value that is read (W3C Baggage section 3.3.2 asks for at least 8192 bytes to be carried).
const LENGTH_MAX: usize = 8192;
/// Members that are looked at (W3C Baggage section 3.3.2: 64).
const MEMBERS_MAX: usize = 64;
/// Longest value that is kept: a Kubernetes name has at most 253 bytes.
const VALUE_MAX: usize = 253;

/// Names of a workload as Istio's proxies send them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.cluster.name`
    pub cluster: Option<Arc<str>>,
    /// `k8s.namespace.name`
    pub namespace: Option<Arc<str>>,
    /// One of `deployment`, `pod`, `job`, `cronjob` and the name: `k8s.<kind>.name`.
    pub workload: Option<(&'static str, Arc<str>)>,
    /// `service.name`, the canonical service.
    pub service: Option<Arc<str>>,
    /// `service.version`, the canonical revision.
    pub revision: Option<Arc<str>>,
    /// `cloud.region`
    pub region: Option<Arc<str>>,
    /// `cloud.availability_zone`
    pub zone: Option<Arc<str>>,
}

/// Baggage as it travels. What a peer sent is kept as it came: most connections end without anybody asking for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BaggageHeader(Option<HeaderValue>);

/// Why a `baggage` value was not read. The tunnel goes on without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BaggageError {
    /// Over 8192 bytes or 64 members.
    #[error("baggage is longer than {LENGTH_MAX} bytes or {MEMBERS_MAX} members")]
    TooLong,
    /// Bytes that are not visible ASCII.
    #[error("baggage holds bytes that are not visible ASCII")]
    NotAscii,
}

const KINDS: [&str; 4] = ["deployment", "pod", "job", "cronjob"];

impl BaggageHeader {
    pub(crate) fn received(value: Option<HeaderValue>) -> Self {
        Self(value)
    }

    pub(crate) fn value(&self) -> Option<&HeaderValue> {
        self.0.as_ref()
    }

    /// The names; none are an empty baggage.
    pub fn read(&self) -> Result<Baggage, BaggageError> {
        let value = self.0.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
        Baggage::parse(value)
    }
}

impl From<Baggage> for BaggageHeader {
    fn from(baggage: Baggage) -> Self {
        let text = baggage.encode();
        // Escaped text is visible ASCII, which every header value may be.
        let value = (!text.is_empty()).then(|| HeaderValue::try_from(text).ok());
        Self(value.flatten())
    }
}

impl Baggage {
    /// The header value; empty when nothing is known.
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(256);
        let mut put = |key: [&str; 3], value: &Option<Arc<str>>| {
            if let Some(value) = value {
                put_member(&mut out, key, value);
            }
        };
        let name = |key| [key, "", ""];
        put(name("k8s.cluster.name"), &self.cluster);
        put(name("k8s.namespace.name"), &self.namespace);
        if let Some((kind, name)) = &self.workload
            && KINDS.contains(kind)
        {
            put(["k8s.", kind, ".name"], &Some(Arc::clone(name)));
        }
        put(name("service.name"), &self.service);
        put(name("service.version"), &self.revision);
        put(name("cloud.region"), &self.region);
        put(name("cloud.availability_zone"), &self.zone);
        out
    }

    /// Reads a header value. Unknown members and properties are skipped, of a repeated one the first counts.
    pub fn parse(value: &[u8]) -> Result<Self, BaggageError> {
        if value.len() > LENGTH_MAX {
            return Err(BaggageError::TooLong);
        }
        if !value
            .iter()
            .all(|b| (0x20..0x7f).contains(b) || *b == b'\t')
        {
            return Err(BaggageError::NotAscii);
        }
        let text = std::str::from_utf8(value).map_err(|_| BaggageError::NotAscii)?;
        if text.split(',').count() > MEMBERS_MAX {
            return Err(BaggageError::TooLong);
        }
        let mut baggage = Self::default();
        for member in text.split(',') {
            let Some((key, value)) = member.split_once('=') else {
                continue;
            };
            let value = value.split(';').next().unwrap_or_default().trim();
            if let Some(value) = decode_value(value) {
                baggage.take(key.trim(), value);
            }
        }
        Ok(baggage)
    }

    fn take(&mut self, key: &str, value: String) {
        let slot = match key {
            "k8s.cluster.name" => &mut self.cluster,
            "k8s.namespace.name" => &mut self.namespace,
            "service.name" => &mut self.service,
            "service.version" => &mut self.revision,
            "cloud.region" => &mut self.region,
            "cloud.availability_zone" => &mut self.zone,
            _ => {
                let kind = key
                    .strip_prefix("k8s.")
                    .and_then(|k| k.strip_suffix(".name"));
                if let Some(kind) = KINDS.into_iter().find(|known| Some(*known) == kind) {
                    self.workload.get_or_insert_with(|| (kind, value.into()));
                }
                return;
            }
        };
        slot.get_or_insert_with(|| value.into());
    }
}

fn put_member(out: &mut String, key: [&str; 3], value: &str) {
    if !out.is_empty() {
        out.push(',');
    }
    for part in key {
        out.push_str(part);
    }
    out.push('=');
    // baggage-octet of W3C Baggage section 3.3.1, less the percent sign, which starts an escape.
    let is_plain =
        |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\' | b'%');
    if value.bytes().all(is_plain) {
        out.push_str(value);
        return;
    }
    for byte in value.bytes() {
        if is_plain(byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a string does not fail");
        }
    }
}

/// Percent-decodes; `None` for an empty, overlong or undecodable value.
fn decode_value(value: &str) -> Option<String> {
    if value.is_empty() || value.len() > 3 * VALUE_MAX {
        return None;
    }
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    // Control characters would reach logs and metric labels.
    String::from_utf8(bytes)
        .ok()
        .filter(|s| s.len() <= VALUE_MAX && !s.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::{Baggage, BaggageError, BaggageHeader};

    fn sample() -> Baggage {
        Baggage {
            cluster: Some("Kubernetes".into()),
            namespace: Some("default".into()),
            workload: Some(("deployment", "reviews".into())),
            service: Some("reviews".into()),
            revision: Some("v 1,2%".into()),
            region: None,
            zone: Some("z".into()),
        }
    }

    #[test]
    fn names_survive_a_round_trip_and_are_escaped() {
        let text = sample().encode();
        assert_eq!(
            text,
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=default,k8s.deployment.name=reviews,\
             service.name=reviews,service.version=v%201%2C2%25,cloud.availability_zone=z"
        );
        assert_eq!(Baggage::parse(text.as_bytes()), Ok(sample()));
    }

    #[test]
    fn unknown_members_properties_and_repeats_are_skipped() {
        let parsed = Baggage::parse(
            b"x=1, service.name = a ;p=2,service.name=b,,k8s.robot.name=r,k8s.pod.name=p",
        );
        let want = Baggage {
            service: Some("a".into()),
            workload: Some(("pod", "p".into())),
            ..Baggage::default()
        };
        assert_eq!(parsed, Ok(want));
    }

    #[test]
    fn a_header_says_what_went_into_it_and_nothing_is_nothing() {
        let header = BaggageHeader::from(sample());
        assert_eq!(header.read(), Ok(sample()));
        let nothing = BaggageHeader::from(Baggage::default());
        assert_eq!(nothing, BaggageHeader::default());
        assert_eq!(nothing.read(), Ok(Baggage::default()));
    }

    #[test]
    fn hostile_values_are_bounded() {
        assert_eq!(
            Baggage::parse(&vec![b'a'; 8193]),
            Err(BaggageError::TooLong)
        );
        assert_eq!(
            Baggage::parse("a=1,".repeat(64).as_bytes()),
            Err(BaggageError::TooLong)
        );
        assert_eq!(
            Baggage::parse(b"service.name=\xff"),
            Err(BaggageError::NotAscii)
        );
        for broken in [
            "service.name=%0A",
            "service.name=%zz",
            "service.name=%4",
            "service.name=%ff",
        ] {
            assert_eq!(
                Baggage::parse(broken.as_bytes()),
                Ok(Baggage::default()),
                "{broken}"
            );
        }
        let long = format!("service.name={}", "a".repeat(254));
        assert_eq!(Baggage::parse(long.as_bytes()), Ok(Baggage::default()));
    }
}
