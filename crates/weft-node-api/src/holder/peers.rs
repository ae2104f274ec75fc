//! The two peers of a holder: greetings, their packets, and what the proxy is told.

use weft_types::PodUid;

use super::{AgentLink, Holder, HolderAction, Keys, LET_GO_MAX, Offered, Pod, ProxyLink};
use crate::link::Link;
use crate::message::{
    Family, Hello, Incoming, Listeners, Message, NackReason, PodSpec, Removal, VERSION, compatible,
};

impl<F: Clone> Holder<F> {
    /// An agent connected and greeted with packet `id`; an earlier agent's connection is forgotten.
    /// False: its version does not fit, close the connection after sending what is queued.
    pub fn agent_connected(&mut self, id: u64, hello: &Hello) -> bool {
        self.agent_gone();
        let mut link = Link::new();
        let fits = greet(&mut link, id, hello);
        self.agent = Some(AgentLink {
            link,
            named: std::collections::BTreeSet::new(),
            last_known: false,
            complete: false,
        });
        if fits {
            self.refusals_told.restart();
            self.tell_refusals();
        }
        fits
    }

    /// The agent's connection is lost: its pods stay.
    pub fn agent_gone(&mut self) {
        self.agent = None;
        self.deferred.clear();
        self.forget_replies();
    }

    /// A proxy connected and greeted with packet `id`. False: as for the agent.
    pub fn proxy_connected(&mut self, id: u64, hello: &Hello, pid: i32) -> bool {
        self.proxy = None;
        self.refusals.restart();
        let mut link = Link::new();
        let fits = greet(&mut link, id, hello);
        self.proxy = Some(ProxyLink {
            link,
            pid,
            synced: false,
            ready: false,
            waiting: Vec::new(),
        });
        fits
    }

    /// The proxy's connection is lost; it may come back with it.
    pub fn proxy_disconnected(&mut self) {
        self.proxy = None;
    }

    /// No proxy of an earlier holder will offer anything any more: it died, or the wait took too long.
    pub fn offers_over(&mut self) {
        if !self.awaiting_offers {
            return;
        }
        self.awaiting_offers = false;
        for packet in std::mem::take(&mut self.deferred) {
            self.agent_sent(packet);
        }
    }

    /// Whether a proxy's offers are still awaited.
    pub fn is_awaiting_offers(&self) -> bool {
        self.awaiting_offers
    }

    /// Takes in a packet of the agent.
    pub fn agent_sent(&mut self, packet: Incoming<F>) {
        let Incoming {
            id,
            message,
            descriptors,
        } = packet;
        match message {
            Message::Ack { of } | Message::Nack { of, .. } => {
                let taken = matches!(message, Message::Ack { .. });
                let note = self
                    .agent
                    .as_mut()
                    .and_then(|agent| agent.link.answered(of));
                self.agent_answered(note, taken);
            }
            Message::PutPod { generation, spec } => self.put_pod(id, generation, spec, descriptors),
            Message::RemovePod {
                uid, generation, ..
            } => self.remove_pod(id, &uid, generation),
            Message::Maps => self.new_maps(id, descriptors),
            Message::SnapshotSent => self.agent_complete(id),
            Message::LastKnownSent => {
                self.agent_ack(id);
                if let Some(agent) = &mut self.agent {
                    agent.last_known = true;
                }
            }
            _ => self.agent_nack(id, NackReason::Malformed, "not a request of an agent"),
        }
    }

    /// Takes in a packet of the proxy.
    pub fn proxy_sent(&mut self, packet: Incoming<F>) {
        let Incoming {
            id,
            message,
            descriptors,
        } = packet;
        match message {
            Message::Ack { of } | Message::Nack { of, .. } => {
                if let Some(proxy) = &mut self.proxy {
                    proxy.link.answered(of);
                }
            }
            Message::Offer { generation, spec } => self.offered(id, generation, spec, descriptors),
            Message::SnapshotSent => {
                self.proxy_ack(id);
                self.offers_over();
                self.tell_everything();
            }
            Message::WantSockets { uid, family, count } => self.wanted(id, uid, family, count),
            Message::StoreKeys => self.store_keys(id, descriptors),
            Message::Refusals(part) => self.refuse(id, &part),
            Message::Ready => {
                if let Some(proxy) = &mut self.proxy {
                    proxy.ready = true;
                    proxy.link.ack(id);
                }
                self.proxy_serves();
                self.actions.push_back(HolderAction::ProxyReady);
            }
            _ => self.proxy_nack(id, NackReason::Malformed, "not a request of a proxy"),
        }
    }

