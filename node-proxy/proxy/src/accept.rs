//! Accepting on a pod's listeners: three for each pod, watched by every worker.
//!
//! In: listeners of the holder. Out: one task for each connection, on the thread that accepted it.
//! All workers wait on the same open file: as many wake up as there are workers, which is the number of cores, and the
//! accept queue itself balances between them. A listener for each worker would strand connections when a worker leaves.

#![expect(
    unsafe_code,
    reason = "watching one open file from several runtimes has no safe constructor"
)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SocketFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use weft_runtime::{Shutdown, spawn_local};
use weft_types::address::canonical;

use crate::pods::Pod;
use crate::worker::Worker;
use crate::{inbound, limits, outbound, passthrough, socket};

/// Connections taken at once before the others of this thread get their turn.
const BATCH_MAX: usize = 16;
/// Pause when descriptors or memory have run out.
const SHED_PAUSE: Duration = Duration::from_millis(10);

/// Which of a pod's listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Outbound,
    Inbound,
    Hbone,
}

/// A listener that several runtimes watch; closed when the last one lets go.
struct Watched(Arc<OwnedFd>);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Starts to accept for a pod on this worker, until `until` drains.
pub(crate) fn start(worker: &Rc<Worker>, pod: &Arc<Pod>, until: &Shutdown) -> io::Result<()> {
    let listeners = &pod.listeners;
    for (side, listener) in [
        (Side::Outbound, &listeners.outbound),
        (Side::Inbound, &listeners.inbound),
        (Side::Hbone, &listeners.hbone),
    ] {
        // Accepted sockets inherit the option from their listener: one system call instead of one for each. Not so with what
        // older proxies, which accept from the same listener while they drain, do not know of.
        socket2::SockRef::from(listener).set_tcp_nodelay(true)?;
        let watched = Watched(Arc::clone(listener));
        // SAFETY: `Watched` owns a share of the descriptor for as long as the AsyncFd owns it, and always names the same.
        let watched = unsafe { AsyncFd::register_with_interest(watched, Interest::READABLE) }?;
        let (worker, pod, until) = (Rc::clone(worker), Arc::clone(pod), until.clone());
        let flows = worker.shared.flows.clone();
        spawn_local(&flows, "accept", async move {
            tokio::select! {
                () = until.draining() => {}
                () = accept_all(&worker, &pod, side, &watched) => {}
            }
        });
    }
    Ok(())
}

async fn accept_all(worker: &Rc<Worker>, pod: &Arc<Pod>, side: Side, listener: &AsyncFd<Watched>) {
    loop {
        let Ok(mut ready) = listener.readable().await else {
            return;
        };
        for _ in 0..BATCH_MAX {
            match accept(&listener.get_ref().0) {
                Ok((stream, peer)) => serve(worker, pod, side, stream, peer),
                Err(Errno::WOULDBLOCK) => {
                    ready.clear_ready();
                    break;
                }
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    shed(worker, &listener.get_ref().0).await;
                }
                // The peer left while it waited (ECONNABORTED and its relatives, accept(2)).
                Err(error) => {
                    tracing::debug!(%error, ?side, "a connection left before it was accepted");
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

fn accept(listener: &OwnedFd) -> Result<(OwnedFd, SocketAddr), Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (stream, peer) = rustix::net::acceptfrom_with(listener, flags)?;
    let peer = peer.ok_or(Errno::CONNABORTED)?;
    Ok((stream, canonical(SocketAddr::try_from(peer)?)))
}

fn serve(worker: &Rc<Worker>, pod: &Arc<Pod>, side: Side, stream: OwnedFd, peer: SocketAddr) {
    let stream = match TcpStream::from_std(stream.into()) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%error, "cannot watch an accepted connection; it was closed");
            return;
        }
    };
    // A tunnel tells its end in frames: what ends without them was cut anyway.
    if side != Side::Hbone {
        socket::reset_when_killed(&stream);
    }
    let flows = worker.shared.flows.clone();
    let (worker, pod) = (Rc::clone(worker), Arc::clone(pod));
    match side {
        Side::Outbound => {
            spawn_local(
                &flows,
                "outbound",
                outbound::serve(worker, pod, stream, peer),
            );
        }
        Side::Inbound => {
            let task = passthrough::serve(worker, pod, stream, peer);
            spawn_local(&flows, "passthrough", task);
        }
        Side::Hbone => {
            let task = inbound::terminate(worker, pod, stream, peer);
            spawn_local(&flows, "tunnel-server", task);
        }
    }
}

/// Descriptors have run out: one waiting connection is accepted with the spare one and reset, so that its client learns
/// at once and the listener does not stay ready for ever.
async fn shed(worker: &Worker, listener: &OwnedFd) {
    worker.spare.borrow_mut().take();
    if let Ok((stream, _)) = accept(listener) {
        limits::DESCRIPTORS.reached();
        if let Ok(stream) = TcpStream::from_std(stream.into()) {
            socket::reset(stream);
        }
    }
    refill_spare(worker);
    tokio::time::sleep(SHED_PAUSE).await;
}

/// Keeps one descriptor in reserve.
pub(crate) fn refill_spare(worker: &Worker) {
    let spare = rustix::io::fcntl_dupfd_cloexec(io::stderr().as_fd(), 3);
    *worker.spare.borrow_mut() = spare.ok();
}
