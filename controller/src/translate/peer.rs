//! PeerAuthentication, compiled to policies that deny whoever shows no identity.
//!
//! ```text
//! mode of a port = its own, else the workload's policy, else the namespace's, else the mesh's, else PERMISSIVE
//! STRICT, but PERMISSIVE on 80 and 81:  DENY no identity AND port not in {80, 81}
//! PERMISSIVE, but STRICT on 80 and 81:  DENY no identity AND port in {80, 81}
//! ```
//! The ports of one policy stand in one match: as alternatives of a clause, "not 80" and "not 81" would be true of every port.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use weft_k8s_api::security::{MutualTlsMode, PeerAuthentication};
use weft_k8s_api::{Kind, Object, ObjectKey, labels};
use weft_types::{
    Action, AuthorizationPolicy, Clause, Match, PolicyName, ResourceName, Rule, Scope, StringMatch,
};

use super::Context;
use super::finding::{Finding, Findings, Ledger, Note, Reason, Step};
use super::member::namespace_must_exist;
use super::members::{Members, Slot};
use super::selectors::selects;
use crate::index::Changes;

/// Name of the policy of all that are STRICT on every port. No object can have it: names have no underscore.
const STRICT_NAME: &str = "weft_strict";

type Named = (ResourceName, Arc<PeerAuthentication>);

/// What PeerAuthentications come to.
#[derive(Debug, Default)]
pub(super) struct Peers {
    levels: Levels,
    /// Published policies, and how many members name each.
    policies: HashMap<PolicyName, (usize, AuthorizationPolicy)>,
    /// Objects that are not used for some member: the other, the one that is used instead, and for how many members that is so.
    overlaps: BTreeMap<ResourceName, BTreeMap<ResourceName, usize>>,
    /// Policies to publish or withdraw, objects to tell about.
    changed: Changed,
}

/// What is another one since it was asked for last.
#[derive(Debug, Default)]
pub(super) struct Changed {
    pub(super) policies: BTreeSet<PolicyName>,
    pub(super) overlaps: BTreeSet<ResourceName>,
}

impl Peers {
    /// Takes in objects that changed; returns the members that they are or were about.
    pub(super) fn touched(
        &mut self,
        context: &Context<'_>,
        changes: &Changes,
        members: &Members,
        ledger: &mut Ledger,
    ) -> BTreeSet<Slot> {
        let mut affected = BTreeSet::new();
        let peers = changes.iter();
        let peers = peers.filter(|(key, _)| key.kind == Kind::PeerAuthentication);
        let mut any = false;
        for (key, before) in peers {
            any = true;
            let name = ResourceName::new(key.namespace.as_str(), key.name.as_str());
            if let Some(Object::PeerAuthentication(before)) = before {
                affected.extend(about(context, &name, before, members));
            }
            if let Some(now) = context.index.peers.get(&name) {
                affected.extend(about(context, &name, now, members));
            }
        }
        if any {
            self.levels = Levels::new(context);
            self.tell_levels(context, ledger);
        }
        affected
    }

    /// Says of every object what is wrong with it whatever the members are. There are few of them.
    pub(super) fn tell_levels(&self, context: &Context<'_>, ledger: &mut Ledger) {
        for name in context.index.peers.keys() {
            let mut findings = Findings::default();
            tell_level(context, &self.levels, name, &mut findings);
            let key = key(name);
            ledger.set(&key, Step::Object, findings.take(&key));
        }
    }

    /// Finds out anew what a member's mode comes to.
    pub(super) fn member(&mut self, context: &Context<'_>, slot: Slot, members: &mut Members) {
        let record = members.get(slot);
        let (policy, overlaps) = {
            let labels = record.source.labels();
            self.levels.judge(context, &record.namespace(), &labels)
        };
        let name = policy.as_ref().map(|policy| policy.name.clone());
        if let Some(policy) = policy {
            self.join(policy);
        }
        let record = members.get_mut(slot);
        let before = std::mem::replace(&mut record.peer, name);
        let no_longer = std::mem::replace(&mut record.overlaps, overlaps.clone());
        if before != record.peer {
            members.dirty.insert(slot);
        }
        for pair in overlaps {
            self.overlap(pair);
        }
        self.leave(before, no_longer);
    }

    /// A member has this policy.
    fn join(&mut self, policy: AuthorizationPolicy) {
        let name = policy.name.clone();
        let published = self.policies.get_mut(&name);
        match published {
            Some((members, published)) => {
                *members += 1;
                if *published == policy {
                    return;
                }
                *published = policy;
            }
            None => drop(self.policies.insert(name.clone(), (1, policy))),
        }
        self.changed.policies.insert(name);
    }

    fn overlap(&mut self, (other, first): (ResourceName, ResourceName)) {
        let members = self.overlaps.entry(other.clone()).or_default();
        let count = members.entry(first).or_default();
        *count += 1;
        if *count == 1 {
            self.changed.overlaps.insert(other);
        }
    }

