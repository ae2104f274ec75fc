//! Connects that cannot succeed whatever this proxy does: told to the holder, so that the kernel fails them at once.
//!
//! In: snapshots, the pods of this node. Out: whole sets of addresses and ports for the node client.
//! A destination is on the set exactly when every pod of this node would be refused there: a service without any endpoint that
//! may take a connection. What depends on who asks, what a waypoint decides, ranges of virtual addresses, and addresses that
//! nobody knows cannot be listed; those connects succeed and are reset, as everything that fails later.
//! Not here: the way to the kernel (`weft-node-api`, `weft-agent`).

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_balance::Candidates;
use weft_config::{Destination, Origin, ServiceEndpoints, Snapshot};
use weft_node_api::{ProxyClient, REFUSALS_MAX, Refused};
use weft_types::{Service, ServiceName, Workload};

use crate::shared::Shared;

/// Pause between two looks at the configuration. A look at 10 000 services costs a millisecond or two, so a mesh that changes
/// all the time costs some percent of a core; the first change after a quiet time is looked at at once.
const PAUSE: Duration = Duration::from_millis(50);

/// Tells the holder whenever the set changes, for ever.
pub(crate) async fn follow(shared: Arc<Shared>, client: ProxyClient) {
    let mut configuration = shared.config.changed();
    let mut pods = shared.pods.changed();
    let mut judge = Judge::default();
    let mut told = None;
    loop {
        configuration.mark_unchanged();
        pods.mark_unchanged();
        let mut busy = false;
        let snapshot = shared.config.snapshot();
        if snapshot.origin() != Origin::Empty {
            let set = Arc::new(judge.refused(&snapshot, &clients(&shared, &snapshot)));
            shared.refusals_omitted.set(judge.omitted as i64);
            if told.as_ref() != Some(&set) {
                tracing::debug!(
                    destinations = set.len(),
                    omitted = judge.omitted,
                    "refused at connect"
                );
                busy = client.refuse(Arc::clone(&set)).is_err();
                told = (!busy).then_some(set);
            }
        }
        drop(snapshot);
        tokio::time::sleep(PAUSE).await;
        tokio::select! {
            changed = configuration.changed(), if !busy => if changed.is_err() { return },
            changed = pods.changed(), if !busy => if changed.is_err() { return },
            () = std::future::ready(()), if busy => {}
        }
    }
}

/// The workloads of this node's pods, one for each place from which services look different.
fn clients(shared: &Shared, snapshot: &Snapshot) -> Vec<Arc<Workload>> {
    let mut clients: Vec<Arc<Workload>> = Vec::new();
    for pod in shared.pods.table().iter() {
        let Some(workload) = snapshot.workload(&pod.workload()) else {
            continue;
        };
        if !clients.iter().any(|known| same_place(known, workload)) {
            clients.push(Arc::clone(workload));
        }
    }
    clients
}

fn same_place(one: &Workload, other: &Workload) -> bool {
    let place = |workload: &Workload| {
        (
            workload.network.clone(),
            workload.cluster.clone(),
            workload.node.clone(),
            workload.locality.clone(),
        )
    };
    place(one) == place(other)
}

/// Remembers what was judged: a change of one service costs one judgement.
#[derive(Default)]
struct Judge {
    clients: Vec<Arc<Workload>>,
    known: HashMap<ServiceName, Judged>,
    /// How many the last set left out for want of room.
    omitted: usize,
}

/// A service and what it was judged by; right while these are the same objects and the clients stand where they stood.
struct Judged {
    service: Arc<Service>,
    endpoints: Option<Arc<ServiceEndpoints>>,
    dead: Dead,
}

/// Which ports of a service have nobody to take a connection.
#[derive(Debug, PartialEq, Eq)]
enum Dead {
    /// These, and some other has.
    Ports(Vec<u16>),
    /// All that it has; those that it does not have are refused anyway.
    All,
}

impl Judge {
    fn refused(&mut self, snapshot: &Snapshot, clients: &[Arc<Workload>]) -> BTreeSet<Refused> {
        let same = |(one, other): (&Arc<Workload>, &Arc<Workload>)| same_place(one, other);
        if clients.len() != self.clients.len() || !clients.iter().zip(&self.clients).all(same) {
            self.known.clear();
        }
        self.clients = clients.to_vec();
        let mut before = std::mem::take(&mut self.known);
        let mut refused = BTreeSet::new();
        for service in snapshot.services() {
            let endpoints = snapshot.endpoints(&service.name);
            let same = |known: &Judged| {
                Arc::ptr_eq(&known.service, service)
                    && known.endpoints.as_ref().map(Arc::as_ptr) == endpoints.map(Arc::as_ptr)
            };
            let known = before.remove(&service.name).filter(same);
            let judged = known.unwrap_or_else(|| Judged {
                service: Arc::clone(service),
                endpoints: endpoints.cloned(),
                dead: judge(service, endpoints.map(Arc::as_ref), clients),
            });
            refused.extend(listed(snapshot, &judged, clients));
            self.known.insert(service.name.clone(), judged);
        }
        self.omitted = refused.len().saturating_sub(REFUSALS_MAX);
        if self.omitted > 0 {
            // The same ones every time, so that the others are not refused now early and now late.
            refused = refused.into_iter().take(REFUSALS_MAX).collect();
        }
        refused
    }
}

fn judge(
    service: &Service,
    endpoints: Option<&ServiceEndpoints>,
    clients: &[Arc<Workload>],
) -> Dead {
    if service.waypoint.is_some() || !service.weighted_waypoints.is_empty() {
        return Dead::Ports(Vec::new());
    }
    let is_dead = |port: u16| {
        clients.iter().all(|client| {
            let on_port = endpoints
                .into_iter()
                .flat_map(|all| all.on_port(service, port));
            Candidates::compile(service, port, on_port, client).is_empty()
        })
    };
    let ports = service.ports.iter().map(|port| port.service_port);
    let dead: Vec<u16> = ports.filter(|port| is_dead(*port)).collect();
    if dead.len() == service.ports.len() {
        Dead::All
    } else {
        Dead::Ports(dead)
    }
}

/// The addresses at which everybody here meets this service, with its dead ports.
fn listed(
    snapshot: &Snapshot,
    judged: &Judged,
    clients: &[Arc<Workload>],
) -> impl Iterator<Item = Refused> {
    let ports: &[u16] = match &judged.dead {
        Dead::All => &[0],
        Dead::Ports(ports) => ports,
    };
    // Most services live: no address of theirs is looked up.
    let addresses = judged
        .service
        .addresses
        .iter()
        .filter(|_| !ports.is_empty());
    addresses
        .map(|address| address.address)
        .filter(|address| meets(snapshot, &judged.service, *address, clients))
        .flat_map(|address| {
            ports
                .iter()
                .map(move |port| Refused::from((address, *port)))
        })
}

/// Whether the address leads every client to this service: another one, or a workload, may stand there too.
fn meets(
    snapshot: &Snapshot,
    service: &Service,
    address: IpAddr,
    clients: &[Arc<Workload>],
) -> bool {
    !clients.is_empty()
        && clients.iter().all(|client| {
            let found = snapshot.destination(&client.network, address);
            matches!(found, Some(Destination::Service(found)) if found.name == service.name)
        })
}

#[cfg(test)]
mod tests;
