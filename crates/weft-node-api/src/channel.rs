//! Packets over SOCK_SEQPACKET: one JSON document and its descriptors per packet.
//!
//! In: messages and borrowed descriptors. Out: messages and owned descriptors, close-on-exec.
//! Deliberately not here: ids and answers (`link.rs`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use weft_runtime::async_fd;

use crate::message::{DESCRIPTORS_MAX, Incoming, Message, PACKET_MAX};

/// Peers that may wait to be accepted: an agent, a proxy and a successor at a time.
const BACKLOG: i32 = 16;

/// Why a connection between node programs ended.
#[derive(Debug, Error)]
pub enum ChannelError {
    /// The peer closed it, or died.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer sent something that is not a packet of this protocol.
    #[error("the peer sent {0}; check that all programs of the node are of neighbouring versions")]
    Peer(String),
    /// The system refused.
    #[error("node socket: {0}")]
    Io(#[from] io::Error),
}

/// Who is at the other end, by the kernel's word (SO_PEERCRED, taken when it connected or began to listen).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its process.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
}

/// One connection. Sending and receiving may happen at the same time, each from one task.
#[derive(Debug)]
pub struct Channel {
    socket: AsyncFd<OwnedFd>,
    peer: Peer,
}

/// The listening end.
#[derive(Debug)]
pub struct Acceptor {
    socket: AsyncFd<OwnedFd>,
}

#[derive(Deserialize)]
struct Received {
    id: u64,
    message: Message,
}

#[derive(Serialize)]
struct Sent<'a> {
    id: u64,
    message: &'a Message,
}

/// Binds the node socket, in the place of whatever was at `path`, with the given mode and owner.
///
/// Bound beside the path and renamed, so that nobody connects before mode and owner are set.
pub fn bind(path: &Path, mode: u32, owner: (u32, u32)) -> io::Result<Acceptor> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = Path::new(&beside);
    match std::fs::remove_file(beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let socket = seqpacket()?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(beside)?)?;
    std::fs::set_permissions(beside, std::fs::Permissions::from_mode(mode))?;
    std::os::unix::fs::chown(beside, Some(owner.0), Some(owner.1))?;
    rustix::net::listen(&socket, BACKLOG)?;
    std::fs::rename(beside, path)?;
    Ok(Acceptor {
        socket: async_fd(socket)?,
    })
}

/// Connects to the node socket; the listener there must run as root or as ourselves.
///
/// An impostor of another user who got hold of the path is refused here.
pub fn connect(path: &Path) -> Result<Channel, ChannelError> {
    let socket = seqpacket()?;
    // A Unix connect never waits for the peer's accept, unless the backlog is full (EAGAIN: try again later).
    rustix::net::connect(
        &socket,
        &SocketAddrUnix::new(path).map_err(io::Error::from)?,
    )
    .map_err(io::Error::from)?;
    let channel = Channel::new(socket)?;
    let uid = channel.peer.uid;
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return Err(ChannelError::Peer(format!(
            "its greeting as uid {uid} instead of root"
        )));
    }
    Ok(channel)
}

// === impl Acceptor ===

impl Acceptor {
    /// The next connection. Cancel-safe.
    pub async fn accept(&self) -> io::Result<Channel> {
        loop {
            let mut guard = self.socket.readable().await?;
            let accepted = guard.try_io(|fd| {
                rustix::net::accept_with(fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
                    .map_err(io::Error::from)
            });
            if let Ok(accepted) = accepted {
                return Channel::new(accepted?);
            }
        }
    }
}

// === impl Channel ===

impl Channel {
    /// Wraps a connected SOCK_SEQPACKET socket. Must be called inside a runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let cred = socket_peercred(&socket)?;
        Ok(Self {
            peer: Peer {
                pid: cred.pid.as_raw_nonzero().get(),
                uid: cred.uid.as_raw(),
            },
            socket: async_fd(socket)?,
        })
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Sends one packet, whole or not at all. Cancel-safe.
    pub async fn send(
        &self,
        id: u64,
        message: &Message,
        descriptors: &[Arc<OwnedFd>],
    ) -> Result<(), ChannelError> {
        let bytes = serde_json::to_vec(&Sent { id, message })
            .map_err(|e| ChannelError::Io(io::Error::other(e)))?;
        if bytes.len() > PACKET_MAX || descriptors.len() > DESCRIPTORS_MAX {
            let text = format!(
                "{} bytes and {} descriptors",
                bytes.len(),
                descriptors.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text).into());
        }
        loop {
            let mut guard = self.socket.writable().await?;
            match guard.try_io(|fd| send_now(fd.as_fd(), &bytes, descriptors)) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(e)) if gone(&e) => return Err(ChannelError::Closed),
                Ok(Err(e)) => return Err(e.into()),
                Err(_would_block) => {}
            }
        }
    }

    /// The next packet. Cancel-safe.
    pub async fn receive(&self) -> Result<Incoming<Arc<OwnedFd>>, ChannelError> {
        // On the heap for the time of one call; these packets are rare.
        let mut bytes = vec![0; PACKET_MAX + 1];
        let (len, descriptors) = loop {
            let mut guard = self.socket.readable().await?;
            match guard.try_io(|fd| receive_now(fd.as_fd(), &mut bytes)) {
                Ok(Ok(received)) => break received,
                Ok(Err(e)) if gone(&e) => return Err(ChannelError::Closed),
                Ok(Err(e)) => return Err(e.into()),
                Err(_would_block) => {}
            }
        };
        if len == 0 {
            return Err(ChannelError::Closed);
        }
        if len > PACKET_MAX {
            return Err(ChannelError::Peer("a packet over 64 KiB".into()));
        }
        let Received { id, message } = serde_json::from_slice(&bytes[..len])
            .map_err(|e| ChannelError::Peer(format!("a packet that is not a message: {e}")))?;
        Ok(Incoming {
            id,
            message,
            descriptors: descriptors.into_iter().map(Arc::new).collect(),
        })
    }
}

fn seqpacket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?)
}

fn gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
    )
}

fn send_now(fd: BorrowedFd<'_>, bytes: &[u8], descriptors: &[Arc<OwnedFd>]) -> io::Result<()> {
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(|d| d.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(&borrowed));
        debug_assert!(fits, "the buffer is sized for DESCRIPTORS_MAX");
    }
    rustix::net::sendmsg(
        fd,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

fn receive_now(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        fd,
        &mut [IoSliceMut::new(bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        // Our own limit of open files, or more descriptors than the protocol allows.
        return Err(io::Error::other(
            "descriptors were lost on the way; check the limit of open files",
        ));
    }
    Ok((received.bytes, descriptors))
}

#[cfg(test)]
mod tests;
