//! Connections of agent, proxy and successor: who they are, and their packets in both directions.
//!
//! In: accepted channels. Out: packets for the state machine, by connection number.
//! A peer is believed to be agent or proxy only if the kernel says that it is the process which was started as such.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};
use weft_node_api::{
    Acceptor, Channel, ChannelError, Hello, Incoming, Message, NackReason, Outgoing, Peer, Role,
};
use weft_runtime::{Shutdown, spawn};

use super::Hold;
use crate::children::Which;
use crate::limits;
use crate::netns::Fd;

/// Packets of all peers that may wait for the holder's task, which takes them at once.
pub(super) const EVENTS_MAX: usize = 256;

/// Packets that may wait for one peer: a full snapshot of some thousand pods.
const OUTGOING_MAX: usize = 8192;

/// Connections at once: agent, proxy, successor, and one of each that is just being replaced.
const CONNECTIONS_MAX: usize = 16;

/// A request that a peer leaves unanswered for this many ticks ends its connection.
const HUNG_TICKS: u32 = 15;

/// What a connection's task tells.
#[derive(Debug)]
pub(crate) enum PeerEvent {
    Packet(u64, Incoming<Fd>),
    Closed(u64, ChannelError),
}

/// All connections.
#[derive(Debug)]
pub(super) struct Connections {
    events: mpsc::Sender<PeerEvent>,
    last_number: u64,
    open: BTreeMap<u64, Connection>,
    pub(super) agent: Option<u64>,
    pub(super) proxy: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: Peer,
    pub(super) role: Option<Role>,
    outgoing: mpsc::Sender<Outgoing<Fd>>,
    /// The oldest unanswered request, and for how many ticks it is that.
    oldest: (Option<u64>, u32),
}

impl Connections {
    pub(super) fn new(events: mpsc::Sender<PeerEvent>) -> Self {
        Self {
            events,
            last_number: 0,
            open: BTreeMap::new(),
            agent: None,
            proxy: None,
        }
    }

    pub(super) fn accepted(&mut self, shutdown: &Shutdown, accepted: io::Result<Channel>) {
        match accepted {
            Ok(channel) if self.open.len() < CONNECTIONS_MAX => {
                self.start(shutdown, channel, None);
            }
            Ok(_) => limits::CONNECTIONS.reached(),
            Err(error) => warn!(%error, "cannot accept on the node socket"),
        }
    }

    pub(super) fn start(
        &mut self,
        shutdown: &Shutdown,
        channel: Channel,
        role: Option<Role>,
    ) -> u64 {
        self.last_number += 1;
        let number = self.last_number;
        let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
        let connection = Connection {
            peer: channel.peer(),
            role,
            outgoing,
            oldest: (None, 0),
        };
        self.open.insert(number, connection);
        spawn(
            shutdown,
            "node-peer",
            pump(channel, number, queue, self.events.clone()),
        );
        number
    }

    pub(super) fn send(&mut self, number: u64, packet: Outgoing<Fd>) {
        let Some(connection) = self.open.get(&number) else {
            return;
        };
        if connection.outgoing.try_send(packet).is_err() {
            limits::OUTGOING.reached();
            warn!(peer = ?connection.peer, "it does not read; closing its connection");
            self.close(number);
        }
    }

    /// Ends a connection after what is queued for it has been sent.
    pub(super) fn close(&mut self, number: u64) {
        self.open.remove(&number);
    }
}

/// Binds the node socket: writable for the proxy's user and for root's group, which is the agent's.
///
/// Owner alone would lock the agent out, which has no CAP_DAC_OVERRIDE; who may speak as whom is checked by pid.
pub(crate) fn bind_socket(path: &Path, proxy_uid: u32) -> io::Result<Acceptor> {
    weft_node_api::bind(path, 0o660, (proxy_uid, 0))
}

impl Hold {
    pub(super) fn packet(&mut self, number: u64, packet: Incoming<Fd>) {
        let Some(connection) = self.connections.open.get(&number) else {
            return;
        };
        match (connection.role, &packet.message) {
            (None, Message::Hello(hello)) => {
                let hello = hello.clone();
                self.greeted(number, packet.id, &hello);
            }
            (None, _) => {
                warn!(peer = ?connection.peer, "it did not greet");
                self.connections.close(number);
            }
            (Some(Role::Agent), _) if self.connections.agent == Some(number) => {
                self.holder.agent_sent(packet);
            }
            (Some(Role::Proxy), _) if self.connections.proxy == Some(number) => {
                let offers_end = packet.message == Message::SnapshotSent;
                self.holder.proxy_sent(packet);
                if offers_end {
                    self.look_for_deletions();
                }
            }
            (Some(Role::Node), _) => self.node_sent(number, packet),
            // A connection that was replaced.
            (Some(Role::Agent | Role::Proxy), _) => {}
        }
    }

