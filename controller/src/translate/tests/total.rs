//! The same translation, everything anew each time and one thing after the other: slow, and simple enough to be believed.
//!
//! It shares with the real one what is said about a single object; how objects come together is written a second time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use weft_k8s_api::{Kind, ObjectKey};
use weft_types::{PolicyName, ResourceName, Service, ServiceName, Workload};

use crate::index::Index;
use crate::translate::finding::{Finding, Findings, PolicyStatus};
use crate::translate::member::{Claim, Source, created};
use crate::translate::members::{Backed, Holder, MemberKey};
use crate::translate::peer::Levels;
use crate::translate::{
    Context, Enrollments, Identities, Translation, TrustDomain, VirtualAddresses, address,
    authorization, endpoints, enroll, peer, service, settings,
};

/// What outlives one translation.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) virtual_addresses: VirtualAddresses,
    holders: BTreeMap<(String, IpAddr), MemberKey>,
    trust_domain: Option<TrustDomain>,
}

struct Member {
    key: MemberKey,
    source: Source,
    claim: Claim,
    workload: Workload,
    backed: Backed,
}

/// Translates everything.
pub(super) fn translate(index: &Index, own: &BTreeSet<IpAddr>, memory: &mut Memory) -> Translation {
    let mut findings = Findings::default();
    let mesh = settings::mesh(index, &mut memory.trust_domain, &mut findings);
    let context = Context {
        index,
        mesh: &mesh,
        own,
    };
    let mut members = members(&context, &mut findings);
    let hosts = hosts(index, &members);
    release(&context, &hosts, &mut memory.virtual_addresses);
    settle(&mut members, memory, &mut findings);
    let mut services = services(&context, &hosts, memory, &mut findings);
    let vips = &memory.virtual_addresses;
    attach(&context, vips, &services, &mut members, &mut findings);
    let policies = policies(&context, &mut members, &mut services, &mut findings);
    let (enrollments, identities) = pods(&context);
    let mut said = findings.into_all();
    let statuses = statuses(&context, &mut said);
    Translation {
        settings: mesh.node.clone(),
        workloads: members
            .into_iter()
            .map(|member| (member.workload.uid.clone(), Arc::new(member.workload)))
            .collect(),
        services: services
            .into_iter()
            .map(|(_, service)| (service.name.clone(), Arc::new(service)))
            .collect(),
        policies,
        enrollments,
        identities,
        statuses,
        findings: said
            .into_iter()
            .map(|(key, of)| (key, Arc::new(of)))
            .collect(),
    }
}

fn members(context: &Context<'_>, findings: &mut Findings) -> Vec<Member> {
    let mut members = Vec::new();
    let mut add = |key: MemberKey, source: Source, findings: &mut Findings| {
        let workload = source.workload(context, &key, findings);
        let claim = source.claim();
        members.push(Member {
            key,
            source,
            claim,
            workload,
            backed: Backed::new(),
        });
    };
    for (name, pod) in &context.index.pods {
        match Source::of_pod(pod) {
            Some(source) => add(MemberKey::Pod(name.clone()), source, findings),
            None => crate::translate::member::namespace_must_exist(
                context,
                &key(Kind::Pod, name),
                findings,
            ),
        }
    }
    for (name, entry) in &context.index.entries {
        let source = Source::Entry(Arc::clone(entry));
        add(MemberKey::Entry(name.clone()), source, findings);
    }
    members
}

fn settle(members: &mut [Member], memory: &mut Memory, findings: &mut Findings) {
    let mut claims: BTreeMap<(String, IpAddr), Vec<usize>> = BTreeMap::new();
    for (index, member) in members.iter().enumerate() {
        for address in &member.claim.addresses {
            if !member.claim.host_network {
                let claim = (member.claim.network.clone(), *address);
                claims.entry(claim).or_default().push(index);
            }
        }
    }
    let mut settled = BTreeMap::new();
    for (claim, claimants) in claims {
        let before = memory.holders.get(&claim);
        let rank = |index: &usize| {
            let member = &members[*index];
            let newcomer = before != Some(&member.key);
            let Claim {
                terminating,
                created,
                ..
            } = member.claim;
            (terminating, newcomer, created, member.key.clone())
        };
        let owner = memory.virtual_addresses.owner(claim.1);
        let owner = owner.filter(|_| claim.0.is_empty());
        let mut winner = None;
        let holder = if let Some(service) = owner {
            Holder::Service(service.clone())
        } else {
            let first = claimants.iter().copied().min_by_key(rank).unwrap();
            winner = Some(first);
            Holder::Member(members[first].key.clone())
        };
        for loser in claimants.into_iter().filter(|index| Some(*index) != winner) {
            let loser = &mut members[loser];
            loser.workload.addresses.retain(|own| *own != claim.1);
            let key = loser.key.object().unwrap();
            crate::translate::steps::tell_lost(&key, claim.1, &holder, findings);
        }
        if let Some(winner) = winner {
            settled.insert(claim, members[winner].key.clone());
        }
    }
    memory.holders = settled;
}

