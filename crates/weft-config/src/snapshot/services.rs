//! Services by name, hostname and virtual address, and the workloads behind each.

use std::cmp::{Ordering, Reverse};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;
use weft_types::{Service, ServiceName, Workload, WorkloadUid};

use super::claims::{ClaimMap, Claimant};

/// Services and their endpoints; either may be known before the other.
#[derive(Clone, Debug, Default)]
pub(super) struct ServiceIndex {
    by_name: OrdMap<ServiceName, Arc<Service>>,
    by_hostname: ClaimMap<Arc<str>, Service>,
    networks: OrdMap<Arc<str>, Network>,
    endpoints: OrdMap<ServiceName, Arc<ServiceEndpoints>>,
}

/// Virtual addresses of one network.
#[derive(Clone, Debug, Default)]
struct Network {
    exact: ClaimMap<IpAddr, Service>,
    /// By prefix length, the longest first: a lookup asks once for each length in use.
    ranges: OrdMap<Reverse<u8>, ClaimMap<IpNet, Service>>,
}

impl Claimant for Service {
    fn is(&self, other: &Self) -> bool {
        self.name == other.name
    }

    fn order(&self, other: &Self) -> Ordering {
        self.name.cmp(&other.name)
    }
}

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
        self.by_hostname.best(hostname)
    }

    pub(super) fn by_address(&self, network: &str, address: IpAddr) -> Option<&Arc<Service>> {
        let network = self.networks.get(network)?;
        network.exact.best(&address).or_else(|| {
            network.ranges.iter().find_map(|(Reverse(length), nets)| {
                let around = IpNet::new(address, *length).ok()?.trunc();
                nets.best(&around)
            })
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
            .add(service.name.hostname.clone(), service.clone());
        for address in &service.addresses {
            let network = self.networks.entry(address.network.clone()).or_default();
            network
                .exact
                .add(address.address.to_canonical(), service.clone());
        }
        for range in &service.address_ranges {
            let network = self.networks.entry(range.network.clone()).or_default();
            let nets = network.ranges.entry(Reverse(range.range.prefix_len()));
            nets.or_default().add(range.range.trunc(), service.clone());
        }
        self.by_name.insert(service.name.clone(), service);
    }

    pub(super) fn remove(&mut self, name: &ServiceName) -> bool {
        let Some(gone) = self.by_name.remove(name) else {
            return false;
        };
        self.by_hostname.release(&name.hostname, &gone);
        for address in &gone.addresses {
            if let Some(network) = self.networks.get_mut(&address.network) {
                network
                    .exact
                    .release(&address.address.to_canonical(), &gone);
            }
        }
        for range in &gone.address_ranges {
            let length = Reverse(range.range.prefix_len());
            let Some(network) = self.networks.get_mut(&range.network) else {
                continue;
            };
            if let Some(nets) = network.ranges.get_mut(&length) {
                nets.release(&range.range.trunc(), &gone);
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
