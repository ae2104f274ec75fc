//! A packet socket: every frame that enters any interface of a namespace, cut to its first bytes.
//!
//! In: frames. Out: their first [`SNAP_LENGTH`] bytes, and how many were lost. Not here: what
//! they mean.

#![expect(
    unsafe_code,
    reason = "three options of packet sockets have no safe wrapper"
)]

use std::io;
use std::mem::size_of;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with};

/// Bytes kept of a frame: headers, and enough for whole canaries, which are repeated.
pub(super) const SNAP_LENGTH: usize = 2048;
/// Receive buffer in bytes: about a second of bulk transfer that we do not get to read.
const BUFFER_BYTES: usize = 256 << 20;
/// `PACKET_IGNORE_OUTGOING` (since 4.20): a forwarded frame is seen once, where it came in.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// An open packet socket.
pub(super) struct Tap(OwnedFd);

// === impl Tap ===

impl Tap {
    /// Opens one in the namespace of the calling thread.
    pub(super) fn open() -> Result<Self> {
        let protocol = NonZeroU32::new(u32::from((libc::ETH_P_ALL as u16).to_be()))
            .expect("a constant that is not zero");
        let socket = socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(Protocol::from_raw(protocol)),
        )
        .context("cannot open a packet socket: root is needed")?;
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES)
            .context("cannot give the packet socket a large buffer")?;
        let this = Self(socket);
        this.set_option(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1_i32)?;
        this.cut_frames()?;
        Ok(this)
    }

    /// The next frame, or nothing when there is none now.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        match recv(&self.0, buffer, RecvFlags::empty()) {
            Ok((_, length)) => Ok(Some(length.min(SNAP_LENGTH))),
            // NETDOWN: an interface of the namespace went away; the socket lives on.
            Err(
                rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::NETDOWN,
            ) => Ok(None),
            Err(error) => Err(error).context("cannot read the packet socket"),
        }
    }

    /// Waits for a frame, at most this long.
    pub(super) fn wait(&self, milliseconds: u64) -> Result<()> {
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: (milliseconds * 1_000_000).cast_signed(),
        };
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error).context("cannot wait for packets"),
        }
    }

    /// Frames lost since the last call.
    pub(super) fn dropped(&self) -> Result<u64> {
        let mut statistics = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: both pointers are to live values of exactly the sizes that the option takes.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        check(result).context("cannot read packet statistics")?;
        Ok(statistics.tp_drops.into())
    }

    /// A filter program of one instruction that keeps the first bytes of every frame.
    fn cut_frames(&self) -> Result<()> {
        let mut keep = libc::sock_filter {
            code: (libc::BPF_RET | libc::BPF_K) as u16,
            jt: 0,
            jf: 0,
            k: SNAP_LENGTH as u32,
        };
        let program = libc::sock_fprog {
            len: 1,
            filter: &raw mut keep,
        };
        self.set_option(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
    }

    fn set_option<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> Result<()> {
        // SAFETY: the pointer is to a live value of the size that is passed with it; the kernel
        // copies what it needs (and the one filter instruction behind it) before it returns.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        check(result).with_context(|| format!("cannot set packet socket option {option}"))
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