    /// Sockets for a request of `Stock`.
    pub fn stocked(&mut self, of: u64, sockets: Vec<F>) {
        if let Some(proxy) = &mut self.proxy {
            proxy.link.tell(Message::Sockets { of }, sockets);
        }
    }

    /// No sockets for a request of `Stock`.
    pub fn not_stocked(&mut self, of: u64, detail: &str) {
        self.proxy_nack(of, NackReason::Failed, detail);
    }

    /// The connected proxy's process.
    pub fn proxy_pid(&self) -> Option<i32> {
        self.proxy.as_ref().map(|proxy| proxy.pid)
    }

    fn new_maps(&mut self, id: u64, descriptors: Vec<F>) {
        let Ok([sockets]) = <[F; 1]>::try_from(descriptors) else {
            return self.agent_nack(id, NackReason::Malformed, "Maps carries one descriptor");
        };
        self.agent_ack(id);
        self.maps = Some(sockets.clone());
        self.actions.push_back(HolderAction::Maps {
            sockets: sockets.clone(),
        });
        if let Some(proxy) = self.proxy.as_mut().filter(|proxy| proxy.synced) {
            proxy.link.request((), Message::Maps, vec![sockets]);
        }
    }

    fn offered(&mut self, id: u64, generation: u64, spec: PodSpec, descriptors: Vec<F>) {
        let Some(listeners) = Listeners::from_vec(descriptors) else {
            return self.proxy_nack(id, NackReason::Malformed, "Offer carries three descriptors");
        };
        self.proxy_ack(id);
        // Once the agent has named every pod, only those of its requests that wait for an offer can use one.
        let agent_spoke = self.agent.as_ref().is_some_and(|agent| agent.complete);
        let needed = !agent_spoke || self.is_deferred(&spec.uid);
        let over = self
            .let_go
            .get(&spec.uid)
            .filter(|(at, _)| generation <= *at);
        if let (Some((_, reason)), Some(proxy)) = (over, &mut self.proxy) {
            let message = Message::RemovePod {
                uid: spec.uid,
                generation,
                reason: *reason,
            };
            proxy.link.request((), message, Vec::new());
            return;
        }
        let uid = spec.uid.clone();
        let offer = Offered {
            generation,
            spec,
            listeners,
        };
        match self.pods.get_mut(&uid) {
            // The agent was faster, and its request is in work. Until that is done the proxy must hear that it goes on with
            // what it has: a snapshot without the pod would end its stock and its tunnels.
            Some(Pod::Preparing { old, .. }) => *old = Some(offer),
            None if needed => {
                self.pods.insert(uid, Pod::Offered(offer));
            }
            Some(Pod::Offered(_) | Pod::Ready { .. }) | None => {}
        }
    }

    fn store_keys(&mut self, id: u64, descriptors: Vec<F>) {
        let Ok([memfd]) = <[F; 1]>::try_from(descriptors) else {
            return self.proxy_nack(
                id,
                NackReason::Malformed,
                "StoreKeys carries one descriptor",
            );
        };
        if let Some(proxy) = &mut self.proxy {
            proxy.link.ack(id);
            self.keys = Some(Keys {
                memfd,
                of: proxy.pid,
            });
        }
    }

    fn wanted(&mut self, id: u64, uid: PodUid, family: Family, count: usize) {
        match self.pods.get(&uid) {
            None => self.proxy_nack(id, NackReason::NoSuchPod, "no such pod is held"),
            Some(Pod::Ready { .. }) => self.actions.push_back(HolderAction::Stock {
                of: id,
                uid,
                family,
                count,
            }),
            // The agent will name the pod soon, or it goes; either way the proxy hears.
            Some(_) => {
                if let Some(proxy) = &mut self.proxy {
                    proxy.waiting.push((id, uid, family, count));
                }
            }
        }
    }

