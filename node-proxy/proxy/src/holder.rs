//! The holder's words: pods, the map, keys, sockets. One task of the control thread.
//!
//! In: events of the node client, orders of the stocks. Out: the pod table, commands to the workers.
//! Not here: the protocol (`weft-node-api`).

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use weft_bpf::SocketStorage;
use weft_node_api::{Family, ProxyClient, ProxyEvent, Removal};
use weft_runtime::Shutdown;
use weft_types::PodUid;

use crate::keys;
use crate::pods::{NewPod, Order, Pod};
use crate::readiness::{Need, Readiness};
use crate::serve::Workers;
use crate::shared::Shared;

/// Pause before sockets are ordered again after the holder had none: what it lacks (descriptors, a namespace) takes time.
const REFUSED_PAUSE: Duration = Duration::from_millis(200);
/// How often idle stocks fall back to their smallest size.
const SETTLE_INTERVAL: Duration = Duration::from_secs(30);

/// Everything that the task needs.
pub(crate) struct Holder {
    pub(crate) shared: Arc<Shared>,
    pub(crate) workers: Workers,
    pub(crate) client: ProxyClient,
    pub(crate) events: mpsc::Receiver<ProxyEvent<Arc<OwnedFd>>>,
    pub(crate) orders: mpsc::UnboundedReceiver<Order>,
    pub(crate) readiness: Readiness,
}

/// Pods that left the mesh and whose connections may go on; told when their namespace goes.
type Lingering = HashMap<PodUid, Shutdown>;

impl Holder {
    /// Runs until the client's events end.
    pub(crate) async fn run(mut self) {
        let mut lingering = Lingering::new();
        let mut settle = tokio::time::interval(SETTLE_INTERVAL);
        let (retries, mut due) = mpsc::unbounded_channel::<(PodUid, Family)>();
        loop {
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => self.heard(event, &mut lingering, &retries),
                    None => return,
                },
                Some(order) = self.orders.recv() => self.order(&order, &retries),
                Some((uid, family)) = due.recv() => {
                    if let Some(pod) = self.pod(&uid) {
                        pod.stock.retry(family);
                    }
                }
                _ = settle.tick() => {
                    for pod in self.shared.pods.table().iter() {
                        pod.stock.settle();
                    }
                }
            }
        }
    }

    fn heard(
        &self,
        event: ProxyEvent<Arc<OwnedFd>>,
        lingering: &mut Lingering,
        retries: &mpsc::UnboundedSender<(PodUid, Family)>,
    ) {
        match event {
            ProxyEvent::Maps { sockets } => self.take_map(&sockets),
            ProxyEvent::Keys { memfd } => keys::import(&self.shared.identities, &memfd),
            ProxyEvent::PodAdded {
                spec,
                facts,
                listeners,
            } => {
                lingering.remove(&spec.uid);
                let new = NewPod {
                    spec,
                    facts,
                    listeners,
                    cluster: Arc::from(self.shared.config.load().cluster()),
                    flows: self.shared.flows.clone(),
                };
                let pod = self.shared.pods.put(new);
                pod.claim(&self.shared.config.load(), &self.shared.identities);
                tracing::info!(pod = %pod.workload(), uid = %pod.spec.uid, "serving pod");
                self.workers.serve(&pod);
            }
            ProxyEvent::PodRemoved { uid, reason } => self.remove(uid, reason, lingering),
            ProxyEvent::Synced => {
                self.readiness.done(Need::Pods);
            }
            ProxyEvent::Sockets {
                uid,
                family,
                sockets,
            } => {
                if let Some(pod) = self.pod(&uid) {
                    pod.stock.deliver(family, own(sockets));
                }
            }
            ProxyEvent::SocketsRefused {
                uid,
                family,
                detail,
            } => {
                tracing::debug!(%uid, ?family, detail, "no sockets inside the pod");
                later(retries, uid, family);
            }
            ProxyEvent::Incompatible { detail } => {
                tracing::error!(
                    detail,
                    "weft-node is of another version; replace both programs together"
                );
            }
        }
    }

    fn take_map(&self, sockets: &OwnedFd) {
        let storage = sockets
            .try_clone()
            .map_err(|error| error.to_string())
            .and_then(|fd| SocketStorage::from_fd(fd).map_err(|error| error.to_string()));
        match storage {
            Ok(storage) => {
                self.shared.storage.store(Some(Arc::new(storage)));
                for pod in self.shared.pods.table().iter() {
                    pod.stock.renew();
                }
                self.readiness.done(Need::Map);
            }
            Err(error) => {
                tracing::error!(
                    error,
                    "the map of socket storage is unusable; check that weft-agent is of this version"
                );
            }
        }
    }

    fn remove(&self, uid: PodUid, reason: Removal, lingering: &mut Lingering) {
        let removed = self.shared.pods.remove(&uid);
        let life = removed
            .as_ref()
            .map(|pod| pod.life.clone())
            .or_else(|| lingering.remove(&uid));
        self.workers.forget(&uid, reason);
        let Some(life) = life else { return };
        tracing::info!(%uid, ?reason, "no longer serving pod");
        match reason {
            Removal::Unenrolled => {
                life.drain();
                lingering.insert(uid, life);
            }
            Removal::Gone => life.stop(),
        }
    }

    fn order(&self, order: &Order, retries: &mpsc::UnboundedSender<(PodUid, Family)>) {
        if self
            .client
            .want_sockets(&order.uid, order.family, order.count)
            .is_err()
        {
            later(retries, order.uid.clone(), order.family);
        }
    }

    fn pod(&self, uid: &PodUid) -> Option<Arc<Pod>> {
        self.shared.pods.table().by_uid(uid).cloned()
    }
}

fn later(retries: &mpsc::UnboundedSender<(PodUid, Family)>, uid: PodUid, family: Family) {
    let retries = retries.clone();
    weft_runtime::spawn(&Shutdown::new(), "socket-retry", async move {
        tokio::time::sleep(REFUSED_PAUSE).await;
        // The receiver goes only when the proxy ends.
        let _ = retries.send((uid, family));
    });
}

/// Descriptors that nobody else holds, or copies of them.
fn own(sockets: Vec<Arc<OwnedFd>>) -> Vec<OwnedFd> {
    let own = |socket: Arc<OwnedFd>| Arc::try_unwrap(socket).or_else(|shared| shared.try_clone());
    sockets.into_iter().filter_map(|s| own(s).ok()).collect()
}
