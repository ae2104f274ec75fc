//! Carries an application's TCP connection over a tunnel, or over a second TCP connection, until both directions end.
//!
//! In: two ends. Out: bytes in both directions, counters that can be read meanwhile, and how it ended.
//! Deliberately not here: who may talk to whom, time limits (dropping the future cuts both ends), records.
//!
//! Both ends see what they would see without us: a FIN as a FIN, in either order, and anything abnormal as RST. A
//! clean end of stream is never made out of an abnormal end. When one end is gone, the other still gets what had
//! arrived from it (`farewell`).

mod downlink;
mod farewell;
mod join;
mod queue;
mod uplink;

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;

pub use join::join;

use crate::{ResetCode, Tunnel, TunnelError};
use downlink::Downlink;
use farewell::{Rest, farewell};
use uplink::Uplink;

/// How long a reset waits for what was said before it to leave. Microseconds on a connection that moves; a peer that does
/// not take it must not hold up the reset.
const LAST_WORDS_LIMIT: Duration = Duration::from_millis(100);

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

/// Carries `tcp` over `tunnel` until both directions have ended or one end fails. When the tunnel ends first, the
/// application still gets what had arrived before.
///
/// A process that is killed drops nothing: then the kernel closes, with FIN, which looks like a clean end. So callers set a zero
/// linger (`SO_LINGER`, socket(7)) on `tcp` before, which makes that close a reset; it is cleared where the end is passed on.
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
        let (outcome, mut uplink, downlink) = carry(&mut session, counters).await;
        let outcome = match outcome {
            Outcome::Finished => {
                session.clean = true;
                Outcome::Finished
            }
            // Boxed: it is rare, and every connection would carry its size.
            Outcome::FirstFailed(kind) => {
                Box::pin(last_words(&mut session, &mut uplink, counters)).await;
                session.tunnel.reset(ResetCode::CONNECT_ERROR);
                Outcome::FirstFailed(kind)
            }
            Outcome::TunnelFailed(error) => {
                let rest = downlink.into_rest(&uplink);
                Box::pin(part(&mut session, error, rest, counters)).await
            }
            Outcome::SecondFailed(kind) => Outcome::SecondFailed(kind),
        };
        RelayEnd {
            outcome,
            forward: counters.forward(),
            backward: counters.backward(),
        }
    }
}

/// Carries until one end fails or both have ended.
async fn carry(session: &mut Session, counters: &Counters) -> (Outcome, Uplink, Downlink) {
    let Session { tcp, tunnel, .. } = session;
    let (mut read, write) = tcp.split();
    let mut uplink = Uplink::new();
    let mut downlink = Downlink::new();
    let mut failure = pin!(write.ready(Interest::ERROR));
    let outcome = poll_fn(|cx| {
        let up = uplink.poll(&mut read, tunnel, counters, cx);
        if let Poll::Ready(Err(outcome)) = up {
            return Poll::Ready(outcome);
        }
        let down = downlink.poll(write.as_ref(), tunnel, counters, cx);
        match (up, down) {
            (_, Poll::Ready(Err(outcome))) => return Poll::Ready(outcome),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Outcome::Finished),
            _ => {}
        }
        // A reset by the application shows where it is read; while nothing is read from it, only here.
        if !uplink.is_reading() && failure.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Outcome::FirstFailed(io::ErrorKind::ConnectionReset));
        }
        // As long as the peer may still send, a reset shows there; after its end of stream only here.
        if downlink.has_ended() {
            return tunnel.poll_reset(cx).map(Outcome::TunnelFailed);
        }
        Poll::Pending
    })
    .await;
    (outcome, uplink, downlink)
}

/// Passes on what an application said before it failed: a server that answers and then closes with bytes unread resets
/// its connection, and its client reads the answer first all the same. What the peer does not take at once is lost.
async fn last_words(session: &mut Session, uplink: &mut Uplink, counters: &Counters) {
    let Session { tcp, tunnel, .. } = session;
    let (mut read, _) = tcp.split();
    let said = async {
        if !uplink.is_over() {
            let _ended = poll_fn(|cx| uplink.poll(&mut read, tunnel, counters, cx)).await;
        }
        poll_fn(|cx| tunnel.poll_flushed(cx)).await;
    };
    let _in_time = tokio::time::timeout(LAST_WORDS_LIMIT, said).await;
}

/// Parts with an application whose tunnel is gone.
///
/// A peer that has ended its side and then wants no more of ours (RFC 9113 section 8.1) is for the application what a
/// server is that has closed: all of the answer, FIN, and RST for what it sends afterwards.
async fn part(
    session: &mut Session,
    error: TunnelError,
    mut rest: Rest,
    counters: &Counters,
) -> Outcome {
    let Session { tcp, tunnel, clean } = session;
    rest.take_arrived(tunnel).await;
    let wanted_no_more = rest.ended
        && matches!(
            error,
            TunnelError::Reset(ResetCode::NO_ERROR | ResetCode::CANCEL)
        );
    let written = |count| {
        tunnel.release(count);
        counters.add_backward(count);
    };
    let whole = farewell(tcp, rest, written).await;
    *clean = whole && wanted_no_more;
    match error {
        TunnelError::Reset(ResetCode::NO_ERROR) if *clean => Outcome::Finished,
        error => Outcome::TunnelFailed(error),
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

/// Closes the write side of a socket that is not exclusively borrowed, and lets the kernel deliver what was written, whatever
/// becomes of this process.
fn shutdown_write(tcp: &TcpStream) -> io::Result<()> {
    if let Err(error) = rustix::net::sockopt::set_socket_linger(tcp, None) {
        tracing::debug!(%error, "linger not cleared");
    }
    match rustix::net::shutdown(tcp, rustix::net::Shutdown::Write) {
        // The peer closed everything already: its RST, if any, shows as an error of the read side.
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
