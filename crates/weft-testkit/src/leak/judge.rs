//! What one frame means for the leak oracle. Pure.
//!
//! In: frames in order, the enrolled addresses. Out: violations and what each flow looked like.
//! Between two enrolled pods only TLS to or from port 15008 may pass: a SYN to another port is a
//! connection that was not captured, a payload that does not begin as TLS is plaintext, and a
//! canary anywhere is plaintext for certain. UDP and ICMP are not captured and not judged.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use memchr::memmem;

use super::{CANARY_PREFIX, Report};

/// Port of the tunnel between nodes.
const HBONE_PORT: u16 = 15008;
/// Violations listed one by one; more are counted.
const VIOLATIONS_MAX: usize = 100;
/// Flows remembered at once; more forget everything before, as ports come round again anyway.
const FLOWS_MAX: usize = 200_000;
/// First payload bytes kept of a flow, for people to look at.
const SAMPLE_BYTES: usize = 48;

/// Sender and receiver of one direction of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// Who sends.
    pub source: SocketAddr,
    /// Who receives.
    pub destination: SocketAddr,
}

/// What was seen of one direction of a TCP connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Frames with payload.
    pub packets: u64,
    /// The first payload bytes.
    pub sample: Vec<u8>,
    /// The first payload begins as a TLS record.
    pub tls: bool,
    /// A canary was seen in clear.
    pub canary: bool,
    from_start: bool,
}

/// Something that must not pass between two enrolled pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Namespace in which it was seen.
    pub place: String,
    /// From whom to whom.
    pub flow: FlowKey,
    /// What it was.
    pub why: Why,
}

/// What is wrong with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A connection attempt past the mesh.
    Uncaptured,
    /// A payload that is no TLS.
    NotTls,
    /// A canary in clear.
    Canary,
}

/// The state of one recording.
pub struct Judge {
    place: String,
    canary: memmem::Finder<'static>,
    flows: HashMap<FlowKey, Flow>,
    violations: Vec<Violation>,
    violations_more: u64,
}

/// The TCP segment inside a frame.
struct Segment<'a> {
    flow: FlowKey,
    syn: bool,
    ack: bool,
    payload: &'a [u8],
}

// === impl Flow ===

impl Flow {
    pub(super) fn merge(&mut self, other: &Self) {
        self.packets = self.packets.max(other.packets);
        self.canary |= other.canary;
        if self.sample.is_empty() {
            self.sample.clone_from(&other.sample);
            self.tls = other.tls;
        }
    }
}

// === impl Judge ===

impl Judge {
    /// A judge for the frames of one place.
    pub fn new(place: &str) -> Self {
        Self {
            place: place.to_owned(),
            canary: memmem::Finder::new(CANARY_PREFIX).into_owned(),
            flows: HashMap::new(),
            violations: Vec::new(),
            violations_more: 0,
        }
    }

    /// Judges one Ethernet frame.
    pub fn packet(&mut self, frame: &[u8], enrolled: &HashSet<IpAddr>) {
        let Some(segment) = parse(frame) else {
            return;
        };
        let (source, destination) = (segment.flow.source.ip(), segment.flow.destination.ip());
        // From an address to itself is loopback, seen when the place is a pod.
        let between_pods =
            source != destination && enrolled.contains(&source) && enrolled.contains(&destination);
        if segment.syn {
            self.begin(segment.flow);
            let to_tunnel = segment.flow.destination.port() == HBONE_PORT;
            if between_pods && !segment.ack && !to_tunnel {
                self.violation(segment.flow, Why::Uncaptured);
            }
        }
        if segment.payload.is_empty() {
            return;
        }
        let canary = self.canary.find(segment.payload).is_some();
        let plain_start = self.note(&segment, canary);
        if between_pods && canary {
            self.violation(segment.flow, Why::Canary);
        } else if between_pods && plain_start {
            self.violation(segment.flow, Why::NotTls);
        }
    }

