//! The steps of a translation in their order, each reading what the ones before it found out.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use weft_k8s_api::{Kind, Object, ObjectKey};
use weft_types::{AuthorizationPolicy, PolicyName, ResourceName, Workload};

use super::address::{Addresses, Holders};
use super::authorization::{self, Authorizations};
use super::claims::Services;
use super::endpoints::{Endpoints, Stage};
use super::enroll::enroll;
use super::finding::{Findings, Ledger, Note, PolicyStatus, Reason, Step};
use super::member::{Source, namespace_must_exist};
use super::members::{Holder, MemberKey, Members, Slot};
use super::peer::Peers;
use super::service::{object_name, service_name};
use super::touch::{Surroundings, Touched};
use super::vip::VirtualAddresses;
use super::{Context, Translation};
use crate::index::Changes;

/// What the steps have found out so far.
#[derive(Debug, Default)]
pub(super) struct Steps {
    surroundings: Surroundings,
    members: Members,
    addresses: Addresses,
    services: Services,
    endpoints: Endpoints,
    authorizations: Authorizations,
    peers: Peers,
    ledger: Ledger,
    /// Objects that the settings said something about.
    settings: BTreeSet<ObjectKey>,
}

/// What one run works on.
struct Run<'a> {
    context: &'a Context<'a>,
    changes: &'a Changes,
    given: &'a mut VirtualAddresses,
    out: &'a mut Translation,
}

impl Steps {
    /// Steps that know nothing but who has which address.
    pub(super) fn after(holders: Holders) -> Self {
        Self {
            addresses: Addresses::after(holders),
            ..Self::default()
        }
    }

    /// Which workload has which address.
    pub(super) fn holders(&self) -> Holders {
        self.addresses.holders(&self.members)
    }

    /// Which workload has which of the addresses that several name.
    pub(super) fn contested(&self) -> &Holders {
        self.addresses.contested()
    }

    /// What there is to say about settings now.
    pub(super) fn settings(&mut self, findings: Findings) {
        let said = findings.into_all();
        for key in std::mem::take(&mut self.settings) {
            if !said.contains_key(&key) {
                self.ledger.set(&key, Step::Object, Vec::new());
            }
        }
        for (key, findings) in said {
            self.ledger.set(&key, Step::Object, findings);
            self.settings.insert(key);
        }
    }

    /// Takes changes through all steps.
    pub(super) fn run(
        &mut self,
        context: &Context<'_>,
        changes: &Changes,
        given: &mut VirtualAddresses,
        out: &mut Translation,
    ) {
        let mut run = Run {
            context,
            changes,
            given,
            out,
        };
        let touched = self.surroundings.touched(context, changes);
        let (appeared, mut gone) = self.take_members(&mut run, &touched);
        self.addresses.change_nodes(context, changes);
        let mut about = self
            .services
            .release(context, changes, &self.addresses, run.given);
        let moved = self.addresses.settle(&mut self.members, &about, run.given);
        about.extend(&moved);
        let targeted = self.authorizations.targets(context, changes);
        let services = self.take_services(&mut run, &touched, about, targeted);
        let moved = moved.into_iter().chain(run.given.take_moved()).collect();
        gone.extend(self.take_endpoints(&mut run, &services, &moved, &appeared));
        self.take_authorizations(&mut run, &touched, &services);
        self.take_peers(&run, &touched);
        self.publish_members(&mut run);
        self.publish_peers(&mut run);
        self.publish_findings(&mut run);
        self.members.release(gone);
    }

    /// Pods and entries; returns pods that became members or are none any more, and slots that are free.
    fn take_members(
        &mut self,
        run: &mut Run<'_>,
        touched: &Touched,
    ) -> (Vec<ResourceName>, Vec<Slot>) {
        let index = run.context.index;
        let (mut appeared, mut gone) = (Vec::new(), Vec::new());
        for name in &touched.pods {
            let pod = index.pods.get(name);
            let source = pod.and_then(Source::of_pod);
            let is_member = source.is_some();
            let key = MemberKey::Pod(name.clone());
            if self.members.slot(&key).is_some() != is_member {
                appeared.push(name.clone());
            }
            gone.extend(self.take_member(run, key, source));
            if !is_member {
                self.tell_unplaced(run.context, name, pod.is_some());
            }
            let object = ObjectKey::new(Kind::Pod, name.namespace.as_ref(), name.name.as_ref());
            let before = match run.changes.get(&object) {
                Some(Some(Object::Pod(before))) => Some(before),
                Some(_) => None,
                None => pod,
            };
            let Translation {
                enrollments,
                identities,
                ..
            } = run.out;
            let before = before.map(AsRef::as_ref);
            enroll(run.context, name, before, enrollments, identities);
        }
        for name in &touched.entries {
            let source = index.entries.get(name).cloned().map(Source::Entry);
            let key = MemberKey::Entry(name.clone());
            gone.extend(self.take_member(run, key, source));
        }
        (appeared, gone)
    }

