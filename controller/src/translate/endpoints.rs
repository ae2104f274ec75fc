//! Which workload backs which service, on which ports.
//!
//! Explicit EndpointSlices of a service win; without any they are derived from its selector, as Kubernetes' controller would.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ServiceSpec;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use weft_k8s_api::labels::SERVICE_NAME;
use weft_k8s_api::{Kind, Object, ObjectKey};
use weft_types::{PortMapping, ResourceName};

use super::Context;
use super::address::Addresses;
use super::finding::{Findings, Ledger, Note, Reason, Step};
use super::member::Source;
use super::members::{MemberKey, Members, Slot, forget};
use super::selectors::{Selector, Selectors};
use super::service::{Target, object_name, service_name, tcp_ports};
use super::vip::VirtualAddresses;
use crate::index::Changes;

/// Who backs what.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    /// Selectors of published services without slices.
    selectors: Selectors,
    /// Members by the services that they back.
    backing: HashMap<ResourceName, BTreeSet<Slot>>,
    slices: Slices,
    /// What slices say about addresses that nobody else has: readiness by service and slice; the first makes the stranger.
    strangers: BTreeMap<IpAddr, BTreeMap<(ResourceName, ResourceName), bool>>,
}

/// Slices, and what they mention.
#[derive(Debug, Default)]
struct Slices {
    of_service: HashMap<ResourceName, BTreeSet<ResourceName>>,
    by_address: HashMap<IpAddr, BTreeSet<ResourceName>>,
    by_pod: HashMap<ResourceName, BTreeSet<ResourceName>>,
    /// What is listed above for a service, to take it out again.
    mentions: HashMap<ResourceName, (BTreeSet<IpAddr>, BTreeSet<ResourceName>)>,
}

/// Who backs a service now.
type Backing = BTreeMap<Slot, Vec<PortMapping>>;

impl Endpoints {
    /// Takes in slices that changed; returns their services.
    pub(super) fn slices(
        &mut self,
        context: &Context<'_>,
        changes: &Changes,
        ledger: &mut Ledger,
    ) -> BTreeSet<ResourceName> {
        let mut services = BTreeSet::new();
        for (key, before) in changes
            .iter()
            .filter(|(key, _)| key.kind == Kind::EndpointSlice)
        {
            let name = ResourceName::new(key.namespace.as_str(), key.name.as_str());
            if let Some(Object::EndpointSlice(before)) = before {
                let service = service_of(&name, before);
                forget(&mut self.slices.of_service, &service, &name);
                services.insert(service);
            }
            match context.index.slices.get(&name) {
                Some(slice) => {
                    let service = service_of(&name, slice);
                    let slices = self.slices.of_service.entry(service.clone()).or_default();
                    slices.insert(name);
                    services.insert(service);
                }
                None => ledger.set(key, Step::Object, Vec::new()),
            }
        }
        services
    }

    /// Services whose slices mention one of these addresses or pods.
    pub(super) fn mentioning(
        &self,
        addresses: &BTreeSet<IpAddr>,
        pods: &[ResourceName],
    ) -> BTreeSet<ResourceName> {
        let by_address = addresses
            .iter()
            .filter_map(|address| self.slices.by_address.get(address));
        let by_pod = pods.iter().filter_map(|pod| self.slices.by_pod.get(pod));
        by_address.chain(by_pod).flatten().cloned().collect()
    }

    /// Finds out anew who backs a service.
    pub(super) fn service(
        &mut self,
        context: &Context<'_>,
        name: &ResourceName,
        is_published: bool,
        stage: &mut Stage<'_>,
    ) {
        for address in self.slices.forget_mentions(name) {
            if let Some(claims) = self.strangers.get_mut(&address) {
                claims.retain(|(service, _), _| service != name);
            }
        }
        let slices = self.slices.of_service.get(name).cloned();
        self.tell(context, name, slices.iter().flatten(), stage);
        let service = context.index.services.get(name).filter(|_| is_published);
        let spec = service.and_then(|service| service.spec.as_ref());
        let derived = spec.filter(|_| slices.is_none()).and_then(|spec| {
            let labels = spec.selector.clone().filter(|labels| !labels.is_empty())?;
            let namespace = Some(Arc::clone(&name.namespace));
            Some((spec, Selector { namespace, labels }))
        });
        let selector = derived.as_ref().map(|(_, selector)| selector.clone());
        self.selectors.set(name, selector);
        let backing = match (spec, slices, derived) {
            (_, _, Some((spec, selector))) => {
                let slots = stage
                    .members
                    .selected(selector.namespace.as_deref(), &selector.labels);
                let ports = slots.into_iter().map(|slot| {
                    let source = &stage.members.get(slot).source;
                    (slot, mappings(source, spec))
                });
                ports.filter(|(_, ports)| !ports.is_empty()).collect()
            }
            (Some(spec), Some(slices), None) => self.listed(context, name, spec, &slices, stage),
            _ => Backing::new(),
        };
        self.replace(name, backing, stage.members);
    }