/// Addresses of hosts, and the first Node by name of each, or else the first pod on its network.
fn hosts(index: &Index, members: &[Member]) -> BTreeMap<IpAddr, ObjectKey> {
    let mut hosts: BTreeMap<IpAddr, MemberKey> = BTreeMap::new();
    for member in members.iter().filter(|member| member.claim.host_network) {
        for address in &member.claim.addresses {
            let first = hosts.entry(*address).or_insert_with(|| member.key.clone());
            *first = first.clone().min(member.key.clone());
        }
    }
    let mut hosts: BTreeMap<IpAddr, ObjectKey> = hosts
        .into_iter()
        .map(|(address, pod)| (address, pod.object().unwrap()))
        .collect();
    for (name, node) in index.nodes.iter().rev() {
        let key = ObjectKey::new(Kind::Node, "", name);
        let own = address::node_addresses(node).into_iter();
        hosts.extend(own.map(|address| (address, key.clone())));
    }
    hosts
}

/// Services keep what they still want or name, unless a host has it.
fn release(
    context: &Context<'_>,
    hosts: &BTreeMap<IpAddr, ObjectKey>,
    vips: &mut VirtualAddresses,
) {
    let services = &context.index.services;
    let known: BTreeSet<ResourceName> = vips.services().cloned().collect();
    let mut now_named = Vec::new();
    for name in known {
        let object = services.get(&name);
        let blocks = object.map_or_else(Vec::new, |object| service::wanted(context, object));
        let named = object.map_or_else(Vec::new, |object| service::claims(context, object));
        let stays = |address| {
            let is_wanted = blocks.iter().any(|block| block.contains(&address));
            let forbidden = service::forbidden(context, address).is_some();
            is_wanted && !forbidden && !hosts.contains_key(&address)
        };
        let lost = vips.take_back(&name, stays).into_iter();
        let kept = lost.filter(|address| named.contains(address) && !hosts.contains_key(address));
        now_named.extend(kept.map(|address| (address, name.clone())));
    }
    for (address, name) in now_named {
        vips.hold(address, name);
    }
    let held: Vec<(IpAddr, ResourceName)> = vips.held().map(|(a, n)| (*a, n.clone())).collect();
    for (address, name) in held {
        let object = services.get(&name);
        let named = object.map_or_else(Vec::new, |object| service::claims(context, object));
        if hosts.contains_key(&address) || !named.contains(&address) {
            vips.let_go(address);
        }
    }
}

fn services(
    context: &Context<'_>,
    hosts: &BTreeMap<IpAddr, ObjectKey>,
    memory: &mut Memory,
    findings: &mut Findings,
) -> Vec<(ResourceName, Service)> {
    let index = context.index;
    let vips = &mut memory.virtual_addresses;
    let of_workload = |address: IpAddr| {
        let holder = memory.holders.get(&(String::new(), address));
        let holder = holder.map(|holder| holder.object().unwrap());
        holder.or_else(|| hosts.get(&address).cloned())
    };
    let mut oldest: Vec<(i64, &ResourceName)> = index
        .services
        .iter()
        .map(|(name, object)| (created(&object.metadata), name))
        .collect();
    oldest.sort();
    let mut named = BTreeSet::new();
    for (_, name) in oldest {
        for address in service::claims(context, &index.services[name]) {
            named.insert(address);
            if vips.owner(address).is_none() && of_workload(address).is_none() {
                vips.hold(address, name.clone());
            }
        }
    }
    let mut services = Vec::new();
    for name in index.services.keys() {
        let owners = vips.clone();
        let user = |address: IpAddr| match owners.owner(address) {
            Some(owner) if owner == name => None,
            Some(owner) => Some(service::first_has(&format!("Service {owner}"))),
            None if hosts.contains_key(&address) => Some(service::host_has(&hosts[&address])),
            None if service::forbidden(context, address).is_some() => None,
            None => of_workload(address).map(|user| service::first_has(&user)),
        };
        let is_taken = |address| {
            let forbidden = service::forbidden(context, address).is_some();
            forbidden || named.contains(&address) || of_workload(address).is_some()
        };
        let outcome = service::one(context, name, &user, &is_taken, vips, findings);
        services.extend(outcome.service.map(|service| (name.clone(), service)));
    }
    services
}

