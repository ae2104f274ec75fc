//! Which workload backs which service, on which ports.
//!
//! Explicit EndpointSlices of a service win; without any they are derived from its selector, as Kubernetes' controller would.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ServiceSpec;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use weft_k8s_api::{Kind, ObjectKey, labels};
use weft_types::{
    Health, NetworkMode, PortMapping, ResourceName, Service, ServiceName, TunnelProtocol, Workload,
    WorkloadKind,
};

use super::Context;
use super::by_label::ByLabel;
use super::finding::{Findings, Note, Reason};
use super::member::Member;
use super::service::{Target, service_name, tcp_ports};

/// Services of a workload, with ports.
type Backed = BTreeMap<ServiceName, Vec<PortMapping>>;

/// Fills in `Workload.services`, and adds a workload for each endpoint that no other object describes.
pub(super) fn attach(
    context: &Context<'_>,
    published: &[Service],
    by_label: &ByLabel,
    members: &mut Vec<Member>,
    findings: &mut Findings,
) {
    let mut slices: BTreeMap<ResourceName, Vec<(&ResourceName, &EndpointSlice)>> = BTreeMap::new();
    for (name, slice) in &context.index.slices {
        let service = slice.metadata.labels.as_ref();
        let service = service.and_then(|labels| labels.get(labels::SERVICE_NAME));
        let service = service.expect("parsing checks the label").as_str();
        let service = ResourceName::new(Arc::clone(&name.namespace), service);
        if !context.index.services.contains_key(&service) {
            orphan(name, &service, findings);
        }
        slices.entry(service).or_default().push((name, slice));
    }
    let mut join = Join::new(members);
    for (name, service) in &context.index.services {
        let Some(spec) = &service.spec else { continue };
        let mesh_name = service_name(name);
        // In the order of the index as well, but without those that were refused.
        if published
            .binary_search_by(|service| service.name.cmp(&mesh_name))
            .is_err()
        {
            continue;
        }
        match slices.get(name) {
            Some(slices) => {
                for (slice_name, slice) in slices {
                    join.slice(context, &mesh_name, spec, slice_name, slice);
                }
            }
            None => join.selected(by_label, &mesh_name, spec),
        }
    }
    join.finish();
}

fn orphan(slice: &ResourceName, service: &ResourceName, findings: &mut Findings) {
    let key = ObjectKey::new(
        Kind::EndpointSlice,
        slice.namespace.as_ref(),
        slice.name.as_ref(),
    );
    findings.add(
        &key,
        Note {
            field: "metadata.labels[\"kubernetes.io/service-name\"]",
            reason: Reason::ReferenceMissing,
            message: format!("service {service} does not exist"),
            effect: "this slice is not used",
        },
    );
}

struct Join<'a> {
    members: &'a mut Vec<Member>,
    /// Beside `members`, by position.
    backed: Vec<Backed>,
    by_address: HashMap<IpAddr, usize>,
    by_key: HashMap<ObjectKey, usize>,
}

impl<'a> Join<'a> {
    fn new(members: &'a mut Vec<Member>) -> Self {
        let mut by_address = HashMap::new();
        let mut by_key = HashMap::new();
        for (index, member) in members.iter().enumerate() {
            by_key.insert(member.key.clone(), index);
            // A node's address names no workload.
            if member.workload.network_mode == NetworkMode::Standard {
                let addresses = member.workload.addresses.iter();
                by_address.extend(addresses.map(|address| (*address, index)));
            }
        }
        Self {
            backed: vec![Backed::new(); members.len()],
            members,
            by_address,
            by_key,
        }
    }

    fn selected(&mut self, by_label: &ByLabel, name: &ServiceName, spec: &ServiceSpec) {
        let Some(selector) = spec.selector.as_ref().filter(|labels| !labels.is_empty()) else {
            return;
        };
        for index in by_label.candidates(selector).iter().copied() {
            let member = &self.members[index];
            let here = member.workload.namespace == name.namespace;
            if !here || !selects(selector, &member.labels) {
                continue;
            }
            let ports = mappings(member, spec);
            if !ports.is_empty() {
                self.backed[index].insert(name.clone(), ports);
            }
        }
    }

