//! A packet socket: every frame that enters any interface of a namespace, cut to its first bytes.
//!
//! In: frames. Out: their first [`SNAP_LENGTH`] bytes and their length, in blocks of a ring that the kernel fills and this
//! side reads without a system call for each (`TPACKET_V3`, since 3.2), and how many were lost. Not here: what they mean.

#![expect(
    unsafe_code,
    reason = "options of packet sockets and the ring that they share have no safe wrapper"
)]

use std::io;
use std::mem::{offset_of, size_of};
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, anyhow};
use libc::{tpacket_block_desc, tpacket_hdr_v1, tpacket_stats_v3, tpacket3_hdr};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};

/// Bytes kept of a frame: all of one as large as a lab's links take, and the beginning of what segmentation offload joins.
const SNAP_LENGTH: u32 = 2048;
/// Bytes of a block of the ring.
const BLOCK_BYTES: usize = 256 << 10;
/// Blocks of the ring: 64 MiB, which is 50 000 frames of full length.
const BLOCKS: usize = 256;
/// Time in milliseconds after which the kernel hands over a block that is not full.
const HAND_OVER_MS: u32 = 10;
/// `PACKET_IGNORE_OUTGOING` (since 4.20): a forwarded frame is seen once, where it came in.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// Where in a block its header is, behind its version.
const HEADER_OFFSET: usize = offset_of!(tpacket_block_desc, hdr);

/// An open packet socket and its ring.
pub(super) struct Tap {
    socket: OwnedFd,
    ring: NonNull<u8>,
    /// The block that is filled next.
    at: usize,
    /// Frames that the kernel kept, and those that it could not, as far as asked.
    kept: u64,
    dropped: u64,
}

/// A block of the ring that is ours until this ends.
pub(super) struct Block<'a> {
    bytes: &'a [u8],
    status: &'a AtomicU32,
    /// Frames left, and where the next one begins.
    left: u32,
    next: usize,
}

// SAFETY: the ring belongs to this value alone, whichever thread has it.
unsafe impl Send for Tap {}

// === impl Tap ===

