//! What one worker remembers for choosing endpoints: compiled candidates, load, failures.
//!
//! In: a service port as one client sees it, the outcome of connects. Out: endpoints. The choice itself is pure
//! (`weft-balance`). Belongs to one thread, but for session affinity: a client's next connection may meet another worker.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;
use weft_balance::{Affinity, Ask, Candidates, Choice, Endpoint, EndpointId, NoEndpoint, SetAside};
use weft_config::{ServiceEndpoints, Snapshot};
use weft_types::{Service, ServiceName, Workload, WorkloadUid};

/// Compiled service ports kept: 200 pods of one node times 50 services each; about 1 KB apart from the endpoints.
const COMPILED_MAX: usize = 10_000;

/// Who was sent where, by any worker.
pub(crate) type SharedAffinity = Arc<Mutex<Affinity>>;

/// The memory of one worker.
pub(crate) struct Endpoints {
    compiled: RefCell<HashMap<PortKey, Compiled>>,
    in_flight: RefCell<HashMap<EndpointId, u32>>,
    set_aside: RefCell<SetAside>,
    affinity: SharedAffinity,
}

type PortKey = (ServiceName, u16, WorkloadUid);

/// Candidates and what they were compiled from; right while these are the same objects.
struct Compiled {
    service: Arc<Service>,
    endpoints: Option<Arc<ServiceEndpoints>>,
    client: Arc<Workload>,
    candidates: Rc<Candidates>,
}

/// One connection's share of an endpoint's load.
pub(crate) struct InFlight {
    endpoints: Rc<Endpoints>,
    id: EndpointId,
}

/// Who asks.
pub(crate) struct Client<'a> {
    pub(crate) workload: &'a Arc<Workload>,
    pub(crate) address: IpAddr,
}

/// What was chosen.
pub(crate) enum Picked {
    Endpoint(Endpoint),
    /// The service wants its clients' choice of address honoured.
    AsDialled,
}

impl Endpoints {
    /// An empty memory, beside the affinities of all workers.
    pub(crate) fn new(affinity: SharedAffinity) -> Self {
        Self {
            compiled: RefCell::default(),
            in_flight: RefCell::default(),
            set_aside: RefCell::default(),
            affinity,
        }
    }

    /// Chooses an endpoint that was not `tried` for this connection.
    pub(crate) fn pick(
        &self,
        snapshot: &Snapshot,
        (service, port): (&Arc<Service>, u16),
        client: &Client<'_>,
        tried: &[EndpointId],
    ) -> Result<Picked, NoEndpoint> {
        let candidates = self.candidates(snapshot, service, port, client.workload);
        let in_flight = self.in_flight.borrow();
        // Locked for services that want it only, and for the pick alone. A poisoned table is whole: each change is one insert.
        let mut affinity = candidates
            .is_sticky()
            .then(|| self.affinity.lock().unwrap_or_else(PoisonError::into_inner));
        let ask = Ask {
            client: client.address,
            now: Instant::now().into_std(),
            tried,
            in_flight: |endpoint: &Endpoint| in_flight.get(&endpoint.id()).copied().unwrap_or(0),
            set_aside: &self.set_aside.borrow(),
            affinity: affinity.as_deref_mut(),
        };
        Ok(match candidates.pick(ask, &mut rand::rng())? {
            Choice::Endpoint(endpoint) => Picked::Endpoint(endpoint.clone()),
            Choice::AsDialled => Picked::AsDialled,
        })
    }

    /// Counts a connection to an endpoint for as long as the result lives.
    pub(crate) fn occupy(self: &Rc<Self>, id: EndpointId) -> InFlight {
        *self.in_flight.borrow_mut().entry(id).or_default() += 1;
        InFlight {
            endpoints: Rc::clone(self),
            id,
        }
    }

    /// An endpoint could not be reached: it is left alone for a while.
    pub(crate) fn failed(&self, id: EndpointId) {
        let now = Instant::now().into_std();
        self.set_aside.borrow_mut().failed(id, now);
    }

    /// An endpoint was reached.
    pub(crate) fn succeeded(&self, id: EndpointId) {
        self.set_aside.borrow_mut().succeeded(id);
    }