    fn slice(
        &mut self,
        context: &Context<'_>,
        name: &ServiceName,
        spec: &ServiceSpec,
        slice_name: &ResourceName,
        slice: &EndpointSlice,
    ) {
        let ports = slice_ports(spec, slice);
        if ports.is_empty() {
            return;
        }
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.as_ref();
            let ready = conditions.is_none_or(|conditions| conditions.ready != Some(false));
            if !ready && spec.publish_not_ready_addresses != Some(true) {
                continue;
            }
            for address in &endpoint.addresses {
                let address: IpAddr = address.parse().expect("parsing checks addresses");
                let address = address.to_canonical();
                let index = self
                    .target(&slice_name.namespace, endpoint)
                    .or_else(|| self.by_address.get(&address).copied())
                    .unwrap_or_else(|| self.stranger(context, slice_name, address, ready));
                let list = self.backed[index].entry(name.clone()).or_default();
                list.extend(ports.iter().copied());
                list.sort_by_key(|port| (port.service_port, port.target_port));
                list.dedup();
            }
        }
    }

    fn target(&self, namespace: &str, endpoint: &Endpoint) -> Option<usize> {
        let target = endpoint.target_ref.as_ref()?;
        if target.kind.as_deref() != Some("Pod") {
            return None;
        }
        let key = ObjectKey::new(Kind::Pod, namespace, target.name.as_deref()?);
        self.by_key.get(&key).copied()
    }

    /// A workload that only a slice knows: an address, no identity, no tunnel.
    fn stranger(
        &mut self,
        context: &Context<'_>,
        slice: &ResourceName,
        address: IpAddr,
        ready: bool,
    ) -> usize {
        let index = self.members.len();
        self.members.push(stranger(context, slice, address, ready));
        self.backed.push(Backed::new());
        self.by_address.insert(address, index);
        index
    }

    /// Replicas back the same services: they share one map.
    fn finish(self) {
        let mut shared: HashMap<Backed, Arc<Backed>> = HashMap::new();
        for (member, backed) in self.members.iter_mut().zip(self.backed) {
            let services = shared.get(&backed).cloned().unwrap_or_else(|| {
                let services = Arc::new(backed.clone());
                shared.insert(backed, Arc::clone(&services));
                services
            });
            member.workload.services = services;
        }
    }
}

/// Whether all labels of a selector are there.
pub(super) fn selects(
    selector: &BTreeMap<String, String>,
    labels: &BTreeMap<String, String>,
) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

fn mappings(member: &Member, spec: &ServiceSpec) -> Vec<PortMapping> {
    let ports = tcp_ports(spec).filter_map(|(service_port, target)| {
        let target_port = match target {
            Target::Number(number) => number,
            Target::Name(name) => *member.ports.get(name)?,
        };
        Some(PortMapping {
            service_port,
            target_port,
        })
    });
    ports.collect()
}

/// Ports of a slice belong to those of its service by name.
fn slice_ports(spec: &ServiceSpec, slice: &EndpointSlice) -> Vec<PortMapping> {
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

fn stranger(context: &Context<'_>, slice: &ResourceName, address: IpAddr, ready: bool) -> Member {
    let cluster = &context.mesh.node.cluster;
    let uid = format!("{cluster}/discovery.k8s.io/EndpointSlice/{slice}/{address}");
    let workload = Workload {
        uid: uid.into(),
        name: Arc::clone(&slice.name),
        namespace: Arc::clone(&slice.namespace),
        addresses: vec![address],
        hostname: "".into(),
        network: "".into(),
        tunnel: TunnelProtocol::None,
        trust_domain: context.mesh.node.trust_domain.clone(),
        service_account: "default".into(),
        waypoint: None,
        node: "".into(),
        canonical_name: Arc::clone(&slice.name),
        canonical_revision: "latest".into(),
        kind: WorkloadKind::Pod,
        workload_name: Arc::clone(&slice.name),
        native_tunnel: false,
        application_tunnel: None,
        authorization_policies: Vec::new(),
        health: if ready {
            Health::Healthy
        } else {
            Health::Unhealthy
        },
        cluster: cluster.as_str().into(),
        network_gateway: None,
        services: Arc::default(),
        locality: weft_types::Locality::default(),
        network_mode: NetworkMode::Standard,
        capacity: 1,
    };
    Member {
        key: ObjectKey::new(
            Kind::EndpointSlice,
            slice.namespace.as_ref(),
            slice.name.as_ref(),
        ),
        workload,
        labels: BTreeMap::new(),
        ports: BTreeMap::new(),
        terminating: false,
        created: 0,
    }
}
