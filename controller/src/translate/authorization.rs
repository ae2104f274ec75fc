//! AuthorizationPolicies for node proxies, which judge connections and not requests.
//!
//! What cannot be judged there fails closed, and the policy's status says so:
//!
//! | policy | what becomes of it |
//! |---|---|
//! | ALLOW rule with a field of L7 | the rule allows nothing |
//! | DENY rule with fields of L7 | they are taken as met: the rule denies whatever its other fields match |
//! | CUSTOM | what it matches is denied, as nobody here can ask its provider |
//! | AUDIT | nothing: it has no say in access |
//! | `targetRefs` to a Service | the Service takes traffic from its waypoint only |

mod rule;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use weft_k8s_api::security::{
    AuthorizationPolicy as AuthorizationPolicyObject, AuthorizationPolicySpec, PolicyAction,
    PolicyTargetReference,
};
use weft_k8s_api::{Kind, Object, ObjectKey, labels};
use weft_types::{Action, AuthorizationPolicy, ResourceName, Scope};

use super::Context;
use super::finding::{Finding, Findings, Note, Reason};
use super::member::namespace_must_exist;
use super::members::{Members, Slot, forget};
use super::selectors::{Selector, Selectors};
use crate::index::Changes;

const DRY_RUN_FIELD: &str = "metadata.annotations[\"istio.io/dry-run\"]";
/// Words that Istio takes for yes and no.
const TRUE: [&str; 6] = ["1", "t", "T", "TRUE", "true", "True"];
const FALSE: [&str; 6] = ["0", "f", "F", "FALSE", "false", "False"];

/// Which policies are about what.
#[derive(Debug, Default)]
pub(super) struct Authorizations {
    selectors: Selectors,
    /// Policies by the Services that they target.
    targeting: HashMap<ResourceName, BTreeSet<ResourceName>>,
}

/// Whether the object is a dry run.
pub(super) fn is_tried(context: &Context<'_>, name: &ResourceName) -> bool {
    let object = context.index.authorizations.get(name);
    object.is_some_and(|object| is_dry_run(object))
}

/// What came of a policy.
pub(super) struct Translated {
    /// `None` for one that no node proxy judges, or that is gone.
    pub(super) policy: Option<AuthorizationPolicy>,
    pub(super) findings: Vec<Finding>,
}

impl Authorizations {
    /// Takes in targets of policies that changed; returns the Services that are or were theirs.
    pub(super) fn targets(
        &mut self,
        context: &Context<'_>,
        changes: &Changes,
    ) -> BTreeSet<ResourceName> {
        let mut services = BTreeSet::new();
        let policies = changes.iter();
        for (key, before) in policies.filter(|(key, _)| key.kind == Kind::AuthorizationPolicy) {
            let name = ResourceName::new(key.namespace.as_str(), key.name.as_str());
            if let Some(Object::AuthorizationPolicy(before)) = before {
                for service in target_services(&name, before) {
                    forget(&mut self.targeting, &service, &name);
                    services.insert(service);
                }
            }
            let now = context.index.authorizations.get(&name);
            for service in now.iter().flat_map(|now| target_services(&name, now)) {
                let policies = self.targeting.entry(service.clone()).or_default();
                policies.insert(name.clone());
                services.insert(service);
            }
        }
        services
    }

    /// Policies that target a Service.
    pub(super) fn targeting(&self, service: &ResourceName) -> impl Iterator<Item = &ResourceName> {
        self.targeting.get(service).into_iter().flatten()
    }

    /// Whether a Service takes traffic from its waypoint only.
    pub(super) fn require_waypoint(&self, context: &Context<'_>, service: &ResourceName) -> bool {
        self.targeting.contains_key(service) && !allows_direct(context, service)
    }

