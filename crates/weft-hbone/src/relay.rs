//! Carries an application's TCP connection over a tunnel, or over a second TCP connection, until both directions end.
//!
//! In: two ends. Out: bytes in both directions, counters that can be read meanwhile, and how it ended.
//! Deliberately not here: who may talk to whom, time limits (dropping the future cuts both ends), records.
//!
//! Both ends see what they would see without us: a FIN as a FIN, in either order, and anything abnormal as RST. A
//! clean end of stream is never made out of an abnormal end.

mod downlink;
mod join;
mod uplink;

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::net::TcpStream;

pub use join::join;

use crate::{ResetCode, Tunnel, TunnelError};
use downlink::Downlink;
use uplink::Uplink;

/// Bytes moved so far, readable while the relay runs. `forward` is from the first argument to the second.
#[derive(Debug, Default)]
pub struct Counters {
    forward: AtomicU64,
    backward: AtomicU64,
}

impl Counters {
    /// Bytes taken from the first end.
    pub fn forward(&self) -> u64 {
        self.forward.load(Ordering::Relaxed)
    }

    /// Bytes written to the first end.
    pub fn backward(&self) -> u64 {
        self.backward.load(Ordering::Relaxed)
    }

    // One relay writes each counter: a load and a store are enough and cheaper than an atomic addition.
    fn add_forward(&self, bytes: usize) {
        self.forward
            .store(self.forward() + bytes as u64, Ordering::Relaxed);
    }

    fn add_backward(&self, bytes: usize) {
        self.backward
            .store(self.backward() + bytes as u64, Ordering::Relaxed);
    }
}

/// How a relay ended. The other end has been told accordingly when this is returned.
#[derive(Clone, Debug)]
pub struct RelayEnd {
    /// Why it ended.
    pub outcome: Outcome,
    /// Bytes from the first end to the second.
    pub forward: u64,
    /// Bytes from the second end to the first.
    pub backward: u64,
}

/// Why a relay ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Both directions ended with FIN or end of stream.
    Finished,
    /// The first end, always TCP, was reset or failed.
    FirstFailed(io::ErrorKind),
    /// The tunnel was reset or its connection failed.
    TunnelFailed(TunnelError),
    /// The second end of [`join`] was reset or failed.
    SecondFailed(io::ErrorKind),
}

impl Outcome {
    /// Whether both directions ended cleanly.
    pub fn is_finished(&self) -> bool {
        matches!(self, Self::Finished)
    }
}

/// Carries `tcp` over `tunnel` until both directions have ended or one end fails.
///
/// Cancel safety: dropping the future resets both ends, also before it was first polled.
pub fn relay(
    tcp: TcpStream,
    tunnel: Tunnel,
    counters: &Counters,
) -> impl Future<Output = RelayEnd> + Send {
    let session = Session {
        tcp,
        tunnel,
        clean: false,
    };
    async move {
        let mut session = session;
        let mut uplink = Uplink::new();
        let mut downlink = Downlink::new();
        let both = |cx: &mut Context<'_>| {
            poll_both(&mut session, &mut uplink, &mut downlink, counters, cx)
        };
        let outcome = poll_fn(both).await;
        match &outcome {
            Outcome::Finished => session.clean = true,
            Outcome::FirstFailed(_) => session.tunnel.reset(ResetCode::CONNECT_ERROR),
            Outcome::TunnelFailed(_) | Outcome::SecondFailed(_) => {}
        }
        RelayEnd {
            outcome,
            forward: counters.forward(),
            backward: counters.backward(),
        }
    }
}

fn poll_both(
    session: &mut Session,
    uplink: &mut Uplink,
    downlink: &mut Downlink,
    counters: &Counters,
    cx: &mut Context<'_>,
) -> Poll<Outcome> {
    let up = uplink.poll(&mut session.tcp, &mut session.tunnel, counters, cx);
    if let Poll::Ready(Err(outcome)) = up {
        return Poll::Ready(outcome);
    }
    let down = downlink.poll(&mut session.tcp, &mut session.tunnel, counters, cx);
    match (up, down) {
        (_, Poll::Ready(Err(outcome))) => Poll::Ready(outcome),
        (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Outcome::Finished),
        // As long as the peer may still send, a reset shows there; after its end of stream only here.
        _ if downlink.has_ended() => session.tunnel.poll_reset(cx).map(Outcome::TunnelFailed),
        _ => Poll::Pending,
    }
}

/// Owns both ends so that neither can be dropped cleanly unless the relay finished.
struct Session {
    tcp: TcpStream,
    tunnel: Tunnel,
    clean: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.clean {
            self.tunnel.reset(ResetCode::CANCEL);
            reset_on_close(&self.tcp);
        }
    }
}

/// Makes the coming close send RST instead of FIN.
fn reset_on_close(tcp: &TcpStream) {
    if let Err(error) = tcp.set_zero_linger() {
        // Only a socket that is not connected any more refuses the option: there is nobody left to mislead.
        tracing::debug!(%error, "linger not set");
    }
}

/// Closes the write side of a socket that is not exclusively borrowed.
fn shutdown_write(tcp: &TcpStream) -> io::Result<()> {
    match rustix::net::shutdown(tcp, rustix::net::Shutdown::Write) {
        // The peer closed everything already: its RST, if any, shows as an error of the read side.
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
