//! The connections of agent and proxy to their holder: connect, pump packets, reconnect for ever.
//!
//! In: wishes by method. Out: events by channel. The state machines decide what is said; this file only moves packets.
//! Deliberately not here: the holder's own pump, which serves several peers (`weft-node`).

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, info, warn};
use weft_runtime::{Backoff, Shutdown, spawn};
use weft_types::PodUid;

use crate::agent::{AgentEvent, AgentSide};
use crate::channel::{Channel, ChannelError, connect};
use crate::link::Outgoing;
use crate::message::{Family, Incoming, PodSpec};
use crate::proxy::{ProxyEvent, ProxySide};
use crate::refusals::RefusedSet;

type Fd = Arc<OwnedFd>;

/// Wishes and events that may wait. A node has some hundred pods, and each causes a few at once when it starts.
const QUEUE_MAX: usize = 4096;

/// First wait before another try to connect: the holder is back within tens of milliseconds.
const RETRY_MIN: Duration = Duration::from_millis(10);

/// Longest wait: the holder itself waits for us, so do not let it.
const RETRY_MAX: Duration = Duration::from_millis(500);

/// A request unanswered for this long ends the connection: the holder waits at most 5 s for another program.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Too many wishes wait already; try again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("too many requests wait for the node program; check that weft-node runs")]
pub struct Busy;

/// The proxy's handle.
#[derive(Clone, Debug)]
pub struct ProxyClient(mpsc::Sender<ProxyWish>);

/// The agent's handle.
#[derive(Clone, Debug)]
pub struct AgentClient(mpsc::Sender<AgentWish>);

enum ProxyWish {
    Sockets(PodUid, Family, usize),
    Keys(Fd),
    Refuse(RefusedSet),
    Ready,
}

enum AgentWish {
    Put(PodSpec, Fd),
    Remove(PodUid),
    Maps(Fd),
    LastKnown,
    Complete,
}

/// What the pump needs of a state machine.
trait Side {
    type Wish;
    type Event;
    fn connected(&mut self);
    fn disconnected(&mut self);
    fn wish(&mut self, wish: Self::Wish);
    fn received(&mut self, packet: Incoming<Fd>);
    fn pop(&mut self) -> Option<Outgoing<Fd>>;
    fn event(&mut self) -> Option<Self::Event>;
    fn oldest_unanswered(&self) -> Option<u64>;
}

// === impl ProxyClient ===

impl ProxyClient {
    /// Starts the connection to `path`. Events end when `shutdown` stops; a drain alone ends nothing,
    /// because a draining proxy still needs sockets. Must be called inside a runtime.
    pub fn start(path: &Path, shutdown: &Shutdown) -> (Self, mpsc::Receiver<ProxyEvent<Fd>>) {
        let (wishes, events) = start(path, shutdown, "node-client", ProxySide::new());
        (Self(wishes), events)
    }

    /// Asks for sockets inside a pod, at most 64 at once; answered by an event.
    pub fn want_sockets(&self, uid: &PodUid, family: Family, count: usize) -> Result<(), Busy> {
        self.send(ProxyWish::Sockets(uid.clone(), family, count))
    }

    /// Leaves the keys with the holder for the next proxy. The memfd must be sealed (write, shrink, grow, seal).
    pub fn store_keys(&self, memfd: OwnedFd) -> Result<(), Busy> {
        self.send(ProxyWish::Keys(Arc::new(memfd)))
    }

    /// Wants connects to exactly these destinations, at most [`crate::REFUSALS_MAX`], to fail at once.
    pub fn refuse(&self, set: RefusedSet) -> Result<(), Busy> {
        self.send(ProxyWish::Refuse(set))
    }

    /// Tells that every pod is served; once.
    pub fn ready(&self) -> Result<(), Busy> {
        self.send(ProxyWish::Ready)
    }

    fn send(&self, wish: ProxyWish) -> Result<(), Busy> {
        self.0.try_send(wish).map_err(|_| Busy)
    }
}

// === impl AgentClient ===

impl AgentClient {
    /// Starts the connection to `path`. Events end when `shutdown` stops. Must be called inside a runtime.
    /// `generation_base`: see [`AgentSide::new`].
    pub fn start(
        path: &Path,
        generation_base: u64,
        shutdown: &Shutdown,
    ) -> (Self, mpsc::Receiver<AgentEvent<Fd>>) {
        let side = AgentSide::new(generation_base);
        let (wishes, events) = start(path, shutdown, "node-client", side);
        (Self(wishes), events)
    }

    /// Wants a pod held; answered by `PodReady` or `PodRefused`.
    pub fn put(&self, spec: PodSpec, netns: Fd) -> Result<(), Busy> {
        self.send(AgentWish::Put(spec, netns))
    }

    /// Wants a pod let go; answered by `PodRemoved`.
    pub fn remove(&self, uid: &PodUid) -> Result<(), Busy> {
        self.send(AgentWish::Remove(uid.clone()))
    }

    /// Gives the map of socket storage to holder and proxy.
    pub fn set_maps(&self, sockets: OwnedFd) -> Result<(), Busy> {
        self.send(AgentWish::Maps(Arc::new(sockets)))
    }

    /// Every pod of an earlier process's memory has been put; nothing else is let go of.
    pub fn set_last_known(&self) -> Result<(), Busy> {
        self.send(AgentWish::LastKnown)
    }

    /// Every pod of the node has been put.
    pub fn set_complete(&self) -> Result<(), Busy> {
        self.send(AgentWish::Complete)
    }

    fn send(&self, wish: AgentWish) -> Result<(), Busy> {
        self.0.try_send(wish).map_err(|_| Busy)
    }
}

