//! What one worker remembers for choosing endpoints: compiled candidates, load, failures, session affinity.
//!
//! In: a service port as one client sees it, the outcome of connects. Out: endpoints. The choice itself is pure
//! (`weft-balance`). Belongs to one thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;
use weft_balance::{Affinity, Ask, Candidates, Choice, Endpoint, EndpointId, NoEndpoint, SetAside};
use weft_config::{ServiceEndpoints, Snapshot};
use weft_types::{Service, ServiceName, Workload, WorkloadUid};

/// Compiled service ports kept: 200 pods of one node times 50 services each; about 1 KB apart from the endpoints.
const COMPILED_MAX: usize = 10_000;

/// The memory of one worker.
#[derive(Default)]
pub(crate) struct Endpoints {
    compiled: RefCell<HashMap<PortKey, Compiled>>,
    in_flight: RefCell<HashMap<EndpointId, u32>>,
    set_aside: RefCell<SetAside>,
    affinity: RefCell<Affinity>,
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
        let ask = Ask {
            client: client.address,
            now: Instant::now().into_std(),
            tried,
            in_flight: |endpoint: &Endpoint| in_flight.get(&endpoint.id()).copied().unwrap_or(0),
            set_aside: &self.set_aside.borrow(),
            affinity: Some(&mut *self.affinity.borrow_mut()),
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
