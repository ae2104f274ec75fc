//! PeerAuthentication, compiled to policies that deny whoever shows no identity.
//!
//! ```text
//! mode of a port = its own, else the workload's policy, else the namespace's, else the mesh's, else PERMISSIVE
//! STRICT, but PERMISSIVE on 80 and 81:  DENY no identity AND port not in {80, 81}
//! PERMISSIVE, but STRICT on 80 and 81:  DENY no identity AND port in {80, 81}
//! ```
//! The ports of one policy stand in one match: as alternatives of a clause, "not 80" and "not 81" would be true of every port.

use std::collections::{BTreeMap, BTreeSet};

use weft_k8s_api::security::{MutualTlsMode, PeerAuthentication};
use weft_k8s_api::{Kind, ObjectKey};
use weft_types::{
    Action, AuthorizationPolicy, Clause, Match, PolicyName, ResourceName, Rule, Scope, StringMatch,
};

use super::Context;
use super::endpoints::selects;
use super::finding::{Findings, Note, Reason};
use super::member::{Member, namespace_must_exist};

/// Name of the policy of all that are STRICT on every port. No object can have it: names have no underscore.
const STRICT_NAME: &str = "weft_strict";

type Named<'a> = (&'a ResourceName, &'a PeerAuthentication);

/// Translates all; adds to each member the name of the policy that its mode comes to.
pub(super) fn policies(
    context: &Context<'_>,
    members: &mut [Member],
    findings: &mut Findings,
) -> Vec<AuthorizationPolicy> {
    let levels = Levels::new(context, findings);
    let mut policies = BTreeMap::new();
    for member in members {
        if let Some(policy) = levels.policy(context, member, findings) {
            let names = &mut member.workload.authorization_policies;
            names.push(policy.name.clone());
            policies.insert(policy.name.clone(), policy);
        }
    }
    policies.into_values().collect()
}

/// The objects by what they are about; the oldest of each comes first and holds.
struct Levels<'a> {
    mesh: Option<Named<'a>>,
    namespaces: BTreeMap<&'a str, Named<'a>>,
    workloads: BTreeMap<&'a str, Vec<Named<'a>>>,
}

impl<'a> Levels<'a> {
    fn new(context: &'a Context<'_>, findings: &mut Findings) -> Self {
        let mut all: Vec<Named<'a>> = Vec::new();
        for (name, object) in &context.index.peers {
            let key = key(name);
            namespace_must_exist(context, &key, findings);
            note_disable(&key, object, findings);
            all.push((name, object));
        }
        all.sort_by_key(|(name, object)| (created(object), *name));
        let mut levels = Self {
            mesh: None,
            namespaces: BTreeMap::new(),
            workloads: BTreeMap::new(),
        };
        for named in all {
            let (name, object) = named;
            if selector(object).is_some() {
                levels
                    .workloads
                    .entry(&name.namespace)
                    .or_default()
                    .push(named);
                continue;
            }
            let first = if *name.namespace == *context.mesh.root_namespace {
                levels.mesh.get_or_insert(named)
            } else {
                levels.namespaces.entry(&name.namespace).or_insert(named)
            };
            if first.0 != name {
                conflict(name, first.0, findings);
            }
        }
        levels
    }

    fn policy(
        &self,
        context: &Context<'_>,
        member: &Member,
        findings: &mut Findings,
    ) -> Option<AuthorizationPolicy> {
        let namespace = member.workload.namespace.as_ref();
        let mut own = self
            .workloads
            .get(namespace)
            .into_iter()
            .flatten()
            .filter(|named| {
                selector(named.1).is_some_and(|selector| selects(selector, &member.labels))
            });
        let first = own.next();
        for (other, _) in own {
            conflict(other, first?.0, findings);
        }
        let levels = [first, self.namespaces.get(namespace), self.mesh.as_ref()];
        let modes = levels.iter().flatten().map(|(_, object)| mode(object));
        let strict = modes
            .into_iter()
            .find(|mode| *mode != MutualTlsMode::Unset)
            .is_some_and(|mode| mode == MutualTlsMode::Strict);
        let ports = first.map(|(_, object)| exceptions(object, strict));
        let ports = ports.unwrap_or_default();
        match first {
            _ if ports.is_empty() && strict => {
                let name = PolicyName::new(context.mesh.root_namespace.as_str(), STRICT_NAME);
                Some(deny_without_identity(name, None))
            }
            Some((object, _)) if !ports.is_empty() => {
                let mode = if strict { "strict" } else { "permissive" };
                let name = format!("weft_peer_{}_{mode}", object.name);
                let name = PolicyName::new(object.namespace.as_ref(), name);
                Some(deny_without_identity(name, Some(port_match(strict, ports))))
            }
            _ => None,
        }
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

fn conflict(other: &ResourceName, first: &ResourceName, findings: &mut Findings) {
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