fn start<S>(
    path: &Path,
    shutdown: &Shutdown,
    name: &'static str,
    side: S,
) -> (mpsc::Sender<S::Wish>, mpsc::Receiver<S::Event>)
where
    S: Side + Send + 'static,
    S::Wish: Send + 'static,
    S::Event: Send + 'static,
{
    let (wish_tx, wish_rx) = mpsc::channel(QUEUE_MAX);
    let (event_tx, event_rx) = mpsc::channel(QUEUE_MAX);
    let pump = Pump {
        path: path.to_owned(),
        side,
        wishes: wish_rx,
        events: event_tx,
    };
    let stop = shutdown.clone();
    // Not among the tasks that a drain waits for: it serves until everything stops.
    let untracked = Shutdown::new();
    spawn(&untracked, name, async move {
        tokio::select! {
            () = stop.stopped() => {}
            () = pump.run() => {}
        }
    });
    (wish_tx, event_rx)
}

struct Pump<S: Side> {
    path: PathBuf,
    side: S,
    wishes: mpsc::Receiver<S::Wish>,
    events: mpsc::Sender<S::Event>,
}

impl<S: Side> Pump<S> {
    /// Ends when the handle and all of its clones are dropped.
    async fn run(mut self) {
        let mut backoff = Backoff::random(RETRY_MIN, RETRY_MAX);
        loop {
            match connect(&self.path) {
                Ok(channel) => {
                    info!(path = %self.path.display(), "connected to weft-node");
                    self.side.connected();
                    let end = self.converse(&channel, &mut backoff).await;
                    self.side.disconnected();
                    match end {
                        None => return,
                        Some(ChannelError::Closed) => info!("weft-node closed the connection"),
                        Some(error) => warn!(%error, "lost the connection to weft-node"),
                    }
                }
                Err(error) => debug!(%error, path = %self.path.display(), "cannot reach weft-node"),
            }
            let again = Instant::now() + backoff.next_wait();
            // Wishes are taken while apart, too: the machine sends them after the next greeting.
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(again) => break,
                    wish = self.wishes.recv() => match wish {
                        Some(wish) => self.side.wish(wish),
                        None => return,
                    },
                }
            }
        }
    }

    /// Until the connection ends (`Some`) or nobody wishes anything any more (`None`).
    async fn converse(&mut self, channel: &Channel, backoff: &mut Backoff) -> Option<ChannelError> {
        let mut outgoing: Option<Outgoing<Fd>> = None;
        let mut oldest = (self.side.oldest_unanswered(), Instant::now());
        loop {
            while let Some(event) = self.side.event() {
                if self.events.send(event).await.is_err() {
                    return None;
                }
            }
            if outgoing.is_none() {
                outgoing = self.side.pop();
            }
            let now_oldest = self.side.oldest_unanswered();
            if now_oldest != oldest.0 {
                oldest = (now_oldest, Instant::now());
            }
            let limit = oldest.1 + ANSWER_LIMIT;
            tokio::select! {
                received = channel.receive() => match received {
                    Ok(packet) => {
                        backoff.reset();
                        self.side.received(packet);
                    }
                    Err(error) => return Some(error),
                },
                sent = send(channel, outgoing.as_ref()), if outgoing.is_some() => match sent {
                    Ok(()) => outgoing = None,
                    Err(error) => return Some(error),
                },
                wish = self.wishes.recv() => match wish {
                    Some(wish) => self.side.wish(wish),
                    None => return None,
                },
                () = tokio::time::sleep_until(limit), if oldest.0.is_some() => {
                    return Some(ChannelError::Peer("no answer for 30 s".into()));
                }
            }
        }
    }
}

async fn send(channel: &Channel, packet: Option<&Outgoing<Fd>>) -> Result<(), ChannelError> {
    match packet {
        Some(packet) => {
            channel
                .send(packet.id, &packet.message, &packet.descriptors)
                .await
        }
        None => std::future::pending().await,
    }
}

macro_rules! side {
    ($side:ident, $wish:ident, $event:ident) => {
        impl Side for $side<Fd> {
            type Wish = $wish;
            type Event = $event<Fd>;
            fn connected(&mut self) {
                $side::connected(self);
            }
            fn disconnected(&mut self) {
                $side::disconnected(self);
            }
            fn wish(&mut self, wish: $wish) {
                wish.tell(self);
            }
            fn received(&mut self, packet: Incoming<Fd>) {
                $side::received(self, packet);
            }
            fn pop(&mut self) -> Option<Outgoing<Fd>> {
                $side::pop(self)
            }
            fn event(&mut self) -> Option<$event<Fd>> {
                $side::event(self)
            }
            fn oldest_unanswered(&self) -> Option<u64> {
                $side::oldest_unanswered(self)
            }
        }
    };
}
side!(ProxySide, ProxyWish, ProxyEvent);
side!(AgentSide, AgentWish, AgentEvent);

impl ProxyWish {
    fn tell(self, side: &mut ProxySide<Fd>) {
        match self {
            Self::Sockets(uid, family, count) => side.want_sockets(&uid, family, count),
            Self::Keys(memfd) => side.store_keys(memfd),
            Self::Refuse(set) => side.refuse(set),
            Self::Ready => side.ready(),
        }
    }
}

impl AgentWish {
    fn tell(self, side: &mut AgentSide<Fd>) {
        match self {
            Self::Put(spec, netns) => side.put(spec, netns),
            Self::Remove(uid) => side.remove(&uid),
            Self::Maps(sockets) => side.set_maps(sockets),
            Self::LastKnown => side.set_last_known(),
            Self::Complete => side.set_complete(),
        }
    }
}