    fn replace(&mut self, name: &ResourceName, backing: Backing, members: &mut Members) {
        let mesh_name = service_name(name);
        let slots: BTreeSet<Slot> = backing.keys().copied().collect();
        let before = self.backing.remove(name).unwrap_or_default();
        for gone in before.difference(&slots) {
            members.back(*gone, &mesh_name, None);
        }
        for (slot, ports) in backing {
            members.back(slot, &mesh_name, Some(ports));
        }
        if !slots.is_empty() {
            self.backing.insert(name.clone(), slots);
        }
    }

    /// Finds out anew which services with a selector a member backs.
    pub(super) fn member(&mut self, context: &Context<'_>, slot: Slot, members: &mut Members) {
        let record = members.get(slot);
        let selecting = {
            let labels = record.source.labels();
            self.selectors.selecting(&record.namespace(), &labels)
        };
        let mut stays = BTreeMap::new();
        for name in selecting {
            let service = context.index.services.get(&name);
            let spec = service.and_then(|service| service.spec.as_ref());
            let ports = spec.map(|spec| mappings(&record.source, spec));
            if let Some(ports) = ports.filter(|ports| !ports.is_empty()) {
                stays.insert(name, ports);
            }
        }
        let before = record.services.keys().map(object_name);
        let gone = before.filter(|name| self.selectors.contains(name) && !stays.contains_key(name));
        for name in gone.collect::<Vec<_>>() {
            forget(&mut self.backing, &name, &slot);
            members.back(slot, &service_name(&name), None);
        }
        for (name, ports) in stays {
            members.back(slot, &service_name(&name), Some(ports));
            self.backing.entry(name).or_default().insert(slot);
        }
    }

    /// Forgets a member that is gone.
    pub(super) fn leave(&mut self, slot: Slot, services: impl Iterator<Item = ResourceName>) {
        for name in services {
            forget(&mut self.backing, &name, &slot);
        }
    }

    /// Makes each stranger what the first slice that needs it says; returns those that no slice needs any more.
    pub(super) fn strangers(&mut self, members: &mut Members) -> Vec<Slot> {
        let mut gone = Vec::new();
        self.strangers.retain(|address, claims| {
            let key = MemberKey::Stranger(*address);
            let slot = members.slot(&key);
            let Some(((_, name), ready)) = claims.first_key_value() else {
                gone.extend(slot);
                return false;
            };
            let same = slot.is_some_and(|slot| {
                matches!(&members.get(slot).source, Source::Slice { name: n, ready: r } if n == name && r == ready)
            });
            if !same {
                let source = Source::Slice { name: name.clone(), ready: *ready };
                members.put(key, source);
            }
            true
        });
        gone
    }

    /// Who backs a service according to its slices.
    fn listed(
        &mut self,
        context: &Context<'_>,
        name: &ResourceName,
        spec: &ServiceSpec,
        slices: &BTreeSet<ResourceName>,
        stage: &mut Stage<'_>,
    ) -> Backing {
        let mut backing = Backing::new();
        for slice_name in slices {
            let slice = &context.index.slices[slice_name];
            let ports = slice_ports(spec, slice);
            if ports.is_empty() {
                continue;
            }
            for endpoint in &slice.endpoints {
                let conditions = endpoint.conditions.as_ref();
                let ready = conditions.is_none_or(|conditions| conditions.ready != Some(false));
                let pod = target(&slice_name.namespace, endpoint);
                if !ready && spec.publish_not_ready_addresses != Some(true) {
                    continue;
                }
                let pod = pod.and_then(|pod| stage.members.slot(&MemberKey::Pod(pod)));
                for address in addresses(endpoint) {
                    let slot = pod.or_else(|| stage.addresses.holder(address));
                    if slot.is_none() && stage.given.owner(address).is_some() {
                        continue;
                    }
                    let slot = slot.unwrap_or_else(|| {
                        let claims = self.strangers.entry(address).or_default();
                        let claim = (name.clone(), slice_name.clone());
                        let ready = *claims.entry(claim).or_insert(ready);
                        stage.stranger(address, slice_name, ready)
                    });
                    let list = backing.entry(slot).or_default();
                    list.extend(ports.iter().copied());
                    list.sort_by_key(|port| (port.service_port, port.target_port));
                    list.dedup();
                }
            }
        }
        backing
    }

    /// Notes what slices mention; says of which nothing can be used, and which addresses of others cannot be an endpoint.
    fn tell<'a>(
        &mut self,
        context: &Context<'_>,
        service: &ResourceName,
        slices: impl Iterator<Item = &'a ResourceName>,
        stage: &mut Stage<'_>,
    ) {
        for slice in slices {
            let mut findings = Findings::default();
            let (namespace, name) = (slice.namespace.as_ref(), slice.name.as_ref());
            let key = ObjectKey::new(Kind::EndpointSlice, namespace, name);
            if !context.index.services.contains_key(service) {
                orphan(&key, service, &mut findings);
            }
            for endpoint in &context.index.slices[slice].endpoints {
                let pod = target(&slice.namespace, endpoint);
                self.slices.mention(service, endpoint, pod.as_ref());
                let pod = pod.and_then(|pod| stage.members.slot(&MemberKey::Pod(pod)));
                for address in addresses(endpoint).filter(|_| pod.is_none()) {
                    if let Some(owner) = stage.given.owner(address) {
                        no_endpoint(&key, address, owner, &mut findings);
                    }
                }
            }
            stage.ledger.set(&key, Step::Object, findings.take(&key));
        }
    }
}