    fn candidates(
        &self,
        snapshot: &Snapshot,
        service: &Arc<Service>,
        port: u16,
        client: &Arc<Workload>,
    ) -> Rc<Candidates> {
        let endpoints = snapshot.endpoints(&service.name);
        let same = |known: &Compiled| {
            Arc::ptr_eq(&known.service, service)
                && Arc::ptr_eq(&known.client, client)
                && known.endpoints.as_ref().map(Arc::as_ptr) == endpoints.map(Arc::as_ptr)
        };
        let key = (service.name.clone(), port, client.uid.clone());
        let mut compiled = self.compiled.borrow_mut();
        if let Some(known) = compiled.get(&key).filter(|known| same(known)) {
            return Rc::clone(&known.candidates);
        }
        let on_port = endpoints
            .into_iter()
            .flat_map(|endpoints| endpoints.on_port(service, port));
        let candidates = Rc::new(Candidates::compile(service, port, on_port, client));
        if compiled.len() >= COMPILED_MAX {
            // Cheaper to compile a few again than to keep an order of use on every connection.
            compiled.clear();
        }
        let fresh = Compiled {
            service: Arc::clone(service),
            endpoints: endpoints.cloned(),
            client: Arc::clone(client),
            candidates: Rc::clone(&candidates),
        };
        compiled.insert(key, fresh);
        candidates
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut in_flight = self.endpoints.in_flight.borrow_mut();
        if let Some(count) = in_flight.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                in_flight.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use weft_config::{Snapshot, SnapshotBuilder};
    use weft_types::WorkloadUid;

    use super::{Client, Endpoints, Picked, SharedAffinity};
    use crate::testing::{behind, ip, service, service_name, workload};

    /// The client `10.0.0.1` and that many servers of a service that keeps its clients.
    fn mesh(servers: u8, sticky: bool) -> Snapshot {
        let mut config = SnapshotBuilder::new();
        let mut web = service("web", "10.96.0.10");
        web.load_balancing.client_ip_affinity_secs = if sticky { 3600 } else { 0 };
        config.put_service(web);
        config.put_workload(workload("client", "10.0.0.1"));
        for number in 0..servers {
            let server = workload(&format!("s{number}"), &format!("10.0.1.{number}"));
            config.put_workload(behind(server, "web", 80, 8080));
        }
        config.build()
    }

    fn pick(worker: &Endpoints, snapshot: &Snapshot, address: IpAddr) -> WorkloadUid {
        let web = snapshot.service(&service_name("web")).unwrap();
        let uid = WorkloadUid::of_pod("Kubernetes", "default", "client");
        let workload = snapshot.workload(&uid).unwrap();
        let client = Client { workload, address };
        match worker.pick(snapshot, (web, 80), &client, &[]) {
            Ok(Picked::Endpoint(endpoint)) => endpoint.workload.uid.clone(),
            _ => panic!("there are endpoints"),
        }
    }

    #[test]
    fn a_client_keeps_its_endpoint_whichever_worker_it_meets() {
        let shared = SharedAffinity::default();
        let one = Endpoints::new(Arc::clone(&shared));
        let other = Endpoints::new(shared);
        let alone = Endpoints::new(SharedAffinity::default());
        let clients = (0..50).map(|number| ip(&format!("10.0.2.{number}")));
        let (few, many) = (mesh(2, true), mesh(40, true));
        let mut moved_without_a_shared_table = 0;
        for client in clients {
            let first = pick(&one, &few, client);
            assert_eq!(pick(&other, &many, client), first);
            moved_without_a_shared_table += u8::from(pick(&alone, &many, client) != first);
        }
        assert!(
            moved_without_a_shared_table > 25,
            "the hash alone moves clients when endpoints join"
        );
    }

    #[test]
    fn a_service_without_affinity_never_waits_for_the_table() {
        let shared = SharedAffinity::default();
        let worker = Endpoints::new(Arc::clone(&shared));
        let held = shared.lock().unwrap();
        pick(&worker, &mesh(2, false), ip("10.0.0.1"));
        drop(held);
    }
}