    pub(super) fn closed(&mut self, number: u64, error: &ChannelError) -> Option<Acceptor> {
        let connection = self.connections.open.remove(&number)?;
        match error {
            ChannelError::Closed => {
                info!(role = ?connection.role, peer = ?connection.peer, "peer left");
            }
            other => {
                warn!(role = ?connection.role, peer = ?connection.peer, error = %other, "peer lost");
            }
        }
        if self.connections.agent == Some(number) {
            self.connections.agent = None;
            self.holder.agent_gone();
        }
        if self.connections.proxy == Some(number) {
            self.connections.proxy = None;
            self.holder.proxy_disconnected();
            self.stock.forget_waiting();
        }
        self.node_closed(number)
    }

    fn greeted(&mut self, number: u64, id: u64, hello: &Hello) {
        let peer = self.connections.open[&number].peer;
        if !self.is_who_it_says(peer, hello.role) {
            warn!(?peer, role = ?hello.role, "it is not the process that was started as such; refused");
            let nack = Outgoing {
                id: 1,
                message: Message::Nack {
                    of: id,
                    reason: NackReason::Malformed,
                    detail: "not the process that was started in this role".into(),
                },
                descriptors: Vec::new(),
            };
            self.connections.send(number, nack);
            self.connections.close(number);
            return;
        }
        info!(?peer, role = ?hello.role, version = hello.version, "peer connected");
        if let Some(connection) = self.connections.open.get_mut(&number) {
            connection.role = Some(hello.role);
        }
        let fits = match hello.role {
            Role::Agent => {
                if let Some(old) = self.connections.agent.replace(number) {
                    self.connections.close(old);
                }
                self.holder.agent_connected(id, hello)
            }
            Role::Proxy => {
                if let Some(old) = self.connections.proxy.replace(number) {
                    self.connections.close(old);
                }
                self.stock.forget_waiting();
                self.holder.proxy_connected(id, hello, peer.pid)
            }
            Role::Node => self.successor_greeted(number, id, hello),
        };
        if !fits {
            warn!(
                ?peer,
                version = hello.version,
                "its version is not a neighbour of ours"
            );
            self.flush();
            self.connections.close(number);
        }
    }

    fn is_who_it_says(&self, peer: Peer, role: Role) -> bool {
        match role {
            Role::Agent => peer.uid == 0 && self.children.pid(Which::Agent) == Some(peer.pid),
            Role::Proxy => {
                peer.uid == self.proxy_uid && self.children.pid(Which::Proxy) == Some(peer.pid)
            }
            Role::Node => peer.uid == 0,
        }
    }

    /// Moves what the state machine wants to say to the connections.
    pub(super) fn flush(&mut self) {
        while let Some(packet) = self.holder.pop_agent() {
            if let Some(number) = self.connections.agent {
                self.connections.send(number, packet);
            }
        }
        while let Some(packet) = self.holder.pop_proxy() {
            if let Some(number) = self.connections.proxy {
                self.connections.send(number, packet);
            }
        }
    }

    /// Ends connections whose peers do not answer any more; they reconnect if they live.
    pub(super) fn drop_hung_peers(&mut self) {
        let oldest = [
            (
                self.connections.agent,
                self.holder.agent_oldest_unanswered(),
            ),
            (
                self.connections.proxy,
                self.holder.proxy_oldest_unanswered(),
            ),
        ];
        for (number, oldest) in oldest {
            let Some(number) = number else { continue };
            let Some(connection) = self.connections.open.get_mut(&number) else {
                continue;
            };
            if oldest.is_none() || connection.oldest.0 != oldest {
                connection.oldest = (oldest, 0);
                continue;
            }
            connection.oldest.1 += 1;
            if connection.oldest.1 > HUNG_TICKS {
                let _ = self.closed(number, &ChannelError::Peer("no answer".into()));
            }
        }
    }
}

/// Moves packets of one connection until it ends or nobody needs it any more.
async fn pump(
    channel: Channel,
    number: u64,
    mut queue: mpsc::Receiver<Outgoing<Fd>>,
    events: mpsc::Sender<PeerEvent>,
) {
    let started = Instant::now();
    let mut next: Option<Outgoing<Fd>> = None;
    let error = loop {
        tokio::select! {
            received = channel.receive() => match received {
                Ok(packet) => {
                    if events.send(PeerEvent::Packet(number, packet)).await.is_err() {
                        return;
                    }
                }
                Err(error) => break error,
            },
            packet = queue.recv(), if next.is_none() => match packet {
                Some(packet) => next = Some(packet),
                None => return,
            },
            sent = send(&channel, next.as_ref()), if next.is_some() => match sent {
                Ok(()) => next = None,
                Err(error) => break error,
            },
        }
    };
    tracing::debug!(number, age = ?started.elapsed(), "connection ended");
    let _ = events.send(PeerEvent::Closed(number, error)).await;
}

async fn send(channel: &Channel, packet: Option<&Outgoing<Fd>>) -> Result<(), ChannelError> {
    let Some(packet) = packet else {
        return std::future::pending().await;
    };
    let descriptors: &[Arc<_>] = &packet.descriptors;
    channel.send(packet.id, &packet.message, descriptors).await
}
