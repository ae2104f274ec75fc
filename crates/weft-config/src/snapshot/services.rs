//! Services by name, hostname and virtual address, and the workloads behind each.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{HashMap, OrdMap};
use ipnet::IpNet;
use weft_types::{Service, ServiceName, Workload, WorkloadUid};

/// Services and their endpoints; either may be known before the other.
#[derive(Clone, Debug, Default)]
pub(super) struct ServiceIndex {
    by_name: HashMap<ServiceName, Arc<Service>>,
    by_hostname: HashMap<Arc<str>, Claims>,
    networks: HashMap<Arc<str>, Network>,
    endpoints: HashMap<ServiceName, Arc<ServiceEndpoints>>,
}

/// Virtual addresses of one network.
#[derive(Clone, Debug, Default)]
struct Network {
    exact: HashMap<IpAddr, Claims>,
    /// By prefix length, the longest first: a lookup asks once for each length in use.
    ranges: OrdMap<Reverse<u8>, HashMap<IpNet, Claims>>,
}

/// Who claims an address, the alphabetically first in front.
type Claims = OrdMap<ServiceName, Arc<Service>>;

/// The workloads behind one service.
#[derive(Clone, Debug, Default)]
pub struct ServiceEndpoints {
    workloads: OrdMap<WorkloadUid, Arc<Workload>>,
}

impl ServiceEndpoints {
    /// How many there are, ready or not.
    pub fn len(&self) -> usize {
        self.workloads.len()
    }

    /// Whether there is none. A service without workloads has no entry at all, so this is never true in a snapshot.
    pub fn is_empty(&self) -> bool {
        self.workloads.is_empty()
    }

    /// Every workload behind the service, by uid.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// The workloads that serve one port of the service, each with the port that it listens on.
    ///
    /// Health and locality are not looked at: that choice belongs to `weft-balance`.
    pub fn on_port(
        &self,
        service: &Service,
        service_port: u16,
    ) -> impl Iterator<Item = (&Arc<Workload>, u16)> {
        let of_service = service
            .ports
            .iter()
            .find(|port| port.service_port == service_port)
            .map(|port| port.target_port);
        self.workloads.values().filter_map(move |workload| {
            let own = workload.services.get(&service.name)?;
            let mapping = own.iter().find(|port| port.service_port == service_port)?;
            // The workload's own word wins (named ports differ between workloads), then the service's, then the port itself.
            let target = [Some(mapping.target_port), of_service, Some(service_port)]
                .into_iter()
                .flatten()
                .find(|port| *port != 0)?;
            Some((workload, target))
        })
    }
}

impl ServiceIndex {
    pub(super) fn by_name(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.by_name.get(name)
    }

    pub(super) fn by_hostname(&self, hostname: &str) -> Option<&Arc<Service>> {
        first(self.by_hostname.get(hostname)?)
    }

    pub(super) fn by_address(&self, network: &str, address: IpAddr) -> Option<&Arc<Service>> {
        let network = self.networks.get(network)?;
        if let Some(claims) = network.exact.get(&address) {
            return first(claims);
        }
        network.ranges.iter().find_map(|(Reverse(length), nets)| {
            let around = IpNet::new(address, *length).ok()?.trunc();
            first(nets.get(&around)?)
        })
    }

    pub(super) fn all(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.by_name.values()
    }

    pub(super) fn endpoints(&self, name: &ServiceName) -> Option<&Arc<ServiceEndpoints>> {
        self.endpoints.get(name)
    }

    pub(super) fn put(&mut self, service: Arc<Service>) {
        self.remove(&service.name);
        self.by_hostname
            .entry(service.name.hostname.clone())
            .or_default()
            .insert(service.name.clone(), service.clone());
        for address in &service.addresses {
            let network = self.networks.entry(address.network.clone()).or_default();
            network
                .exact
                .entry(address.address.to_canonical())
                .or_default()
                .insert(service.name.clone(), service.clone());
        }
        for range in &service.address_ranges {
            let network = self.networks.entry(range.network.clone()).or_default();
            let nets = network.ranges.entry(Reverse(range.range.prefix_len()));
            nets.or_default()
                .entry(range.range.trunc())
                .or_default()
                .insert(service.name.clone(), service.clone());
        }
        self.by_name.insert(service.name.clone(), service);
    }

    pub(super) fn remove(&mut self, name: &ServiceName) -> bool {
        let Some(gone) = self.by_name.remove(name) else {
            return false;
        };
        release(&mut self.by_hostname, &name.hostname, name);
        for address in &gone.addresses {
            if let Some(network) = self.networks.get_mut(&address.network) {
                release(&mut network.exact, &address.address.to_canonical(), name);
            }
        }
        for range in &gone.address_ranges {
            let length = Reverse(range.range.prefix_len());
            let Some(network) = self.networks.get_mut(&range.network) else {
                continue;
            };
            if let Some(nets) = network.ranges.get_mut(&length) {
                release(nets, &range.range.trunc(), name);
                if nets.is_empty() {
                    network.ranges.remove(&length);
                }
            }
        }
        true
    }

    /// Puts a workload behind the services that it names, in place of its former self.
    pub(super) fn put_endpoint(&mut self, before: Option<&Workload>, workload: &Arc<Workload>) {
        if let Some(before) = before {
            for name in before.services.keys() {
                if !workload.services.contains_key(name) {
                    self.drop_endpoint(name, &before.uid);
                }
            }
        }
        for name in workload.services.keys() {
            let endpoints = self.endpoints.entry(name.clone()).or_default();
            // A new pointer for each change, because readers tell a change by pointer.
            *endpoints = Arc::new(ServiceEndpoints {
                workloads: endpoints
                    .workloads
                    .update(workload.uid.clone(), workload.clone()),
            });
        }
    }

    /// Takes a workload that is gone from behind its services.
    pub(super) fn remove_endpoint(&mut self, gone: &Workload) {
        for name in gone.services.keys() {
            self.drop_endpoint(name, &gone.uid);
        }
    }

    fn drop_endpoint(&mut self, name: &ServiceName, uid: &WorkloadUid) {
        let Some(endpoints) = self.endpoints.get_mut(name) else {
            return;
        };
        let workloads = endpoints.workloads.without(uid);
        if workloads.is_empty() {
            self.endpoints.remove(name);
        } else {
            *endpoints = Arc::new(ServiceEndpoints { workloads });
        }
    }
}

fn first(claims: &Claims) -> Option<&Arc<Service>> {
    claims.get_min().map(|(_, service)| service)
}

fn release<K>(index: &mut HashMap<K, Claims>, key: &K, name: &ServiceName)
where
    K: Clone + Eq + std::hash::Hash,
{
    if let Some(claims) = index.get_mut(key) {
        claims.remove(name);
        if claims.is_empty() {
            index.remove(key);
        }
    }
}
