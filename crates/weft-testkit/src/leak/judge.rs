//! What one frame means for the leak oracle. Pure.
//!
//! In: frames in order, the enrolled addresses, those of the mesh itself. Out: violations and what each flow looked like.
//! Between two enrolled pods only TLS to or from port 15008 may pass: a SYN to another port is a
//! connection that was not captured, a stream that is not TLS 1.3 records from its first byte to its last is plaintext, and a
//! canary anywhere in it, raw or in base64, is plaintext for certain. A canary that programs of the mesh send one another
//! in clear is one, too. A connection that began before both were enrolled stays
//! as it began, in clear. UDP and ICMP are not captured and not judged.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;

use super::canary::Traces;
use super::report::{Findings, Seen};
use super::segment::{FlowKey, Segment, parse};
use super::stream::Stream;

/// Port of the tunnel between nodes.
const HBONE_PORT: u16 = 15008;
/// Violations listed one by one; more are counted.
const VIOLATIONS_MAX: usize = 100;
/// Flows remembered at once; more forget everything before, as ports come round again anyway.
const FLOWS_MAX: usize = 200_000;
/// First payload bytes kept of a flow, for people to look at.
const SAMPLE_BYTES: usize = 48;

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
    /// Payload bytes that were not looked at: behind what is kept of a large frame, or never seen.
    pub unseen: u64,
}

/// When a flow began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Beginning {
    /// Before the recording.
    #[default]
    Unseen,
    /// While one of the two was not enrolled.
    Outside,
    /// Between two enrolled pods.
    Inside,
}

/// Whose two ends of a flow are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// Two enrolled pods: everything must be inside TLS.
    Pods,
    /// Programs of the mesh: they may speak plainly, but not of payloads.
    Mesh,
    /// One is somebody else, who may be spoken to plainly.
    Others,
}

/// Something that must not pass.
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
    /// Bytes that are no TLS record.
    NotTls,
    /// A canary in clear.
    Canary,
}

/// The state of one recording.
pub(super) struct Judge {
    place: String,
    traces: Traces,
    enrolled: HashSet<IpAddr>,
    mesh: HashSet<IpAddr>,
    /// How often the sets of addresses have changed.
    era: u32,
    flows: HashMap<FlowKey, Tracked>,
    seen: Seen,
    violations: Vec<Violation>,
    violations_more: u64,
}

/// A flow in the course of being judged.
struct Tracked {
    flow: Flow,
    beginning: Beginning,
    stream: Stream,
    /// Whose its ends are, and the era in which that was looked up.
    ends: (Ends, u32),
}

// === impl Flow ===

impl Flow {
    /// Takes in what was seen of the same flow elsewhere.
    pub(super) fn merge(&mut self, other: Self) {
        self.packets = self.packets.max(other.packets);
        self.canary |= other.canary;
        self.unseen = self.unseen.max(other.unseen);
        if self.sample.is_empty() {
            self.sample = other.sample;
            self.tls = other.tls;
        }
    }
}

// === impl Judge ===

impl Judge {
    /// A judge for the frames of one place, where these addresses are those of programs of the mesh.
    pub(super) fn new(place: &str, mesh: HashSet<IpAddr>) -> Self {
        Self {
            place: place.to_owned(),
            traces: Traces::new(),
            enrolled: HashSet::new(),
            mesh,
            era: 0,
            flows: HashMap::new(),
            seen: Seen::default(),
            violations: Vec::new(),
            violations_more: 0,
        }
    }

    /// From the next frame on, these are the enrolled addresses.
    pub(super) fn set_enrolled(&mut self, enrolled: HashSet<IpAddr>) {
        self.enrolled = enrolled;
        self.era += 1;
    }