    /// A member that is gone, or about which something else holds now, had these.
    pub(super) fn leave(
        &mut self,
        policy: Option<PolicyName>,
        overlaps: Vec<(ResourceName, ResourceName)>,
    ) {
        if let Some(name) = policy
            && let Some((members, _)) = self.policies.get_mut(&name)
        {
            *members -= 1;
            if *members == 0 {
                self.policies.remove(&name);
                self.changed.policies.insert(name);
            }
        }
        for (other, first) in overlaps {
            let Some(members) = self.overlaps.get_mut(&other) else {
                continue;
            };
            if let Some(count) = members.get_mut(&first) {
                *count -= 1;
                if *count == 0 {
                    members.remove(&first);
                    self.changed.overlaps.insert(other.clone());
                }
            }
            if members.is_empty() {
                self.overlaps.remove(&other);
            }
        }
    }

    /// What is another one since the last call.
    pub(super) fn changed(&mut self) -> Changed {
        std::mem::take(&mut self.changed)
    }

    /// A policy that some member names.
    pub(super) fn policy(&self, name: &PolicyName) -> Option<&AuthorizationPolicy> {
        self.policies.get(name).map(|(_, policy)| policy)
    }

    /// What there is to say about an object that is not used for some member.
    pub(super) fn overlaps_of(&self, other: &ResourceName) -> Vec<Finding> {
        let mut findings = Findings::default();
        for first in self
            .overlaps
            .get(other)
            .into_iter()
            .flat_map(BTreeMap::keys)
        {
            conflict(other, first, &mut findings);
        }
        findings.take(&key(other))
    }
}

/// Members that an object is about.
fn about(
    context: &Context<'_>,
    name: &ResourceName,
    object: &PeerAuthentication,
    members: &Members,
) -> Vec<Slot> {
    match selector(object) {
        Some(selector) => members.selected(Some(&name.namespace), selector),
        None if *name.namespace == *context.mesh.root_namespace => members.slots().collect(),
        None => members.in_namespace(&name.namespace).collect(),
    }
}

/// Says what is wrong with an object whatever the members are.
pub(super) fn tell_level(
    context: &Context<'_>,
    levels: &Levels,
    name: &ResourceName,
    findings: &mut Findings,
) {
    let key = key(name);
    namespace_must_exist(context, &key, findings);
    let object = &context.index.peers[name];
    note_disable(&key, object, findings);
    note_dry_run(&key, object, findings);
    if let Some(first) = levels.first(name).filter(|first| *first != name) {
        conflict(name, first, findings);
    }
}

/// The objects by what they are about; the oldest of each comes first and holds.
#[derive(Debug, Default)]
pub(super) struct Levels {
    mesh: Option<Named>,
    namespaces: BTreeMap<Arc<str>, Named>,
    workloads: BTreeMap<Arc<str>, Vec<Named>>,
    /// The one that holds in place of each without a selector.
    firsts: BTreeMap<ResourceName, ResourceName>,
}

impl Levels {
    pub(super) fn new(context: &Context<'_>) -> Self {
        let all = context.index.peers.iter();
        let mut all: Vec<Named> = all
            .map(|(name, object)| (name.clone(), Arc::clone(object)))
            .collect();
        all.sort_by_key(|(name, object)| (created(object), name.clone()));
        let mut levels = Self::default();
        for named in all {
            let name = named.0.clone();
            let namespace = Arc::clone(&name.namespace);
            if selector(&named.1).is_some() {
                levels.workloads.entry(namespace).or_default().push(named);
                continue;
            }
            let first = if *namespace == *context.mesh.root_namespace {
                levels.mesh.get_or_insert(named)
            } else {
                levels.namespaces.entry(namespace).or_insert(named)
            };
            levels.firsts.insert(name, first.0.clone());
        }
        levels
    }

    /// The object that holds where this one, without a selector, would.
    pub(super) fn first(&self, name: &ResourceName) -> Option<&ResourceName> {
        self.firsts.get(name)
    }