    /// Translates one policy, and adds those whose policies may be others now to `affected`.
    pub(super) fn translate(
        &mut self,
        context: &Context<'_>,
        name: &ResourceName,
        is_published: impl Fn(&ResourceName) -> bool,
        members: &Members,
        affected: &mut BTreeSet<Slot>,
    ) -> Translated {
        let mut findings = Findings::default();
        let policy = one(context, name, is_published, &mut findings);
        let selector = policy.as_ref();
        let selector = selector.and_then(|policy| self::selector(context, name, policy));
        let before = self.selectors.set(name, selector.clone());
        if before != selector {
            for selector in [before, selector].into_iter().flatten() {
                affected.extend(members.selected(selector.namespace.as_deref(), &selector.labels));
            }
        }
        let kind = Kind::AuthorizationPolicy;
        let key = ObjectKey::new(kind, name.namespace.as_ref(), name.name.as_ref());
        Translated {
            policy,
            findings: findings.take(&key),
        }
    }

    /// Finds out anew which policies select a member.
    pub(super) fn member(&self, slot: Slot, members: &mut Members) {
        let record = members.get(slot);
        let policies = {
            let labels = record.source.labels();
            self.selectors.selecting(&record.namespace(), &labels)
        };
        let policies: Vec<ResourceName> = policies.into_iter().collect();
        if record.policies != policies {
            members.get_mut(slot).policies = policies;
            members.dirty.insert(slot);
        }
    }
}

/// The policy of an object, by itself.
pub(super) fn one(
    context: &Context<'_>,
    name: &ResourceName,
    is_published: impl Fn(&ResourceName) -> bool,
    findings: &mut Findings,
) -> Option<AuthorizationPolicy> {
    let object = context.index.authorizations.get(name)?;
    let kind = Kind::AuthorizationPolicy;
    let key = ObjectKey::new(kind, name.namespace.as_ref(), name.name.as_ref());
    namespace_must_exist(context, &key, findings);
    note_dry_run(&key, object, findings);
    let spec = &object.spec;
    if spec.target_ref.is_some() || !spec.target_refs.is_empty() {
        targets(context, &key, object, is_published, findings);
        return None;
    }
    let action = action(&key, spec.action, findings)?;
    Some(AuthorizationPolicy {
        name: name.clone(),
        scope: scope(context, name, spec),
        action,
        rules: rule::rules(&key, action, &spec.rules, findings),
        dry_run: is_dry_run(object),
    })
}

/// What a policy selects that is about workloads with labels.
pub(super) fn selector(
    context: &Context<'_>,
    name: &ResourceName,
    policy: &AuthorizationPolicy,
) -> Option<Selector> {
    if policy.scope != Scope::WorkloadSelector {
        return None;
    }
    let object = context.index.authorizations.get(name)?;
    Some(Selector {
        namespace: (!is_root(context, name)).then(|| Arc::clone(&name.namespace)),
        labels: match_labels(&object.spec)?.clone(),
    })
}

/// Whether a policy is only tried out: evaluated and told about, never enforced.
fn is_dry_run(object: &AuthorizationPolicyObject) -> bool {
    let annotation = dry_run_word(object);
    annotation.is_some_and(|word| TRUE.contains(&word))
}

fn dry_run_word(object: &AuthorizationPolicyObject) -> Option<&str> {
    let annotations = object.metadata.annotations.as_ref()?;
    annotations.get(labels::DRY_RUN).map(String::as_str)
}

/// A word that means neither is taken for no, as Istio does, but not in silence.
fn note_dry_run(key: &ObjectKey, object: &AuthorizationPolicyObject, findings: &mut Findings) {
    let known = |word: &str| TRUE.contains(&word) || FALSE.contains(&word);
    if let Some(word) = dry_run_word(object).filter(|word| !known(word)) {
        findings.add(
            key,
            Note {
                field: DRY_RUN_FIELD,
                reason: Reason::UnsupportedField,
                message: format!("{word:?} is neither true nor false"),
                effect: "the policy is enforced",
            },
        );
    }
}