    /// The full snapshot, after the proxy's offers.
    fn tell_everything(&mut self) {
        let Some(proxy) = &mut self.proxy else { return };
        if let Some(sockets) = &self.maps {
            proxy.link.request((), Message::Maps, vec![sockets.clone()]);
        }
        if let Some(keys) = self.keys.as_ref().filter(|keys| keys.of != proxy.pid) {
            proxy
                .link
                .request((), Message::Keys, vec![keys.memfd.clone()]);
        }
        for pod in self.pods.values() {
            let (generation, spec, facts, listeners) = match pod {
                Pod::Ready { held, .. } => (
                    held.generation,
                    &held.spec,
                    Some(held.facts.clone()),
                    &held.listeners,
                ),
                Pod::Offered(offered)
                | Pod::Preparing {
                    old: Some(offered), ..
                } => (offered.generation, &offered.spec, None, &offered.listeners),
                Pod::Preparing { old: None, .. } => continue,
            };
            let message = Message::Pod {
                generation,
                spec: spec.clone(),
                facts,
            };
            proxy
                .link
                .request((), message, listeners.clone().into_vec());
        }
        proxy.link.request((), Message::SnapshotSent, Vec::new());
        proxy.synced = true;
    }

    /// Tells a proxy that was told everything before.
    pub(super) fn tell_proxy(&mut self, message: Message, descriptors: Vec<F>) {
        if let Some(proxy) = self.proxy.as_mut().filter(|proxy| proxy.synced) {
            proxy.link.request((), message, descriptors);
        }
    }

    pub(super) fn tell_removed(&mut self, uid: &PodUid, generation: u64, reason: Removal) {
        if self.let_go.len() >= LET_GO_MAX {
            self.let_go.clear();
        }
        self.let_go.insert(uid.clone(), (generation, reason));
        let message = Message::RemovePod {
            uid: uid.clone(),
            generation,
            reason,
        };
        self.tell_proxy(message, Vec::new());
        let Some(proxy) = &mut self.proxy else { return };
        let (gone, waiting) = std::mem::take(&mut proxy.waiting)
            .into_iter()
            .partition(|(_, waiting, _, _)| waiting == uid);
        proxy.waiting = waiting;
        for (of, ..) in gone {
            self.proxy_nack(of, NackReason::NoSuchPod, "the pod left");
        }
    }

    /// Requests for sockets of a pod that has become ready.
    pub(super) fn serve_waiting(&mut self, uid: &PodUid) {
        let Some(proxy) = &mut self.proxy else { return };
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut proxy.waiting)
            .into_iter()
            .partition(|(_, waiting, _, _)| waiting == uid);
        proxy.waiting = later;
        for (of, uid, family, count) in now {
            self.actions.push_back(HolderAction::Stock {
                of,
                uid,
                family,
                count,
            });
        }
    }

    pub(super) fn agent_ack(&mut self, id: u64) {
        if let Some(agent) = &mut self.agent {
            agent.link.ack(id);
        }
    }

    pub(super) fn agent_nack(&mut self, id: u64, reason: NackReason, detail: &str) {
        if let Some(agent) = &mut self.agent {
            agent.link.nack(id, reason, detail);
        }
    }

    pub(super) fn proxy_ack(&mut self, id: u64) {
        if let Some(proxy) = &mut self.proxy {
            proxy.link.ack(id);
        }
    }

    pub(super) fn proxy_nack(&mut self, id: u64, reason: NackReason, detail: &str) {
        if let Some(proxy) = &mut self.proxy {
            proxy.link.nack(id, reason, detail);
        }
    }
}

fn greet<F, N>(link: &mut Link<F, N>, id: u64, hello: &Hello) -> bool {
    if compatible(VERSION, hello.version) {
        link.tell(Message::Welcome { version: VERSION }, Vec::new());
        return true;
    }
    let detail = format!(
        "the holder speaks version {VERSION}, the peer {}; install neighbouring versions",
        hello.version
    );
    link.nack(id, NackReason::Version { ours: VERSION }, detail);
    false
}