    /// A pod that is no member has a place in the status all the same.
    fn tell_unplaced(&mut self, context: &Context<'_>, name: &ResourceName, exists: bool) {
        let key = ObjectKey::new(Kind::Pod, name.namespace.as_ref(), name.name.as_ref());
        let mut findings = Findings::default();
        if exists {
            namespace_must_exist(context, &key, &mut findings);
        }
        self.ledger.set(&key, Step::Object, findings.take(&key));
        self.ledger.set(&key, Step::Address, Vec::new());
    }

    /// Puts, replaces or removes one; returns the slot that is free then.
    fn take_member(
        &mut self,
        run: &mut Run<'_>,
        key: MemberKey,
        source: Option<Source>,
    ) -> Option<Slot> {
        let Some(source) = source else {
            let slot = self.members.slot(&key)?;
            let before = self.members.get(slot).source.claim();
            self.addresses
                .change(slot, Some(&before), None, &mut self.members);
            return Some(self.remove(run.out, slot));
        };
        if let Some(slot) = self.members.slot(&key)
            && self.members.get(slot).source.is(&source)
        {
            // Something around it changed: what it says about itself is the same.
            self.members.dirty.insert(slot);
            return None;
        }
        let now = source.claim();
        let (slot, before) = self.members.put(key, source);
        let before = before.map(|before| before.claim());
        self.addresses
            .change(slot, before.as_ref(), Some(&now), &mut self.members);
        None
    }

    fn remove(&mut self, out: &mut Translation, slot: Slot) -> Slot {
        let record = self.members.remove(slot);
        let services = record.services.keys().map(object_name);
        self.endpoints.leave(slot, services);
        self.peers.leave(record.peer, record.overlaps);
        if let Some(uid) = record.published {
            out.workloads.remove(&uid);
        }
        if let Some(key) = record.key.object() {
            for step in [Step::Object, Step::Address] {
                self.ledger.set(&key, step, Vec::new());
            }
        }
        slot
    }

    /// Returns the services whose object, publication or policies changed.
    fn take_services(
        &mut self,
        run: &mut Run<'_>,
        touched: &Touched,
        about: BTreeSet<IpAddr>,
        targeted: BTreeSet<ResourceName>,
    ) -> BTreeSet<ResourceName> {
        let mut again = touched.services.clone();
        again.extend(targeted);
        let contenders = self
            .services
            .settle(run.context, about, &self.addresses, run.given);
        again.extend(contenders);
        for name in &again {
            let translated = self.services.translate(
                run.context,
                name,
                &self.addresses,
                &self.members,
                run.given,
            );
            let key = ObjectKey::new(Kind::Service, name.namespace.as_ref(), name.name.as_ref());
            self.ledger.set(&key, Step::Object, translated.findings);
            let mesh_name = service_name(name);
            let Some(mut service) = translated.service else {
                run.out.services.remove(&mesh_name);
                continue;
            };
            service.requires_waypoint = self.authorizations.require_waypoint(run.context, name);
            let before = run.out.services.get(&mesh_name);
            if before.is_none_or(|before| **before != service) {
                run.out.services.insert(mesh_name, Arc::new(service));
            }
        }
        again
    }

    /// Returns slots of strangers that are gone.
    fn take_endpoints(
        &mut self,
        run: &mut Run<'_>,
        services: &BTreeSet<ResourceName>,
        moved: &BTreeSet<IpAddr>,
        appeared: &[ResourceName],
    ) -> Vec<Slot> {
        let mut again = self
            .endpoints
            .slices(run.context, run.changes, &mut self.ledger);
        again.extend(self.endpoints.mentioning(moved, appeared));
        again.extend(services.iter().cloned());
        let mut stage = Stage {
            members: &mut self.members,
            addresses: &self.addresses,
            given: run.given,
            ledger: &mut self.ledger,
        };
        for name in &again {
            let is_published = run.out.services.contains_key(&service_name(name));
            self.endpoints
                .service(run.context, name, is_published, &mut stage);
        }
        for slot in self.members.changed.clone() {
            self.endpoints.member(run.context, slot, &mut self.members);
        }
        let gone = self.endpoints.strangers(&mut self.members);
        gone.into_iter()
            .map(|slot| self.remove(run.out, slot))
            .collect()
    }

    fn take_authorizations(
        &mut self,
        run: &mut Run<'_>,
        touched: &Touched,
        services: &BTreeSet<ResourceName>,
    ) {
        let mut again = touched.authorizations.clone();
        for service in services {
            again.extend(self.authorizations.targeting(service).cloned());
        }
        let mut affected = self.members.changed.clone();
        for name in &again {
            let published = &run.out.services;
            let is_published = |name: &ResourceName| published.contains_key(&service_name(name));
            let translated = self.authorizations.translate(
                run.context,
                name,
                is_published,
                &self.members,
                &mut affected,
            );
            let kind = Kind::AuthorizationPolicy;
            let key = ObjectKey::new(kind, name.namespace.as_ref(), name.name.as_ref());
            self.ledger.set(&key, Step::Object, translated.findings);
            self.ledger.touch(key);
            publish(&mut run.out.policies, name, translated.policy.as_ref());
        }
        for slot in &affected {
            self.authorizations.member(*slot, &mut self.members);
        }
    }

