//! PING in both directions: finds a peer that vanished without a word.
//!
//! In: the connection's ping handle and a clock. Out: readiness when the peer is dead.
//! Deliberately not here: what to do then (the connection's owner closes).

use std::pin::Pin;
use std::task::{Context, Poll};

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::limits::KeepaliveLimits;

/// ```text
/// Waiting --interval over: send PING--> Pinged --PONG--> Waiting
///                                         '--timeout over--> dead
/// ```
pub(crate) struct Keepalive {
    ping: Option<PingPong>,
    limits: KeepaliveLimits,
    timer: Pin<Box<Sleep>>,
    pinged: bool,
}

impl Keepalive {
    pub(crate) fn new(ping: Option<PingPong>, limits: KeepaliveLimits) -> Self {
        let timer = Box::pin(sleep_until(Instant::now() + limits.interval));
        Self {
            ping,
            limits,
            timer,
            pinged: false,
        }
    }

    /// Ready when a PING stayed unanswered. A connection that is closing already is never ready here.
    pub(crate) fn poll_dead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(ping) = self.ping.as_mut() else {
            return Poll::Pending;
        };
        loop {
            if self.pinged
                && let Poll::Ready(answer) = ping.poll_pong(cx)
            {
                if answer.is_err() {
                    self.ping = None;
                    return Poll::Pending;
                }
                self.pinged = false;
                self.timer
                    .as_mut()
                    .reset(Instant::now() + self.limits.interval);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.pinged {
                return Poll::Ready(());
            }
            if ping.send_ping(Ping::opaque()).is_err() {
                self.ping = None;
                return Poll::Pending;
            }
            self.pinged = true;
            self.timer
                .as_mut()
                .reset(Instant::now() + self.limits.timeout);
        }
    }
}
