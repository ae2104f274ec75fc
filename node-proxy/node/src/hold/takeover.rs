//! A planned change of the node program: what the old one does, and what the new one does.
//!
//! ```text
//! old: serving --Takeover--> handing over --agent ended: AgentGone--> waiting --ProxyReady--> draining --> (end)
//!                 ^------------- successor lost before ProxyReady -------'
//! new: (start) --everything received--> holding, proxy started --AgentGone--> agent started --proxy Ready: ProxyReady-->
//! ```
//!
//! The order is that of the pins: two agents must never work on them at once, two proxies may serve side by side.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};
use weft_node_api::{
    Acceptor, Channel, Held, Hello, Incoming, Listeners, Message, NackReason, Outgoing, Role,
    VERSION, compatible, connect,
};

use super::Hold;
use super::peers::bind_socket;
use crate::children::{Mode, Record, Which};
use crate::netns::Fd;

/// How long the old node may take to hand everything over; it needs milliseconds.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(30);

/// What the new node got from the old one.
pub(crate) struct Inherited {
    channel: Channel,
    pub(crate) lock: Arc<OwnedFd>,
    maps: Option<Fd>,
    keys: Option<Fd>,
    pods: Vec<Held<Fd>>,
    children: Record,
}

/// Where this node stands between its predecessor and its successor.
#[derive(Debug, Default)]
pub(super) struct Succession {
    /// The connection to the old node, as long as we need it.
    predecessor: Option<u64>,
    /// The connection of the new node.
    successor: Option<u64>,
    /// The new proxy serves: there is no way back.
    complete: bool,
    /// Children of the predecessor, in case that it dies before it has ended them.
    inherited: Option<Record>,
    /// Our own proxy serves.
    proxy_serves: bool,
    /// Ids of the packets that we send on those connections.
    last_id: u64,
}

impl Succession {
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }
}

impl Hold {
    /// The new node, after the hand-over.
    pub(super) fn inherit(&mut self, inherited: Inherited) {
        let number = self
            .connections
            .start(&self.shutdown, inherited.channel, Some(Role::Node));
        self.succession.predecessor = Some(number);
        self.succession.inherited = Some(inherited.children);
        if let Some(maps) = inherited.maps {
            self.holder.take_over_maps(maps);
        }
        if let Some(keys) = inherited.keys {
            self.holder.take_over_keys(keys);
        }
        for held in inherited.pods {
            self.holder.take_over_pod(held);
        }
    }

    /// The old node: a successor greets.
    pub(super) fn successor_greeted(&mut self, number: u64, id: u64, hello: &Hello) -> bool {
        let taken = self.succession.successor.is_some() || self.ending;
        if !compatible(VERSION, hello.version) || taken {
            let detail = if taken {
                "another successor is at work, or this node is ending"
            } else {
                "install neighbouring versions"
            };
            let message = Message::Nack {
                of: id,
                reason: NackReason::Version { ours: VERSION },
                detail: detail.into(),
            };
            self.tell_node(number, message, Vec::new());
            return false;
        }
        self.succession.successor = Some(number);
        self.tell_node(number, Message::Welcome { version: VERSION }, Vec::new());
        true
    }

    pub(super) fn node_sent(&mut self, number: u64, packet: Incoming<Fd>) {
        let from_successor = self.succession.successor == Some(number);
        match packet.message {
            Message::Takeover if from_successor => self.hand_over(number),
            Message::ProxyReady if from_successor => {
                info!("the new proxy serves; the old one drains");
                self.succession.complete = true;
                self.children.set_mode(Which::Proxy, Mode::End);
            }
            Message::AgentGone if self.succession.predecessor == Some(number) => {
                info!("the old agent has ended; starting ours");
                self.run_agent();
            }
            Message::Ack { .. } | Message::Nack { .. } => {}
            other => warn!(?other, "unexpected packet of another node program"),
        }
    }

    /// A connection ended; if it was a successor that has not finished, this node takes everything back.
    pub(super) fn node_closed(&mut self, number: u64) -> Option<Acceptor> {
        if self.succession.predecessor == Some(number) {
            self.succession.predecessor = None;
            // It leaves when its children have ended. Should it have died before, nobody else will end them,
            // and two agents must not work on the pins: ours is started again until theirs has let go.
            if let Some(theirs) = &self.succession.inherited {
                self.children.end_orphan(theirs, Which::Agent);
            }
            self.run_agent();
            self.end_old_proxy();
        }
        if self.succession.successor == Some(number) {
            self.succession.successor = None;
            if !self.succession.complete && !self.ending {
                return self.take_back();
            }
        }
        None
    }

    /// The old agent has ended during a hand-over.
    pub(super) fn agent_ended(&mut self) {
        if let Some(number) = self.succession.successor {
            self.tell_node(number, Message::AgentGone, Vec::new());
        }
    }