fn action(key: &ObjectKey, action: PolicyAction, findings: &mut Findings) -> Option<Action> {
    let mut unsupported = |message: &str, effect| {
        let note = Note {
            field: "spec.action",
            reason: Reason::UnsupportedField,
            message: message.to_owned(),
            effect,
        };
        findings.add(key, note);
    };
    match action {
        PolicyAction::Allow => Some(Action::Allow),
        PolicyAction::Deny => Some(Action::Deny),
        PolicyAction::Custom => {
            let message = "a node proxy cannot ask the provider of a CUSTOM policy";
            unsupported(message, "every connection that a rule may match is denied");
            Some(Action::Deny)
        }
        PolicyAction::Audit => {
            let message = "nothing records what an AUDIT policy matches";
            unsupported(message, "the policy has no effect, access is as without it");
            None
        }
    }
}

fn is_root(context: &Context<'_>, policy: &ResourceName) -> bool {
    *policy.namespace == *context.mesh.root_namespace
}

fn match_labels(spec: &AuthorizationPolicySpec) -> Option<&BTreeMap<String, String>> {
    let labels = spec
        .selector
        .as_ref()
        .map(|selector| &selector.match_labels);
    labels.filter(|labels| !labels.is_empty())
}

/// Which workloads: those of the namespace, or of the mesh for the root namespace; with a selector each is told by name.
fn scope(context: &Context<'_>, name: &ResourceName, spec: &AuthorizationPolicySpec) -> Scope {
    if match_labels(spec).is_some() {
        Scope::WorkloadSelector
    } else if is_root(context, name) {
        Scope::Global
    } else {
        Scope::Namespace
    }
}

fn all_targets(spec: &AuthorizationPolicySpec) -> impl Iterator<Item = &PolicyTargetReference> {
    spec.target_refs.iter().chain(&spec.target_ref)
}

fn is_service(target: &PolicyTargetReference) -> bool {
    target.group.is_empty() && target.kind == "Service"
}

pub(super) fn target_services(
    policy: &ResourceName,
    object: &AuthorizationPolicyObject,
) -> impl Iterator<Item = ResourceName> {
    let enforced = !is_dry_run(object);
    let services = all_targets(&object.spec).filter(move |target| enforced && is_service(target));
    services.map(|target| ResourceName::new(Arc::clone(&policy.namespace), target.name.as_str()))
}

pub(super) fn allows_direct(context: &Context<'_>, service: &ResourceName) -> bool {
    let object = context.index.services.get(service);
    let annotations = object.and_then(|object| object.metadata.annotations.as_ref());
    let allow_direct = annotations.and_then(|annotations| annotations.get(labels::ALLOW_DIRECT));
    allow_direct.is_some_and(|value| value == "true")
}

fn targets(
    context: &Context<'_>,
    key: &ObjectKey,
    object: &AuthorizationPolicyObject,
    is_published: impl Fn(&ResourceName) -> bool,
    findings: &mut Findings,
) {
    for target in all_targets(&object.spec) {
        let (message, effect) = if is_dry_run(object) {
            let PolicyTargetReference { kind, name, .. } = target;
            let message = format!("{kind} {name}: only a waypoint could try out this policy");
            (message, "nothing evaluates it, nothing is enforced")
        } else {
            self::target(context, key, target, &is_published)
        };
        findings.add(
            key,
            Note {
                field: "spec.targetRefs",
                reason: Reason::UnsupportedField,
                message,
                effect,
            },
        );
    }
}

fn target(
    context: &Context<'_>,
    key: &ObjectKey,
    target: &PolicyTargetReference,
    is_published: impl Fn(&ResourceName) -> bool,
) -> (String, &'static str) {
    let PolicyTargetReference { kind, name, .. } = target;
    if !is_service(target) {
        let message =
            format!("{kind} {name} needs a waypoint or gateway, and this version runs none");
        return (
            message,
            "the policy has no effect here, as nothing of this kind takes traffic",
        );
    }
    let resource = ResourceName::new(key.namespace.as_str(), name.as_str());
    if !is_published(&resource) {
        let message = format!("Service {resource} does not exist");
        return (message, "the policy has no effect until it does");
    }
    let message = format!("Service {resource}: only a waypoint can judge a policy of a Service");
    if allows_direct(context, &resource) {
        return (
            message,
            "direct traffic passes unjudged, as weft.dev/allow-direct says",
        );
    }
    (
        message,
        "the Service refuses traffic that did not pass its waypoint",
    )
}