    /// The findings.
    pub fn report(self, packets: u64, dropped: u64) -> Report {
        let mut flows: Vec<(FlowKey, Flow)> = self.flows.into_iter().collect();
        flows.sort_by_key(|(key, _)| *key);
        Report {
            packets,
            dropped,
            violations: self.violations,
            violations_more: self.violations_more,
            flows,
        }
    }

    fn begin(&mut self, key: FlowKey) {
        if self.flows.len() >= FLOWS_MAX {
            self.flows.clear();
        }
        let flow = Flow {
            from_start: true,
            ..Flow::default()
        };
        self.flows.insert(key, flow);
    }

    /// Notes a payload; true when it is the first of its flow and no TLS.
    fn note(&mut self, segment: &Segment<'_>, canary: bool) -> bool {
        if !self.flows.contains_key(&segment.flow) && self.flows.len() >= FLOWS_MAX {
            self.flows.clear();
        }
        let flow = self.flows.entry(segment.flow).or_default();
        flow.packets += 1;
        flow.canary |= canary;
        if flow.packets > 1 {
            return false;
        }
        let length = segment.payload.len().min(SAMPLE_BYTES);
        flow.sample = segment.payload[..length].to_vec();
        flow.tls = begins_as_tls(segment.payload);
        // A flow that was there before us may be joined in the middle of a record.
        flow.from_start && !flow.tls
    }

    fn violation(&mut self, flow: FlowKey, why: Why) {
        if self.violations.len() >= VIOLATIONS_MAX {
            self.violations_more += 1;
            return;
        }
        self.violations.push(Violation {
            place: self.place.clone(),
            flow,
            why,
        });
    }
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.source, self.destination)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.why {
            Why::Uncaptured => "connects past the mesh",
            Why::NotTls => "is no TLS",
            Why::Canary => "carries a payload in clear",
        };
        write!(f, "{} {what} (seen in {})", self.flow, self.place)
    }
}

/// A TLS record header: handshake, alert, cipher change or data, version 3.x (RFC 8446, 5.1).
fn begins_as_tls(payload: &[u8]) -> bool {
    matches!(payload, [0x14..=0x17, 0x03, 0x00..=0x04, ..])
        || matches!(payload, [0x14..=0x17] | [0x14..=0x17, 0x03])
}

fn parse(frame: &[u8]) -> Option<Segment<'_>> {
    let ether_type = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
    let packet = frame.get(14..)?;
    match ether_type {
        0x0800 => parse_v4(packet),
        0x86dd => parse_v6(packet),
        _ => None,
    }
}

fn parse_v4(packet: &[u8]) -> Option<Segment<'_>> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let length = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    if *packet.get(9)? != 6 {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(bytes).into())
    };
    // Segmentation offload may leave the length zero; short frames are padded behind it.
    let end = if length == 0 {
        packet.len()
    } else {
        length.min(packet.len())
    };
    parse_tcp(packet.get(header..end)?, address(12)?, address(16)?)
}

fn parse_v6(packet: &[u8]) -> Option<Segment<'_>> {
    let length = usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]));
    // Linux sends TCP without extension headers.
    if *packet.get(6)? != 6 {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(bytes).into())
    };
    let end = if length == 0 {
        packet.len()
    } else {
        (40 + length).min(packet.len())
    };
    parse_tcp(packet.get(40..end)?, address(8)?, address(24)?)
}

fn parse_tcp(segment: &[u8], source: IpAddr, destination: IpAddr) -> Option<Segment<'_>> {
    let port = |at: usize| -> Option<u16> {
        Some(u16::from_be_bytes([
            *segment.get(at)?,
            *segment.get(at + 1)?,
        ]))
    };
    let flags = *segment.get(13)?;
    let header = usize::from(segment.get(12)? >> 4) * 4;
    Some(Segment {
        flow: FlowKey {
            source: SocketAddr::new(source, port(0)?),
            destination: SocketAddr::new(destination, port(2)?),
        },
        syn: flags & 0x02 != 0,
        ack: flags & 0x10 != 0,
        payload: segment.get(header..).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests;
