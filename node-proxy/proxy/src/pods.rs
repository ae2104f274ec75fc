//! The pods that this proxy serves: listeners, sockets in stock, identity.
//!
//! In: words of the holder and of the configuration. Out: a table that every worker reads without a lock.
//! Not here: how the holder's words arrive (`holder`), accepting (`accept`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, watch};
use weft_config::Snapshot;
use weft_identity::{Identities, Lease};
use weft_node_api::{Family, Listeners, PodFacts, PodSpec};
use weft_policy::CompiledPolicies;
use weft_runtime::Shutdown;
use weft_types::{PodUid, SpiffeId, TunnelProtocol, Workload, WorkloadUid};

use crate::handshakes::Handshakes;

pub(crate) use deliveries::{Deliveries, NoTurn};
pub(crate) use stock::{NoSocket, Order, Stock};

mod deliveries;
mod stock;

/// One pod.
pub(crate) struct Pod {
    pub(crate) spec: PodSpec,
    /// Its name in configuration; changes only when the cluster turns out to have another name than the default.
    workload: ArcSwap<WorkloadUid>,
    /// Its addresses: what configuration gave it and what the holder found in its namespace.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) listeners: Listeners<Arc<OwnedFd>>,
    pub(crate) stock: Arc<Stock>,
    /// Limits peers that have not shown a certificate.
    pub(crate) handshakes: Arc<Handshakes>,
    /// Limits connections that its applications have not accepted.
    pub(crate) deliveries: Arc<Deliveries>,
    /// Drains: accept no more. Stops: its connections end as well.
    pub(crate) life: Shutdown,
    /// Configuration has had it in the mesh since it is served here.
    joined: AtomicBool,
    lease: ArcSwapOption<Lease>,
    policies: ArcSwapOption<PodPolicies>,
}

/// The policies of a pod, compiled, and what they were compiled from.
struct PodPolicies {
    revision: u64,
    workload: Arc<Workload>,
    compiled: CompiledPolicies,
}

/// What a pod is made of when the holder names it.
pub(crate) struct NewPod {
    pub(crate) spec: PodSpec,
    pub(crate) facts: Option<PodFacts>,
    pub(crate) listeners: Listeners<Arc<OwnedFd>>,
    pub(crate) cluster: Arc<str>,
    /// Its life drains with this.
    pub(crate) flows: Shutdown,
}

/// The current pods, by uid and by name in configuration.
#[derive(Clone, Default)]
pub(crate) struct Table {
    by_uid: HashMap<PodUid, Arc<Pod>>,
    by_workload: HashMap<WorkloadUid, Arc<Pod>>,
}

/// The table, replaced as a whole: by the holder's words, and when configuration renames the cluster.
pub(crate) struct Pods {
    table: ArcSwap<Table>,
    /// Held while a new table is made from the old one.
    writing: Mutex<()>,
    /// Tells of every new table.
    changes: watch::Sender<()>,
    orders: mpsc::UnboundedSender<Order>,
}

impl Pod {
    /// Whose connections these are; none until configuration has named the workload.
    pub(crate) fn identity(&self) -> Option<SpiffeId> {
        self.lease
            .load()
            .as_ref()
            .map(|lease| lease.identity().clone())
    }

    /// Its name in configuration.
    pub(crate) fn workload(&self) -> arc_swap::Guard<Arc<WorkloadUid>> {
        self.workload.load()
    }

    /// The same, to keep.
    pub(crate) fn workload_uid(&self) -> WorkloadUid {
        WorkloadUid::clone(&self.workload.load())
    }

    fn named_in(spec: &PodSpec, cluster: &str) -> WorkloadUid {
        WorkloadUid::of_pod(cluster, &spec.namespace, &spec.name)
    }

    /// Whether an address is its own.
    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address.to_canonical())
    }

    /// An address of its own of the same family.
    pub(crate) fn address_like(&self, address: IpAddr) -> Option<IpAddr> {
        let same = |own: &&IpAddr| own.is_ipv4() == address.is_ipv4();
        self.addresses.iter().find(same).copied()
    }

    /// The policies that apply to it, compiled once for each state of the configuration that changes them.
    pub(crate) fn policies(
        &self,
        snapshot: &Snapshot,
        workload: &Arc<Workload>,
    ) -> impl std::ops::Deref<Target = CompiledPolicies> + use<> {
        let current = |known: &PodPolicies| {
            known.revision == snapshot.policies_revision() && Arc::ptr_eq(&known.workload, workload)
        };
        if let Some(known) = self.policies.load_full().filter(|known| current(known)) {
            return Policies(known);
        }
        let fresh = Arc::new(PodPolicies {
            revision: snapshot.policies_revision(),
            workload: Arc::clone(workload),
            compiled: CompiledPolicies::compile(&snapshot.policies_for(workload)),
        });
        self.policies.store(Some(Arc::clone(&fresh)));
        Policies(fresh)
    }

    /// Whether the controller has taken it out of the mesh, which its agent is about to carry out. What never was in it by
    /// the configuration that arrived here is about to join.
    pub(crate) fn is_leaving(&self, workload: &Workload) -> bool {
        workload.tunnel != TunnelProtocol::Hbone && self.joined.load(Ordering::Relaxed)
    }

    /// Remembers that configuration has it in the mesh.
    pub(crate) fn notice(&self, workload: &Workload) {
        if workload.tunnel == TunnelProtocol::Hbone {
            self.joined.store(true, Ordering::Relaxed);
        }
    }

    /// Claims the identity that configuration gives the workload, when its service account is the enrolled one.
    ///
    /// The controller's word alone is not enough: the agent vouches for the service account of what runs here.
    pub(crate) fn claim(&self, snapshot: &Snapshot, identities: &Identities) {
        let workload = snapshot
            .workload(&self.workload())
            .filter(|w| w.service_account == self.spec.service_account);
        if let Some(workload) = workload {
            self.notice(workload);
        }
        let identity = workload.and_then(|workload| workload.identity().ok());
        // A workload that vanishes from configuration keeps its identity while its pod lives: a controller that starts
        // again must not drop keys.
        let Some(identity) = identity else { return };
        if self.identity().as_ref() != Some(&identity) {
            self.lease
                .store(Some(Arc::new(identities.ensure(&identity))));
        }
    }
}