    /// Judges one Ethernet frame by what was kept of it.
    pub(super) fn packet(&mut self, frame: &[u8], frame_length: usize) {
        self.seen.packets += 1;
        let Some(segment) = parse(frame, frame_length) else {
            return;
        };
        let ends = self.track(&segment);
        if ends == Ends::Pods {
            self.seen.judged += 1;
            self.seen.judged_bytes += segment.length as u64;
            let to_tunnel = segment.flow.destination.port() == HBONE_PORT;
            if segment.syn && !segment.ack && !to_tunnel {
                self.violation(segment.flow, Why::Uncaptured);
            }
        }
        if segment.length > 0
            && let Some(why) = self.payload(&segment, ends)
        {
            self.violation(segment.flow, why);
        }
    }

    /// Packets between enrolled pods so far.
    pub(super) fn judged(&self) -> u64 {
        self.seen.judged
    }

    /// Notes how many frames were lost.
    pub(super) fn set_dropped(&mut self, dropped: u64) {
        self.seen.dropped = dropped;
    }

    /// The findings.
    pub(super) fn findings(self) -> Findings {
        let flows = self.flows.into_iter();
        let flows = flows.map(|(key, tracked)| (key, tracked.flow));
        Findings {
            seen: self.seen,
            violations: self.violations,
            violations_more: self.violations_more,
            flows: flows.collect(),
        }
    }

    /// Finds or begins the flow; whose ends it has.
    fn track(&mut self, segment: &Segment<'_>) -> Ends {
        let (key, era) = (segment.flow, self.era);
        if !segment.syn
            && let Some(tracked) = self.flows.get_mut(&key)
        {
            if tracked.ends.1 != era {
                tracked.ends = (ends(&key, &self.enrolled, &self.mesh), era);
            }
            return tracked.ends.0;
        }
        if self.flows.len() >= FLOWS_MAX {
            self.flows.clear();
        }
        let ends = ends(&key, &self.enrolled, &self.mesh);
        let (beginning, stream) = match (segment.syn, ends) {
            (false, _) => (Beginning::Unseen, Stream::default()),
            (true, Ends::Pods) => (Beginning::Inside, Stream::beginning(segment.at)),
            (true, _) => (Beginning::Outside, Stream::beginning(segment.at)),
        };
        let tracked = Tracked {
            flow: Flow::default(),
            beginning,
            stream,
            ends: (ends, era),
        };
        self.flows.insert(key, tracked);
        ends
    }

    /// Notes a payload; what is wrong with it.
    fn payload(&mut self, segment: &Segment<'_>, ends: Ends) -> Option<Why> {
        let tracked = self.flows.get_mut(&segment.flow)?;
        let (at, payload) = (segment.at, segment.payload);
        let found = tracked
            .stream
            .take(at, payload, segment.length, &self.traces);
        let flow = &mut tracked.flow;
        flow.packets += 1;
        flow.canary |= found.canary;
        flow.unseen += found.unseen;
        if flow.packets == 1 {
            flow.sample = payload[..payload.len().min(SAMPLE_BYTES)].to_vec();
            flow.tls = begins_as_tls(payload);
        }
        match ends {
            Ends::Pods if tracked.beginning != Beginning::Outside => {
                self.seen.unseen += found.unseen;
                if found.canary {
                    return Some(Why::Canary);
                }
                found.not_tls.then_some(Why::NotTls)
            }
            Ends::Mesh => found.canary.then_some(Why::Canary),
            Ends::Pods | Ends::Others => None,
        }
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

fn ends(flow: &FlowKey, enrolled: &HashSet<IpAddr>, mesh: &HashSet<IpAddr>) -> Ends {
    let both = [flow.source.ip(), flow.destination.ip()];
    // From a pod's address to itself is loopback, seen when the place is a pod.
    if both[0] != both[1] && both.iter().all(|end| enrolled.contains(end)) {
        Ends::Pods
    } else if both.iter().all(|end| mesh.contains(end)) {
        Ends::Mesh
    } else {
        Ends::Others
    }
}

/// A TLS record header: handshake, alert, cipher change or data, version 3.x (RFC 8446, 5.1).
fn begins_as_tls(payload: &[u8]) -> bool {
    matches!(payload, [0x14..=0x17, 0x03, 0x00..=0x04, ..])
        || matches!(payload, [0x14..=0x17] | [0x14..=0x17, 0x03])
}

#[cfg(test)]
mod tests;
