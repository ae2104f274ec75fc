//! Deaths of processes, and which failures they explain. Pure.
//!
//! In: when a process was killed, when it was gone, when another did its work; the life span of a failed connection. Out: whether
//! the connection broke because of that death, and words that show where it lies in time. Not here: counts (`report`).

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long after a death what it broke may show. A reset takes some milliseconds to its client, the rest is for a client that
/// gets no processor; what programs wait for in vain (a socket: five seconds, a connect: ten) shows later, and is a fault.
const SHOWS_WITHIN: Duration = Duration::from_secs(1);
/// A failure is told relative to every death that is no farther away than this.
const NEAR: Duration = Duration::from_secs(1);

/// What a process had to do with the connections of a churn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It held none: its death excuses none.
    None,
    /// The sockets that clients are connected to.
    Near,
    /// The other end of what the connections go through.
    Far,
}

/// The violent end of a process, and when another did its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Who died, for messages.
    pub who: String,
    /// What it held.
    pub held: Held,
    /// Right before the signal was sent.
    pub signal: Instant,
    /// Right after its end was seen: from here on all its descriptors are closed.
    pub gone: Instant,
    /// When its successor was seen to serve.
    pub ready: Instant,
}

/// A connection that did not end well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Where it came from, by which access records know it; none when it never had an address.
    pub from: Option<SocketAddr>,
    /// When the client called `connect`.
    pub begun: Instant,
    /// When it saw the error.
    pub ended: Instant,
    /// How far it had come.
    pub phase: Phase,
    /// The error.
    pub kind: ErrorKind,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not connected yet.
    Connect,
    /// Connected, and sending.
    Write,
    /// Waiting for the answer.
    Read,
}

// === impl Death ===

impl Death {
    /// Whether a connection broke because this process, which held it, died: it was under way between the signal and the
    /// end, and it broke soon.
    ///
    /// In the phase of connecting only a reset is one of those. The connection stood, and was reset, by the kernel for the one
    /// that died or by whoever outlived the far end, before its client got a processor to look at it: the kernel tells a
    /// refusal from that. That those which nobody had accepted yet outlive any process has a test of its own.
    pub fn explains(&self, failure: &Failure) -> bool {
        let fits = match (self.held, failure.phase) {
            (Held::None, _) => false,
            (_, Phase::Connect) => failure.kind == ErrorKind::ConnectionReset,
            // A connection that is cut never ends as if the other application had ended it.
            (_, Phase::Write | Phase::Read) => {
                failure.is_break() && failure.kind != ErrorKind::UnexpectedEof
            }
        };
        let overlaps = failure.begun <= self.gone && failure.ended >= self.signal;
        let is_soon = failure.ended <= self.gone + SHOWS_WITHIN;
        fits && overlaps && is_soon
    }
}

// === impl Failure ===

impl Failure {
    /// In milliseconds, where it lies relative to every death whose time it comes near: to the signal, the end and the
    /// successor of each.
    pub fn position(&self, deaths: &[Death]) -> String {
        let ms = |at: Instant, of: Instant| {
            let after = at.saturating_duration_since(of).as_secs_f64();
            let before = of.saturating_duration_since(at).as_secs_f64();
            (after - before) * 1e3
        };
        let near = deaths
            .iter()
            .filter(|death| self.ended + NEAR >= death.signal && self.begun <= death.ready + NEAR);
        let lines = near.map(|death| {
            let to = |at: Instant| {
                format!(
                    "signal {:+.3}, gone {:+.3}, successor {:+.3}",
                    ms(at, death.signal),
                    ms(at, death.gone),
                    ms(at, death.ready)
                )
            };
            let (begun, ended) = (to(self.begun), to(self.ended));
            format!("\n  {}: begun at {begun}; ended at {ended}", death.who)
        });
        format!(
            "{:?} of {:?} in phase {:?}, lasted {:.3} ms{}",
            self.kind,
            self.from,
            self.phase,
            ms(self.ended, self.begun),
            lines.collect::<String>()
        )
    }

    pub(super) fn is_break(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::ConnectionReset
                | ErrorKind::BrokenPipe
                | ErrorKind::UnexpectedEof
                | ErrorKind::ConnectionAborted
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the death of a process, from 100 to 110 ms, explains a failure between two times in ms.
    fn explained(held: Held, phase: Phase, kind: ErrorKind, (begun, ended): (u64, u64)) -> bool {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let death = Death {
            who: "a proxy".to_owned(),
            held,
            signal: at(100),
            gone: at(110),
            ready: at(200),
        };
        death.explains(&Failure {
            from: None,
            begun: at(begun),
            ended: at(ended),
            phase,
            kind,
        })
    }

    #[test]
    fn what_a_dying_process_held_is_explained_if_it_overlaps_the_death() {
        use ErrorKind::{BrokenPipe, ConnectionReset};
        for (held, phase, kind) in [
            (Held::Near, Phase::Read, ConnectionReset),
            (Held::Near, Phase::Connect, ConnectionReset),
            (Held::Near, Phase::Write, BrokenPipe),
            (Held::Far, Phase::Read, ConnectionReset),
            (Held::Far, Phase::Write, BrokenPipe),
            (Held::Far, Phase::Connect, ConnectionReset),
        ] {
            let explained = |span| explained(held, phase, kind, span);
            let around = [(90, 100), (90, 105), (102, 105), (102, 120), (110, 1110)];
            for span in around {
                assert!(explained(span), "{held:?} {phase:?} {span:?}");
            }
            assert!(!explained((90, 99)), "it ended before the signal");
            assert!(!explained((111, 120)), "it began after the end");
            assert!(!explained((110, 1111)), "it hung");
        }
    }

    #[test]
    fn what_it_did_not_hold_is_not_explained() {
        use ErrorKind::{
            AddrNotAvailable, ConnectionAborted, ConnectionRefused, ConnectionReset, TimedOut,
            UnexpectedEof,
        };
        for (held, phase, kind) in [
            (Held::None, Phase::Read, ConnectionReset),
            (Held::None, Phase::Connect, ConnectionReset),
            (Held::Near, Phase::Read, UnexpectedEof),
            (Held::Far, Phase::Read, UnexpectedEof),
            (Held::Near, Phase::Connect, ConnectionRefused),
            (Held::Far, Phase::Connect, ConnectionRefused),
            (Held::Far, Phase::Connect, ConnectionAborted),
            (Held::Far, Phase::Connect, AddrNotAvailable),
            (Held::Near, Phase::Read, TimedOut),
            (Held::Far, Phase::Read, TimedOut),
        ] {
            let is = explained(held, phase, kind, (102, 105));
            assert!(!is, "{held:?} {phase:?} {kind:?}");
        }
    }
}