/// Dereferences to the compiled policies inside.
struct Policies(Arc<PodPolicies>);

impl std::ops::Deref for Policies {
    type Target = CompiledPolicies;

    fn deref(&self) -> &CompiledPolicies {
        &self.0.compiled
    }
}

impl Table {
    pub(crate) fn by_uid(&self, uid: &PodUid) -> Option<&Arc<Pod>> {
        self.by_uid.get(uid)
    }

    pub(crate) fn by_workload(&self, uid: &WorkloadUid) -> Option<&Arc<Pod>> {
        self.by_workload.get(uid)
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Pod>> {
        self.by_uid.values()
    }
}

impl Pods {
    /// No pods yet; orders for sockets go to the given channel.
    pub(crate) fn new(orders: mpsc::UnboundedSender<Order>) -> Self {
        Self {
            table: ArcSwap::default(),
            writing: Mutex::default(),
            changes: watch::Sender::new(()),
            orders,
        }
    }

    /// The current table, to be kept as long as a decision takes.
    pub(crate) fn table(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    /// Tells of every new table; slow readers see the last one only.
    pub(crate) fn changed(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Adds a pod, or replaces its listeners: stock, identity and connections of the former one go on.
    pub(crate) fn put(&self, new: NewPod) -> Arc<Pod> {
        let NewPod {
            spec,
            facts,
            listeners,
            cluster,
            flows,
        } = new;
        let _writing = self.writing();
        let former = self.table.load().by_uid(&spec.uid).cloned();
        let mut addresses: Vec<IpAddr> = spec.addresses.clone();
        if let Some(facts) = &facts {
            addresses.extend(&facts.addresses);
        }
        if let Some(former) = former.as_ref().filter(|_| facts.is_none()) {
            addresses.extend(&former.addresses);
        }
        let mut addresses: Vec<_> = addresses.iter().map(IpAddr::to_canonical).collect();
        addresses.sort();
        addresses.dedup();
        let stock = former.as_ref().map_or_else(
            || Arc::new(Stock::new(spec.uid.clone(), self.orders.clone())),
            |former| Arc::clone(&former.stock),
        );
        for family in [Family::V4, Family::V6] {
            let v4 = family == Family::V4;
            if addresses.iter().any(|a| a.is_ipv4() == v4) {
                stock.open(family);
            }
        }
        let pod = Arc::new(Pod {
            workload: ArcSwap::from_pointee(Pod::named_in(&spec, &cluster)),
            addresses,
            listeners,
            stock,
            handshakes: former
                .as_ref()
                .map_or_else(Arc::default, |former| Arc::clone(&former.handshakes)),
            deliveries: former
                .as_ref()
                .map_or_else(Arc::default, |former| Arc::clone(&former.deliveries)),
            life: former
                .as_ref()
                .map_or_else(|| flows.child(), |former| former.life.clone()),
            joined: AtomicBool::new(
                former
                    .as_ref()
                    .is_some_and(|former| former.joined.load(Ordering::Relaxed)),
            ),
            lease: ArcSwapOption::new(former.and_then(|former| former.lease.load_full())),
            policies: ArcSwapOption::empty(),
            spec,
        });
        let mut table = Table::clone(&self.table.load());
        table.by_uid.insert(pod.spec.uid.clone(), Arc::clone(&pod));
        table
            .by_workload
            .insert(pod.workload_uid(), Arc::clone(&pod));
        self.publish(table);
        pod
    }

    /// Takes a pod out of the table; its connections know it still.
    pub(crate) fn remove(&self, uid: &PodUid) -> Option<Arc<Pod>> {
        let _writing = self.writing();
        let mut table = Table::clone(&self.table.load());
        let gone = table.by_uid.remove(uid)?;
        // A successor of the same name may already stand there.
        table.by_workload.retain(|_, pod| pod.spec.uid != *uid);
        self.publish(table);
        gone.stock.close();
        Some(gone)
    }

    /// Brings every pod's name and claim to an identity in line with configuration.
    pub(crate) fn follow(&self, snapshot: &Snapshot, identities: &Identities) {
        let _writing = self.writing();
        let table = self.table.load_full();
        let mut renamed = false;
        for pod in table.iter() {
            let name = Pod::named_in(&pod.spec, snapshot.cluster());
            if **pod.workload() != name {
                pod.workload.store(Arc::new(name));
                renamed = true;
            }
            pod.claim(snapshot, identities);
        }
        if renamed {
            let by_workload = table
                .iter()
                .map(|pod| (pod.workload_uid(), Arc::clone(pod)))
                .collect();
            self.publish(Table {
                by_uid: table.by_uid.clone(),
                by_workload,
            });
        }
    }

    fn publish(&self, table: Table) {
        self.table.store(Arc::new(table));
        self.changes.send_replace(());
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        // The table is replaced in one step, so a poisoned lock guards nothing that is half done.
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