/// What this step works on.
pub(super) struct Stage<'a> {
    pub(super) members: &'a mut Members,
    pub(super) addresses: &'a Addresses,
    pub(super) given: &'a VirtualAddresses,
    pub(super) ledger: &'a mut Ledger,
}

impl Stage<'_> {
    fn stranger(&mut self, address: IpAddr, slice: &ResourceName, ready: bool) -> Slot {
        let key = MemberKey::Stranger(address);
        let made = || Source::Slice {
            name: slice.clone(),
            ready,
        };
        match self.members.slot(&key) {
            Some(slot) => slot,
            None => self.members.put(key, made()).0,
        }
    }
}

impl Slices {
    fn mention(&mut self, service: &ResourceName, endpoint: &Endpoint, pod: Option<&ResourceName>) {
        let mentions = self.mentions.entry(service.clone()).or_default();
        for address in addresses(endpoint) {
            mentions.0.insert(address);
            self.by_address
                .entry(address)
                .or_default()
                .insert(service.clone());
        }
        if let Some(pod) = pod {
            mentions.1.insert(pod.clone());
            self.by_pod
                .entry(pod.clone())
                .or_default()
                .insert(service.clone());
        }
    }

    /// Returns the addresses that were mentioned.
    fn forget_mentions(&mut self, service: &ResourceName) -> BTreeSet<IpAddr> {
        let (addresses, pods) = self.mentions.remove(service).unwrap_or_default();
        for address in &addresses {
            forget(&mut self.by_address, address, service);
        }
        for pod in pods {
            forget(&mut self.by_pod, &pod, service);
        }
        addresses
    }
}

pub(super) fn service_of(slice: &ResourceName, object: &EndpointSlice) -> ResourceName {
    let labels = object.metadata.labels.as_ref();
    let service = labels.and_then(|labels| labels.get(SERVICE_NAME));
    let service = service.expect("parsing checks the label").as_str();
    ResourceName::new(Arc::clone(&slice.namespace), service)
}

pub(super) fn orphan(key: &ObjectKey, service: &ResourceName, findings: &mut Findings) {
    findings.add(
        key,
        Note {
            field: "metadata.labels[\"kubernetes.io/service-name\"]",
            reason: Reason::ReferenceMissing,
            message: format!("service {service} does not exist"),
            effect: "this slice is not used",
        },
    );
}

/// Kubernetes knows no such endpoint either: what is dialled there would be a service's again.
pub(super) fn no_endpoint(
    key: &ObjectKey,
    address: IpAddr,
    owner: &ResourceName,
    findings: &mut Findings,
) {
    findings.add(
        key,
        Note {
            field: "endpoints",
            reason: Reason::Conflicted,
            message: format!("address {address} belongs to Service {owner}; name pods instead"),
            effect: "this address is no endpoint",
        },
    );
}

/// The pod that an endpoint names.
pub(super) fn target(namespace: &Arc<str>, endpoint: &Endpoint) -> Option<ResourceName> {
    let target = endpoint.target_ref.as_ref()?;
    if target.kind.as_deref() != Some("Pod") {
        return None;
    }
    Some(ResourceName::new(
        Arc::clone(namespace),
        target.name.as_deref()?,
    ))
}

pub(super) fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> {
    endpoint.addresses.iter().map(|address| {
        let address: IpAddr = address.parse().expect("parsing checks addresses");
        address.to_canonical()
    })
}

pub(super) fn mappings(source: &Source, spec: &ServiceSpec) -> Vec<PortMapping> {
    let ports = tcp_ports(spec).filter_map(|(service_port, target)| {
        let target_port = match target {
            Target::Number(number) => number,
            Target::Name(name) => source.port(name)?,
        };
        Some(PortMapping {
            service_port,
            target_port,
        })
    });
    ports.collect()
}

/// Ports of a slice belong to those of its service by name.
pub(super) fn slice_ports(spec: &ServiceSpec, slice: &EndpointSlice) -> Vec<PortMapping> {
    let mut ports = Vec::new();
    for port in spec.ports.iter().flatten() {
        let tcp = |protocol: Option<&str>| protocol.unwrap_or("TCP") == "TCP";
        let name = port.name.as_deref().unwrap_or_default();
        let mut listed = slice.ports.iter().flatten();
        let endpoint = listed.find(|listed| {
            listed.name.as_deref().unwrap_or_default() == name && tcp(listed.protocol.as_deref())
        });
        let number = |number: i32| u16::try_from(number).expect("parsing checks ports");
        if let Some(target) = endpoint.and_then(|endpoint| endpoint.port)
            && tcp(port.protocol.as_deref())
        {
            ports.push(PortMapping {
                service_port: number(port.port),
                target_port: number(target),
            });
        }
    }
    ports
}