    fn take_peers(&mut self, run: &Run<'_>, touched: &Touched) {
        let mut affected =
            self.peers
                .touched(run.context, run.changes, &self.members, &mut self.ledger);
        if !touched.peers.is_empty() {
            self.peers.tell_levels(run.context, &mut self.ledger);
        }
        affected.append(&mut self.members.changed);
        for slot in affected {
            self.peers.member(run.context, slot, &mut self.members);
        }
        for name in &touched.peers {
            let kind = Kind::PeerAuthentication;
            let key = ObjectKey::new(kind, name.namespace.as_ref(), name.name.as_ref());
            if !run.context.index.peers.contains_key(name) {
                self.ledger.set(&key, Step::Object, Vec::new());
            }
            self.ledger.touch(key);
        }
    }

    fn publish_members(&mut self, run: &mut Run<'_>) {
        for slot in std::mem::take(&mut self.members.dirty) {
            let workload = self.workload(run.context, slot);
            let record = self.members.get_mut(slot);
            let uid = &workload.uid;
            if let Some(before) = record.published.replace(uid.clone())
                && before != *uid
            {
                run.out.workloads.remove(&before);
            }
            let before = run.out.workloads.get(uid);
            if before.is_none_or(|before| **before != workload) {
                run.out
                    .workloads
                    .insert(workload.uid.clone(), Arc::new(workload));
            }
        }
    }

    /// What all steps together say about a member.
    fn workload(&mut self, context: &Context<'_>, slot: Slot) -> Workload {
        let record = self.members.get(slot);
        let mut findings = Findings::default();
        let mut workload = record.source.workload(context, &record.key, &mut findings);
        let lost = |address: &_| record.lost.iter().any(|(lost, _)| lost == address);
        workload.addresses.retain(|address| !lost(address));
        workload.services = Arc::clone(&record.services);
        let policies = record.policies.iter().chain(&record.peer);
        workload.authorization_policies = policies.cloned().collect();
        if let Some(key) = record.key.object() {
            self.ledger.set(&key, Step::Object, findings.take(&key));
            for (address, holder) in &record.lost {
                tell_lost(&key, *address, holder, &mut findings);
            }
            self.ledger.set(&key, Step::Address, findings.take(&key));
        }
        workload
    }

    fn publish_peers(&mut self, run: &mut Run<'_>) {
        let changed = self.peers.changed();
        for name in changed.policies {
            publish(&mut run.out.policies, &name, self.peers.policy(&name));
        }
        for other in changed.overlaps {
            let kind = Kind::PeerAuthentication;
            let key = ObjectKey::new(kind, other.namespace.as_ref(), other.name.as_ref());
            let findings = self.peers.overlaps_of(&other);
            self.ledger.set(&key, Step::Overlap, findings);
        }
    }

    fn publish_findings(&mut self, run: &mut Run<'_>) {
        for (key, findings) in self.ledger.drain() {
            let name = ResourceName::new(key.namespace.as_str(), key.name.as_str());
            let is_policy = match key.kind {
                Kind::AuthorizationPolicy => run.context.index.authorizations.contains_key(&name),
                Kind::PeerAuthentication => run.context.index.peers.contains_key(&name),
                _ if findings.is_empty() => {
                    run.out.findings.remove(&key);
                    continue;
                }
                _ => {
                    run.out.findings.insert(key, Arc::new(findings));
                    continue;
                }
            };
            if is_policy {
                let is_dry_run = key.kind == Kind::AuthorizationPolicy
                    && authorization::is_tried(run.context, &name);
                let status = PolicyStatus::new(key.clone(), is_dry_run, &findings);
                run.out.statuses.insert(key, Arc::new(status));
            } else {
                run.out.statuses.remove(&key);
            }
        }
    }
}

fn publish(
    policies: &mut OrdMap<PolicyName, Arc<AuthorizationPolicy>>,
    name: &PolicyName,
    policy: Option<&AuthorizationPolicy>,
) {
    match policy {
        None => drop(policies.remove(name)),
        Some(policy) if policies.get(name).is_some_and(|before| **before == *policy) => {}
        Some(policy) => drop(policies.insert(name.clone(), Arc::new(policy.clone()))),
    }
}

pub(super) fn tell_lost(
    key: &ObjectKey,
    address: IpAddr,
    holder: &Holder,
    findings: &mut Findings,
) {
    let advice = "give one of the two another address";
    findings.add(
        key,
        Note {
            field: if key.kind == Kind::Pod {
                "status.podIPs"
            } else {
                "spec.address"
            },
            reason: Reason::Conflicted,
            message: format!("address {address} belongs to {holder}; {advice}"),
            effect: "published without this address until the other lets go of it",
        },
    );
}