fn attach(
    context: &Context<'_>,
    vips: &VirtualAddresses,
    services: &[(ResourceName, Service)],
    members: &mut Vec<Member>,
    findings: &mut Findings,
) {
    let mut slices: BTreeMap<ResourceName, Vec<&ResourceName>> = BTreeMap::new();
    for (name, slice) in &context.index.slices {
        let service = endpoints::service_of(name, slice);
        if !context.index.services.contains_key(&service) {
            endpoints::orphan(&key(Kind::EndpointSlice, name), &service, findings);
        }
        slices.entry(service).or_default().push(name);
    }
    tell_endpoints(context, vips, members, findings);
    let mut by_key: HashMap<MemberKey, usize> = HashMap::new();
    let mut by_address: HashMap<IpAddr, usize> = HashMap::new();
    for (index, member) in members.iter().enumerate() {
        by_key.insert(member.key.clone(), index);
        if !member.claim.host_network && member.claim.network.is_empty() {
            let own = member.workload.addresses.iter();
            by_address.extend(own.map(|address| (*address, index)));
        }
    }
    for (name, published) in services {
        let spec = context.index.services[name].spec.as_ref().unwrap();
        let Some(slices) = slices.get(name) else {
            let selector = spec.selector.clone().unwrap_or_default();
            for member in members.iter_mut().filter(|_| !selector.is_empty()) {
                let labels = member.source.labels();
                let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
                let here = member.workload.namespace == name.namespace;
                let ports = endpoints::mappings(&member.source, spec);
                if here && selector.iter().all(has) && !ports.is_empty() {
                    drop(labels);
                    member.backed.insert(published.name.clone(), ports);
                }
            }
            continue;
        };
        for slice_name in slices {
            let slice = &context.index.slices[*slice_name];
            let ports = endpoints::slice_ports(spec, slice);
            for endpoint in slice.endpoints.iter().filter(|_| !ports.is_empty()) {
                let ready = endpoint
                    .conditions
                    .as_ref()
                    .is_none_or(|c| c.ready != Some(false));
                if !ready && spec.publish_not_ready_addresses != Some(true) {
                    continue;
                }
                let pod = endpoints::target(&name.namespace, endpoint);
                let pod = pod.and_then(|pod| by_key.get(&MemberKey::Pod(pod)).copied());
                for address in endpoints::addresses(endpoint) {
                    if pod.is_none() && vips.owner(address).is_some() {
                        continue;
                    }
                    let index = pod.or_else(|| by_address.get(&address).copied());
                    let index = index.unwrap_or_else(|| {
                        by_address.insert(address, members.len());
                        members.push(stranger(context, slice_name, address, ready));
                        members.len() - 1
                    });
                    back(&mut members[index], &published.name, &ports);
                }
            }
        }
    }
    for member in members {
        member.workload.services = Arc::new(member.backed.clone());
    }
}

/// A service's address is no endpoint, unless the pod behind it is named.
fn tell_endpoints(
    context: &Context<'_>,
    vips: &VirtualAddresses,
    members: &[Member],
    findings: &mut Findings,
) {
    for (name, slice) in &context.index.slices {
        for endpoint in &slice.endpoints {
            let pod = endpoints::target(&name.namespace, endpoint).map(MemberKey::Pod);
            let is_known = members
                .iter()
                .any(|member| Some(&member.key) == pod.as_ref());
            for address in endpoints::addresses(endpoint).filter(|_| !is_known) {
                if let Some(owner) = vips.owner(address) {
                    let key = key(Kind::EndpointSlice, name);
                    endpoints::no_endpoint(&key, address, owner, findings);
                }
            }
        }
    }
}