    /// The policy that a member with these labels gets, and which objects are not used for it: the other, and the one that is.
    pub(super) fn judge(
        &self,
        context: &Context<'_>,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> (
        Option<AuthorizationPolicy>,
        Vec<(ResourceName, ResourceName)>,
    ) {
        let selected = |(_, object): &&Named| {
            selector(object).is_some_and(|selector| selects(selector, labels))
        };
        let mut own = self.workloads.get(namespace).into_iter().flatten();
        let first = own.find(selected);
        let others = own.filter(selected);
        let overlaps = others.filter_map(|(other, _)| Some((other.clone(), first?.0.clone())));
        let overlaps = overlaps.collect();
        let levels = [first, self.namespaces.get(namespace), self.mesh.as_ref()];
        let modes = levels.iter().flatten().map(|(_, object)| mode(object));
        let strict = modes
            .into_iter()
            .find(|mode| *mode != MutualTlsMode::Unset)
            .is_some_and(|mode| mode == MutualTlsMode::Strict);
        let ports = first.map(|(_, object)| exceptions(object, strict));
        let ports = ports.unwrap_or_default();
        let policy = match first {
            _ if ports.is_empty() && strict => {
                let name = PolicyName::new(context.mesh.root_namespace.as_str(), STRICT_NAME);
                Some(deny_without_identity(name, None))
            }
            Some((object, _)) if !ports.is_empty() => {
                let mode = if strict { "strict" } else { "permissive" };
                let name = format!("weft_peer_{}_{mode}", object.name);
                let name = PolicyName::new(Arc::clone(&object.namespace), name);
                Some(deny_without_identity(name, Some(port_match(strict, ports))))
            }
            _ => None,
        };
        (policy, overlaps)
    }
}

fn key(name: &ResourceName) -> ObjectKey {
    let kind = Kind::PeerAuthentication;
    ObjectKey::new(kind, name.namespace.as_ref(), name.name.as_ref())
}

fn created(object: &PeerAuthentication) -> i64 {
    let time = object.metadata.creation_timestamp.as_ref();
    time.map_or(0, |time| time.0.as_second())
}

fn selector(object: &PeerAuthentication) -> Option<&BTreeMap<String, String>> {
    let selector = object
        .spec
        .selector
        .as_ref()
        .map(|selector| &selector.match_labels);
    selector.filter(|labels| !labels.is_empty())
}

fn mode(object: &PeerAuthentication) -> MutualTlsMode {
    object.spec.mtls.unwrap_or_default().mode
}

/// Ports whose own mode is another than that of the rest.
fn exceptions(object: &PeerAuthentication, strict: bool) -> BTreeSet<u16> {
    let other = object
        .spec
        .port_level_mtls
        .iter()
        .filter(|(_, mtls)| match mtls.mode {
            MutualTlsMode::Unset => false,
            MutualTlsMode::Strict => !strict,
            MutualTlsMode::Permissive | MutualTlsMode::Disable => strict,
        });
    other.map(|(port, _)| port.0).collect()
}

fn port_match(strict: bool, ports: BTreeSet<u16>) -> Match {
    let ports = ports.into_iter().collect();
    if strict {
        Match {
            not_destination_ports: ports,
            ..Match::default()
        }
    } else {
        Match {
            destination_ports: ports,
            ..Match::default()
        }
    }
}

fn deny_without_identity(name: PolicyName, ports: Option<Match>) -> AuthorizationPolicy {
    let no_identity = Match {
        not_principals: vec![StringMatch::Presence],
        ..Match::default()
    };
    let clause = |item| Clause {
        matches: vec![item],
    };
    AuthorizationPolicy {
        name,
        scope: Scope::WorkloadSelector,
        action: Action::Deny,
        rules: vec![Rule {
            clauses: [Some(no_identity), ports]
                .into_iter()
                .flatten()
                .map(clause)
                .collect(),
        }],
        dry_run: false,
    }
}

/// Only AuthorizationPolicies can be tried out: this one is enforced, and its author may believe otherwise.
fn note_dry_run(key: &ObjectKey, object: &PeerAuthentication, findings: &mut Findings) {
    let annotations = object.metadata.annotations.as_ref();
    if annotations.is_some_and(|annotations| annotations.contains_key(labels::DRY_RUN)) {
        findings.add(
            key,
            Note {
                field: "metadata.annotations[\"istio.io/dry-run\"]",
                reason: Reason::UnsupportedField,
                message: "a PeerAuthentication cannot be tried out".to_owned(),
                effect: "it is enforced",
            },
        );
    }
}

fn note_disable(key: &ObjectKey, object: &PeerAuthentication, findings: &mut Findings) {
    let ports = object.spec.port_level_mtls.values().map(|mtls| mtls.mode);
    if ports
        .chain([mode(object)])
        .any(|mode| mode == MutualTlsMode::Disable)
    {
        findings.add(
            key,
            Note {
                field: "spec.mtls.mode",
                reason: Reason::UnsupportedField,
                message: "the tunnel between node proxies cannot be switched off for a workload"
                    .to_owned(),
                effect: "DISABLE is treated as PERMISSIVE: plaintext is accepted as well",
            },
        );
    }
}

pub(super) fn conflict(other: &ResourceName, first: &ResourceName, findings: &mut Findings) {
    findings.add(
        &key(other),
        Note {
            field: "spec.selector",
            reason: Reason::Conflicted,
            message: format!("{first} is older and about the same workloads"),
            effect: "this object is not used for them",
        },
    );
}
