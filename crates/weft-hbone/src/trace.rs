//! `traceparent` (W3C Trace Context): one new id for each connection.
//!
//! In: a source of randomness, or a header value. Out: an id that joins the records of both proxies.
//! Deliberately not here: spans and their export.

use std::fmt;
use std::str::FromStr;

use rand::Rng as _;

/// Trace id and span id of one connection, flags 00 (not sampled), version 00.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// 16 bytes, not all zero.
    pub trace_id: u128,
    /// 8 bytes, not all zero.
    pub span_id: u64,
}

/// The text is not `00-<32 hex>-<16 hex>-<2 hex>` with ids other than zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("traceparent is not of the form 00-<trace id>-<span id>-<flags>")]
pub struct TraceParentError;

impl TraceParent {
    /// A new random id. The thread's generator is enough: ids need to be unique, not secret.
    pub fn random() -> Self {
        let mut rng = rand::rng();
        Self {
            trace_id: rng.random::<u128>().max(1),
            span_id: rng.random::<u64>().max(1),
        }
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-00", self.trace_id, self.span_id)
    }
}

impl FromStr for TraceParent {
    type Err = TraceParentError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = |part: &str, length: usize| {
            let ok = part.len() == length
                && part
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            if ok {
                u128::from_str_radix(part, 16).ok()
            } else {
                None
            }
        };
        let mut parts = text.split('-');
        let mut next = || parts.next().unwrap_or_default();
        let version = hex(next(), 2).filter(|version| *version != 0xff);
        let trace_id = hex(next(), 32).filter(|id| *id != 0);
        let span_id = hex(next(), 16).filter(|id| *id != 0);
        let flags = hex(next(), 2);
        // A later version may append parts (Trace Context section 3.2.4); version 00 may not.
        let rest_ok = parts.next().is_none() || version.is_some_and(|version| version != 0);
        match (version, trace_id, span_id, flags, rest_ok) {
            (Some(_), Some(trace_id), Some(span_id), Some(_), true) => Ok(Self {
                trace_id,
                span_id: span_id as u64,
            }),
            _ => Err(TraceParentError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TraceParent;

    #[test]
    fn a_random_id_has_the_form_and_survives_a_round_trip() {
        let id = TraceParent::random();
        let text = id.to_string();
        assert_eq!(text.len(), 55);
        assert_eq!(text.parse(), Ok(id));
        assert_ne!(TraceParent::random(), id);
    }

    #[test]
    fn malformed_ids_are_refused() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(good.parse::<TraceParent>().is_ok());
        assert!(
            format!("{}-x", good.replacen("00", "01", 1))
                .parse::<TraceParent>()
                .is_ok()
        );
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert!(bad.parse::<TraceParent>().is_err(), "{bad}");
        }
    }
}
