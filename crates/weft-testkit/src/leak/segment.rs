//! The TCP segment inside an Ethernet frame. Pure.
//!
//! In: the first bytes of a frame, its length on the wire. Out: a [`Segment`]. Not here: what it means.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Protocol number of TCP.
const TCP: u8 = 6;

/// Sender and receiver of one direction of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// Who sends.
    pub source: SocketAddr,
    /// Who receives.
    pub destination: SocketAddr,
}

/// A TCP segment.
pub(super) struct Segment<'a> {
    pub(super) flow: FlowKey,
    pub(super) syn: bool,
    pub(super) ack: bool,
    /// Sequence number of the first byte of the payload.
    pub(super) at: u32,
    /// As much of the payload as was kept of the frame.
    pub(super) payload: &'a [u8],
    /// Length of the whole payload.
    pub(super) length: usize,
}

/// Addresses of a packet, and what is inside it.
struct Packet<'a> {
    source: IpAddr,
    destination: IpAddr,
    inside: &'a [u8],
    /// Length of the whole inside.
    length: usize,
}

/// Nothing unless it is TCP.
pub(super) fn parse(frame: &[u8], frame_length: usize) -> Option<Segment<'_>> {
    let ether_type = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
    let packet = frame.get(ETHERNET..)?;
    let length = frame_length.saturating_sub(ETHERNET);
    let packet = match ether_type {
        0x0800 => parse_v4(packet, length)?,
        0x86dd => parse_v6(packet, length)?,
        _ => return None,
    };
    parse_tcp(&packet)
}

fn parse_v4(packet: &[u8], room: usize) -> Option<Packet<'_>> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    if *packet.get(9)? != TCP {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(bytes).into())
    };
    // Segmentation offload may leave the length zero; short frames are padded behind it.
    let length = match usize::from(word(packet, 2)?) {
        0 => room,
        length => length.min(room),
    };
    Some(Packet {
        source: address(12)?,
        destination: address(16)?,
        inside: packet.get(header..length.min(packet.len()))?,
        length: length - header,
    })
}

fn parse_v6(packet: &[u8], room: usize) -> Option<Packet<'_>> {
    // Linux sends TCP without extension headers.
    if *packet.get(6)? != TCP {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(bytes).into())
    };
    let room = room.saturating_sub(40);
    let length = match usize::from(word(packet, 4)?) {
        0 => room,
        length => length.min(room),
    };
    Some(Packet {
        source: address(8)?,
        destination: address(24)?,
        inside: packet.get(40..(40 + length).min(packet.len()))?,
        length,
    })
}

fn parse_tcp<'a>(packet: &Packet<'a>) -> Option<Segment<'a>> {
    let segment = packet.inside;
    let flags = *segment.get(13)?;
    let header = usize::from(segment.get(12)? >> 4) * 4;
    let syn = flags & 0x02 != 0;
    let sequence = u32::from_be_bytes(segment.get(4..8)?.try_into().ok()?);
    Some(Segment {
        flow: FlowKey {
            source: SocketAddr::new(packet.source, word(segment, 0)?),
            destination: SocketAddr::new(packet.destination, word(segment, 2)?),
        },
        syn,
        ack: flags & 0x10 != 0,
        // A SYN takes a number of its own (RFC 9293, 3.4).
        at: sequence.wrapping_add(u32::from(syn)),
        payload: segment.get(header..).unwrap_or_default(),
        length: packet.length.saturating_sub(header),
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.source, self.destination)
    }
}