fn back(member: &mut Member, service: &ServiceName, ports: &[weft_types::PortMapping]) {
    let list = member.backed.entry(service.clone()).or_default();
    list.extend(ports.iter().copied());
    list.sort_by_key(|port| (port.service_port, port.target_port));
    list.dedup();
}

fn stranger(context: &Context<'_>, slice: &ResourceName, address: IpAddr, ready: bool) -> Member {
    let source = Source::Slice {
        name: slice.clone(),
        ready,
    };
    let key = MemberKey::Stranger(address);
    let workload = source.workload(context, &key, &mut Findings::default());
    Member {
        claim: source.claim(),
        key,
        source,
        workload,
        backed: Backed::new(),
    }
}

type Policies = imbl::OrdMap<PolicyName, Arc<weft_types::AuthorizationPolicy>>;

fn policies(
    context: &Context<'_>,
    members: &mut [Member],
    services: &mut [(ResourceName, Service)],
    findings: &mut Findings,
) -> Policies {
    let mut policies = Policies::new();
    let published: BTreeSet<ResourceName> = services.iter().map(|(name, _)| name.clone()).collect();
    for (name, object) in &context.index.authorizations {
        for service in authorization::target_services(name, object) {
            let target = services.iter_mut().find(|(name, _)| *name == service);
            if let Some((_, target)) =
                target.filter(|_| !authorization::allows_direct(context, &service))
            {
                target.requires_waypoint = true;
            }
        }
        let is_published = |name: &ResourceName| published.contains(name);
        let Some(policy) = authorization::one(context, name, is_published, findings) else {
            continue;
        };
        if let Some(selector) = authorization::selector(context, name, &policy) {
            for member in &mut *members {
                let here = selector
                    .namespace
                    .as_ref()
                    .is_none_or(|n| *n == member.workload.namespace);
                let labels = member.source.labels();
                let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
                if here && selector.labels.iter().all(has) {
                    drop(labels);
                    member.workload.authorization_policies.push(name.clone());
                }
            }
        }
        policies.insert(name.clone(), Arc::new(policy));
    }
    let levels = Levels::new(context);
    for name in context.index.peers.keys() {
        peer::tell_level(context, &levels, name, findings);
    }
    let mut overlaps = BTreeSet::new();
    for member in members {
        let labels = member.source.labels();
        let (policy, others) = levels.judge(context, &member.workload.namespace, &labels);
        overlaps.extend(others);
        if let Some(policy) = policy {
            drop(labels);
            let names = &mut member.workload.authorization_policies;
            names.push(policy.name.clone());
            policies.insert(policy.name.clone(), Arc::new(policy));
        }
    }
    for (other, first) in overlaps {
        peer::conflict(&other, &first, findings);
    }
    policies
}

fn pods(context: &Context<'_>) -> (Enrollments, Identities) {
    let (mut enrollments, mut identities) = (Enrollments::new(), Identities::new());
    for name in context.index.pods.keys() {
        enroll::enroll(context, name, None, &mut enrollments, &mut identities);
    }
    (enrollments, identities)
}

fn statuses(
    context: &Context<'_>,
    said: &mut BTreeMap<ObjectKey, Vec<Finding>>,
) -> imbl::OrdMap<ObjectKey, Arc<PolicyStatus>> {
    let authorizations = context.index.authorizations.keys();
    let authorizations = authorizations.map(|name| key(Kind::AuthorizationPolicy, name));
    let peers = context.index.peers.keys();
    let peers = peers.map(|name| key(Kind::PeerAuthentication, name));
    let status = |key: ObjectKey| {
        let findings = said.remove(&key).unwrap_or_default();
        let name = ResourceName::new(key.namespace.as_str(), key.name.as_str());
        let tried =
            key.kind == Kind::AuthorizationPolicy && authorization::is_tried(context, &name);
        let status = PolicyStatus::new(key.clone(), tried, &findings);
        (key, Arc::new(status))
    };
    authorizations.chain(peers).map(status).collect()
}

fn key(kind: Kind, name: &ResourceName) -> ObjectKey {
    ObjectKey::new(kind, name.namespace.as_ref(), name.name.as_ref())
}
