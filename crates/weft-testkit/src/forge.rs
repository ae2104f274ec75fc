//! Forged TCP segments: whole frames written to a cable, whatever address they claim to come from.
//!
//! In: a namespace and its interface, the link address of the victim, segments. Out: frames. Nothing here answers: what comes
//! back goes to whoever the forged address belongs to. Not here: what the victim makes of it.

#![expect(
    unsafe_code,
    reason = "binding a packet socket to an interface has no safe wrapper"
)]

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socket_with};
use serde::Deserialize;

use crate::netns::Netns;

/// TCP flags (RFC 9293 section 3.1).
pub const SYN: u8 = 0x02;
/// Pushed data.
pub const PSH: u8 = 0x08;
/// The acknowledgement number counts.
pub const ACK: u8 = 0x10;

/// Length of a TCP header without options.
const TCP_HEADER: usize = 20;

/// One TCP segment.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Where it claims to come from.
    pub from: SocketAddr,
    /// Where it goes.
    pub to: SocketAddr,
    /// For example [`SYN`].
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number, for [`ACK`].
    pub acknowledged: u32,
    /// Data.
    pub payload: Vec<u8>,
}

/// Link address and index of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: i32,
    /// Its MAC address.
    pub address: [u8; 6],
}

/// A neighbour that writes frames as it likes.
pub struct Forger {
    socket: OwnedFd,
    header: [u8; 12],
}

// === impl Link ===

impl Link {
    /// The interface of that name.
    pub fn of(netns: &Netns, interface: &str) -> Result<Self> {
        let output = Command::new("ip")
            .args([
                "-n",
                netns.name(),
                "-json",
                "link",
                "show",
                "dev",
                interface,
            ])
            .stdin(Stdio::null())
            .output()
            .context("cannot start ip: install iproute2")?;
        parse_link(&output.stdout)
            .with_context(|| format!("no interface {interface} in {}", netns.name()))
    }
}

// === impl Forger ===

impl Forger {
    /// Opens one at an interface; every frame goes to the victim's link address.
    pub fn open(netns: &Netns, interface: &str, victim: [u8; 6]) -> Result<Self> {
        let link = Link::of(netns, interface)?;
        let socket = netns
            .enter(|| {
                // Protocol 0: it sends, and is given nothing.
                Ok(socket_with(
                    AddressFamily::PACKET,
                    SocketType::RAW,
                    SocketFlags::CLOEXEC,
                    None,
                )?)
            })
            .context("cannot open a packet socket: root is needed")?;
        bind(&socket, link.index).context("cannot bind a packet socket")?;
        let mut header = [0; 12];
        header[..6].copy_from_slice(&victim);
        header[6..].copy_from_slice(&link.address);
        Ok(Self { socket, header })
    }

    /// Writes one segment. It waits while the queue of the interface is full.
    pub fn send(&self, segment: &Segment) -> Result<()> {
        let kind: u16 = if segment.to.is_ipv4() { 0x0800 } else { 0x86dd };
        let mut frame = self.header.to_vec();
        frame.extend(kind.to_be_bytes());
        frame.extend(packet(segment)?);
        send(&self.socket, &frame, SendFlags::empty()).context("cannot write a frame")?;
        Ok(())
    }
}

fn bind(socket: &OwnedFd, interface: i32) -> io::Result<()> {
    // SAFETY: all-zero is a valid value of this plain struct.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = interface;
    // SAFETY: the pointer is to a live value of the size that is passed with it.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The IP packet that carries a segment.
fn packet(segment: &Segment) -> Result<Vec<u8>> {
    let mut tcp = Vec::with_capacity(TCP_HEADER + segment.payload.len());
    tcp.extend(segment.from.port().to_be_bytes());
    tcp.extend(segment.to.port().to_be_bytes());
    tcp.extend(segment.sequence.to_be_bytes());
    tcp.extend(segment.acknowledged.to_be_bytes());
    // Five words of header, the flags, a full window, no checksum yet, nothing urgent.
    tcp.extend([0x50, segment.flags, 0xff, 0xff, 0, 0, 0, 0]);
    tcp.extend(&segment.payload);
    let length = u16::try_from(tcp.len()).context("a segment of more than 64 KiB")?;
    let (mut packet, pseudo) = match (segment.from.ip(), segment.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = length + 20;
            let mut header = vec![0x45, 0];
            header.extend(total.to_be_bytes());
            header.extend([0, 0, 0, 0, 64, 6, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            let mut pseudo = [from.octets(), to.octets()].concat();
            pseudo.extend([0, 6]);
            pseudo.extend(length.to_be_bytes());
            (header, pseudo)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([6, 64]);
            header.extend(from.octets());
            header.extend(to.octets());
            let mut pseudo = [from.octets(), to.octets()].concat();
            pseudo.extend(u32::from(length).to_be_bytes());
            pseudo.extend([0, 0, 0, 6]);
            (header, pseudo)
        }
        (from, to) => bail!("{from} and {to} are of two families"),
    };
    let sum = checksum(&[pseudo, tcp.clone()].concat());
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    packet.extend(tcp);
    Ok(packet)
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| {
            u32::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]))
        })
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[derive(Deserialize)]
struct LinkEntry {
    ifindex: i32,
    address: String,
}

fn parse_link(json: &[u8]) -> Result<Link> {
    let [link]: [LinkEntry; 1] = serde_json::from_slice(json).context("ip shows no single link")?;
    let bytes: Vec<u8> = link
        .address
        .split(':')
        .map(|hex| u8::from_str_radix(hex, 16))
        .collect::<Result<_, _>>()
        .context("a link address that is not hexadecimal")?;
    let address = bytes
        .try_into()
        .ok()
        .context("a link address that has not six bytes")?;
    Ok(Link {
        index: link.ifindex,
        address,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(from: &str, to: &str, payload: &[u8]) -> Segment {
        Segment {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            flags: SYN,
            sequence: 1,
            acknowledged: 0,
            payload: payload.to_owned(),
        }
    }

    #[test]
    fn packets_of_both_families_have_right_lengths_and_checksums() {
        for payload in [&b""[..], b"odd"] {
            let v4 = packet(&segment("10.0.0.1:1", "10.0.0.2:2", payload)).unwrap();
            assert_eq!(v4.len(), 40 + payload.len());
            assert_eq!(usize::from(u16::from_be_bytes([v4[2], v4[3]])), v4.len());
            // A header that holds its own checksum sums to zero.
            assert_eq!(checksum(&v4[..20]), 0);
            let mut whole = [&v4[12..20], &[0, 6, 0, 20 + payload.len() as u8]].concat();
            whole.extend(&v4[20..]);
            assert_eq!(checksum(&whole), 0);

            let v6 = packet(&segment("[fd00::1]:1", "[fd00::2]:2", payload)).unwrap();
            assert_eq!(v6.len(), 60 + payload.len());
            let mut whole = [&v6[8..40], &[0, 0, 0, 20 + payload.len() as u8, 0, 0, 0, 6]].concat();
            whole.extend(&v6[40..]);
            assert_eq!(checksum(&whole), 0);
        }
        assert!(packet(&segment("10.0.0.1:1", "[fd00::2]:2", b"")).is_err());
    }

    #[test]
    fn a_link_is_read_as_ip_writes_it() {
        let json = br#"[{"ifindex":7,"ifname":"eth0","address":"02:00:0a:ff:00:01"}]"#;
        let want = Link {
            index: 7,
            address: [2, 0, 10, 255, 0, 1],
        };
        assert_eq!(parse_link(json).unwrap(), want);
        assert!(parse_link(b"").is_err());
    }
}