    /// The new proxy serves every pod.
    pub(super) fn proxy_is_ready(&mut self) {
        info!("the proxy serves every pod");
        self.succession.proxy_serves = true;
        self.end_old_proxy();
        if let Some(number) = self.succession.predecessor {
            // From here on its proxy drains; asked twice, it would cut its connections off.
            self.succession.inherited = None;
            self.tell_node(number, Message::ProxyReady, Vec::new());
        }
    }

    /// The pins are ours, unless they are a successor's by now: a predecessor may drain for longer than this node served.
    fn run_agent(&mut self) {
        let handed_over = self.succession.successor.is_some() || self.succession.complete;
        if !handed_over && !self.ending {
            self.children.set_mode(Which::Agent, Mode::Run);
        }
    }

    /// A predecessor that died left its proxy serving; it may drain as soon as ours serves.
    fn end_old_proxy(&mut self) {
        if self.succession.predecessor.is_none()
            && self.succession.proxy_serves
            && let Some(theirs) = self.succession.inherited.take()
        {
            self.children.end_orphan(&theirs, Which::Proxy);
        }
    }

    fn hand_over(&mut self, number: u64) {
        info!("handing everything over to a successor");
        // From here on the files in the run directory are the successor's.
        self.children.keep_record(false);
        self.tuned.keep(false);
        self.children.set_mode(Which::Proxy, Mode::Hold);
        self.children.set_mode(Which::Agent, Mode::End);
        let lock = self.lock.clone();
        self.tell_node(number, Message::Lock, vec![lock]);
        for (message, descriptors) in self.holder.hand_over() {
            self.tell_node(number, message, descriptors);
        }
        if self.children.pid(Which::Agent).is_none() {
            self.agent_ended();
        }
    }

    fn take_back(&mut self) -> Option<Acceptor> {
        warn!("the successor is gone before it served; going on as before");
        let theirs = self.children.record_on_disk();
        self.children.end_orphan(&theirs, Which::Agent);
        self.children.end_orphan(&theirs, Which::Proxy);
        self.children.keep_record(true);
        self.tuned.keep(true);
        self.children.set_mode(Which::Agent, Mode::Run);
        self.children.set_mode(Which::Proxy, Mode::Run);
        if let Err(error) = (self.serve_admin)() {
            warn!(%error, "cannot bind the admin socket again");
        }
        match bind_socket(&self.socket, self.proxy_uid) {
            Ok(acceptor) => Some(acceptor),
            Err(error) => {
                error!(%error, "cannot bind the node socket again; restart weft-node");
                None
            }
        }
    }

    fn tell_node(&mut self, number: u64, message: Message, descriptors: Vec<Fd>) {
        self.succession.last_id += 1;
        let packet = Outgoing {
            id: self.succession.last_id,
            message,
            descriptors,
        };
        self.connections.send(number, packet);
    }
}

/// The new node asks the old one for everything.
///
/// `children` is the record on disk before this program writes its own.
pub(crate) async fn receive(socket: &Path, children: Record) -> Result<Inherited, String> {
    let channel = connect(socket).map_err(|error| {
        format!(
            "cannot reach the running weft-node: {error}; start without --takeover if none runs"
        )
    })?;
    tokio::time::timeout(HAND_OVER_LIMIT, converse(channel, children))
        .await
        .map_err(|_| {
            "the running weft-node did not hand over within 30 s; see its log".to_owned()
        })?
}

async fn converse(channel: Channel, children: Record) -> Result<Inherited, String> {
    let lost = |error: weft_node_api::ChannelError| {
        format!("hand-over failed: {error}; start without --takeover if no weft-node runs any more")
    };
    let hello = Message::Hello(Hello {
        version: VERSION,
        role: Role::Node,
    });
    channel.send(1, &hello, &[]).await.map_err(lost)?;
    channel
        .send(2, &Message::Takeover, &[])
        .await
        .map_err(lost)?;
    let (mut lock, mut maps, mut keys, mut pods) = (None, None, None, Vec::new());
    loop {
        let packet = channel.receive().await.map_err(lost)?;
        let mut descriptors = packet.descriptors;
        match packet.message {
            Message::Welcome { .. } => {}
            Message::Nack { detail, .. } => {
                return Err(format!("the running weft-node refuses: {detail}"));
            }
            Message::Lock => lock = descriptors.pop(),
            Message::Maps => maps = descriptors.pop(),
            Message::Keys => keys = descriptors.pop(),
            Message::HeldPod {
                generation,
                spec,
                facts,
            } if descriptors.len() == 4 => {
                let listeners = Listeners::from_vec(descriptors.split_off(1));
                if let (Some(listeners), Some(netns)) = (listeners, descriptors.pop()) {
                    pods.push(Held {
                        generation,
                        spec,
                        facts,
                        netns,
                        listeners,
                    });
                }
            }
            Message::SnapshotSent => break,
            other => return Err(format!("unexpected packet in the hand-over: {other:?}")),
        }
    }
    let lock = lock.ok_or("the running weft-node did not pass its lock on")?;
    info!(pods = pods.len(), "took over from the running weft-node");
    Ok(Inherited {
        channel,
        lock,
        maps,
        keys,
        pods,
        children,
    })
}