impl Tap {
    /// Opens one in the namespace of the calling thread.
    pub(super) fn open() -> Result<Self> {
        // Bound to no protocol yet, so that nothing comes in before the ring is there.
        let socket = socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )
        .context("cannot open a packet socket: root is needed")?;
        let version = libc::tpacket_versions::TPACKET_V3 as libc::c_int;
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, &version)?;
        set_option(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1_i32)?;
        cut_frames(&socket)?;
        let ring = map_ring(&socket)?;
        let this = Self {
            socket,
            ring,
            at: 0,
            kept: 0,
            dropped: 0,
        };
        this.receive_everything()?;
        Ok(this)
    }

    /// The next block, if the kernel has handed it over.
    pub(super) fn block(&mut self) -> Option<Block<'_>> {
        // SAFETY: `at` is below BLOCKS, so the block is inside the mapping, which lives as long as this value.
        let block = unsafe { self.ring.add(self.at * BLOCK_BYTES) };
        let status = HEADER_OFFSET + offset_of!(tpacket_hdr_v1, block_status);
        // SAFETY: inside the block and aligned for it, as blocks are pages; the kernel changes it atomically.
        let status = unsafe { AtomicU32::from_ptr(block.add(status).cast().as_ptr()) };
        if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the kernel has handed the block over and does not write to it until the status says so, which it does when
        // the value with these bytes is dropped. The status is in them, but is only read through the atomic.
        let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr(), BLOCK_BYTES) };
        self.at = (self.at + 1) % BLOCKS;
        Some(Block {
            bytes,
            status,
            left: word(bytes, HEADER_OFFSET + offset_of!(tpacket_hdr_v1, num_pkts)),
            next: word(
                bytes,
                HEADER_OFFSET + offset_of!(tpacket_hdr_v1, offset_to_first_pkt),
            ) as usize,
        })
    }

    /// Waits for a block or for an event, at most this long.
    pub(super) fn wait(&self, event: &OwnedFd, milliseconds: u64) -> Result<()> {
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: (milliseconds * 1_000_000).cast_signed(),
        };
        let mut fds = [
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::new(event, PollFlags::IN),
        ];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for packets"),
        }
        // An interface of the namespace that went away; the socket lives on.
        let _ = rustix::net::sockopt::socket_error(&self.socket);
        Ok(())
    }

    /// How many frames the kernel has kept up to now; they all come in blocks.
    pub(super) fn kept(&mut self) -> Result<u64> {
        self.ask()?;
        Ok(self.kept)
    }

    /// How many frames were lost.
    pub(super) fn dropped(&mut self) -> Result<u64> {
        self.ask()?;
        Ok(self.dropped)
    }

    /// Adds what was counted since the last time: asking sets it back.
    fn ask(&mut self) -> Result<()> {
        let mut counted = tpacket_stats_v3 {
            tp_packets: 0,
            tp_drops: 0,
            tp_freeze_q_cnt: 0,
        };
        let mut length = size_of::<tpacket_stats_v3>() as libc::socklen_t;
        // SAFETY: both pointers are to live values of exactly the sizes that the option takes.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut counted).cast(),
                &raw mut length,
            )
        };
        check(result).context("cannot read packet statistics")?;
        let dropped = u64::from(counted.tp_drops);
        self.dropped += dropped;
        self.kept += u64::from(counted.tp_packets) - dropped;
        Ok(())
    }

    /// From here on frames come in, whatever their protocol and interface.
    fn receive_everything(&self) -> Result<()> {
        let protocol = NonZeroU32::new(u32::from((libc::ETH_P_ALL as u16).to_be()))
            .expect("a constant that is not zero");
        let protocol = Protocol::from_raw(protocol).as_raw().get() as u16;
        // SAFETY: all zeros is a value of this plain structure.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        // SAFETY: the pointer is to a live value of the size that is passed with it.
        let result = unsafe {
            libc::bind(
                self.socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        check(result).context("cannot bind the packet socket")
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // SAFETY: the mapping is of this length, and blocks borrow this value, so none is left.
        let _ = unsafe { munmap(self.ring.as_ptr().cast(), BLOCK_BYTES * BLOCKS) };
    }
}

// === impl Block ===

impl Block<'_> {
    /// What was kept of the next frame, and its length. It is gone with the block.
    pub(super) fn frame(&mut self) -> Option<(&[u8], usize)> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let header = &self.bytes[self.next..][..size_of::<tpacket3_hdr>()];
        let kept = word(header, offset_of!(tpacket3_hdr, tp_snaplen)) as usize;
        let length = word(header, offset_of!(tpacket3_hdr, tp_len)) as usize;
        let at = offset_of!(tpacket3_hdr, tp_mac);
        let at = usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
        let frame = &self.bytes[self.next + at..][..kept];
        self.next += word(header, offset_of!(tpacket3_hdr, tp_next_offset)) as usize;
        Some((frame, length))
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        self.status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
    }
}

/// Asks for a ring and maps it.
fn map_ring(socket: &OwnedFd) -> Result<NonNull<u8>> {
    let request = libc::tpacket_req3 {
        tp_block_size: BLOCK_BYTES as u32,
        tp_block_nr: BLOCKS as u32,
        // Frames are as long as they are; this one only has to fit into a block.
        tp_frame_size: SNAP_LENGTH,
        tp_frame_nr: (BLOCK_BYTES / SNAP_LENGTH as usize * BLOCKS) as u32,
        tp_retire_blk_tov: HAND_OVER_MS,
        tp_sizeof_priv: 0,
        tp_feature_req_word: 0,
    };
    set_option(socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
    // SAFETY: a new mapping at an address of the kernel's choice, of the size of the ring.
    let ring = unsafe {
        mmap(
            std::ptr::null_mut(),
            BLOCK_BYTES * BLOCKS,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            socket,
            0,
        )
    };
    let ring = ring.context("cannot map the ring of a packet socket")?;
    NonNull::new(ring.cast()).ok_or_else(|| anyhow!("a mapping has no address"))
}

/// A filter program of one instruction that keeps the first bytes of every frame.
fn cut_frames(socket: &OwnedFd) -> Result<()> {
    let mut keep = libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: SNAP_LENGTH,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &raw mut keep,
    };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

fn set_option<T>(socket: &OwnedFd, level: i32, option: i32, value: &T) -> Result<()> {
    // SAFETY: the pointer is to a live value of the size that is passed with it; the kernel
    // copies what it needs (and the one filter instruction behind it) before it returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    check(result).with_context(|| format!("cannot set packet socket option {option}"))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A number in the byte order of this machine.
fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(word)
}
