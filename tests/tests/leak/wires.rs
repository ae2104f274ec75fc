//! Links of pods that carry packets as they would be on a cable: no larger than the smallest that IPv6 allows, each with one
//! segment.

#![expect(unsafe_code, reason = "no safe wrapper sets a link's offloads")]

use std::io;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use weft_testkit::netns::Netns;

/// RFC 8200, section 5.
const MTU: &str = "link set eth0 mtu 1280\n";
/// `ETHTOOL_STSO` of `linux/ethtool.h`: whether the link takes segments in one piece and cuts them itself, which a pair of
/// virtual ends never does.
const SET_SEGMENTATION: u32 = 0x1f;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Makes the link of a pod such a one, for connections from now on.
pub(crate) fn make_small(pod: &Netns) -> Result<()> {
    pod.ip_batch(MTU)?;
    pod.enter(|| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
        let mut value = Value {
            command: SET_SEGMENTATION,
            data: 0,
        };
        // SAFETY: all zeros is a value of this plain structure: an empty name, no address.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(b"eth0") {
            *to = (*from).cast_signed();
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: the request and the value that it points to live until the call returns, and are of the kernel's layout.
        let result =
            unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        if result == 0 {
            return Ok(());
        }
        Err(io::Error::last_os_error()).context("cannot switch segmentation off")
    })
}
