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

use weft_k8s_api::security::{AuthorizationPolicySpec, PolicyAction, PolicyTargetReference};
use weft_k8s_api::{Kind, ObjectKey, labels};
use weft_types::{Action, AuthorizationPolicy, ResourceName, Scope, Service};

use super::Context;
use super::by_label::ByLabel;
use super::endpoints::selects;
use super::finding::{Findings, Note, Reason};
use super::member::{Member, namespace_must_exist};
use super::service::service_name;

/// Translates all; adds to each selected member the policy's name, and to services that one targets that they need their waypoint.
pub(super) fn policies(
    context: &Context<'_>,
    by_label: &ByLabel,
    members: &mut [Member],
    services: &mut [Service],
    findings: &mut Findings,
) -> Vec<AuthorizationPolicy> {
    let mut policies = Vec::new();
    for (name, object) in &context.index.authorizations {
        let kind = Kind::AuthorizationPolicy;
        let key = ObjectKey::new(kind, name.namespace.as_ref(), name.name.as_ref());
        namespace_must_exist(context, &key, findings);
        let spec = &object.spec;
        if spec.target_ref.is_some() || !spec.target_refs.is_empty() {
            targets(context, &key, spec, services, findings);
            continue;
        }
        let Some(action) = action(&key, spec.action, findings) else {
            continue;
        };
        let scope = scope(context, name, spec, by_label, members);
        policies.push(AuthorizationPolicy {
            name: name.clone(),
            scope,
            action,
            rules: rule::rules(&key, action, &spec.rules, findings),
            dry_run: is_dry_run(object.metadata.annotations.as_ref()),
        });
    }
    policies
}

fn is_dry_run(annotations: Option<&std::collections::BTreeMap<String, String>>) -> bool {
    let annotation = annotations.and_then(|annotations| annotations.get(labels::DRY_RUN));
    annotation.is_some_and(|value| value == "true")
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

/// Which workloads: those of the namespace, or of the mesh for the root namespace; with a selector each is told by name.
fn scope(
    context: &Context<'_>,
    name: &ResourceName,
    spec: &AuthorizationPolicySpec,
    by_label: &ByLabel,
    members: &mut [Member],
) -> Scope {
    let is_root = *name.namespace == *context.mesh.root_namespace;
    let selector = spec
        .selector
        .as_ref()
        .map(|selector| &selector.match_labels);
    let Some(selector) = selector.filter(|labels| !labels.is_empty()) else {
        return if is_root {
            Scope::Global
        } else {
            Scope::Namespace
        };
    };
    for position in by_label.candidates(selector) {
        let member = &mut members[*position];
        let in_scope = is_root || member.workload.namespace == name.namespace;
        if in_scope && selects(selector, &member.labels) {
            member.workload.authorization_policies.push(name.clone());
        }
    }
    Scope::WorkloadSelector
}

fn targets(
    context: &Context<'_>,
    key: &ObjectKey,
    spec: &AuthorizationPolicySpec,
    services: &mut [Service],
    findings: &mut Findings,
) {
    for target in spec.target_refs.iter().chain(&spec.target_ref) {
        let (message, effect) = self::target(context, key, target, services);
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
    services: &mut [Service],
) -> (String, &'static str) {
    let PolicyTargetReference { kind, name, .. } = target;
    if !(target.group.is_empty() && kind == "Service") {
        let message =
            format!("{kind} {name} needs a waypoint or gateway, and this version runs none");
        return (
            message,
            "the policy has no effect here, as nothing of this kind takes traffic",
        );
    }
    let resource = ResourceName::new(key.namespace.as_str(), name.as_str());
    let mesh_name = service_name(&resource);
    let position = services.binary_search_by(|service| service.name.cmp(&mesh_name));
    let Ok(position) = position else {
        let message = format!("Service {resource} does not exist");
        return (message, "the policy has no effect until it does");
    };
    let object = context.index.services.get(&resource);
    let annotations = object.and_then(|object| object.metadata.annotations.as_ref());
    let allow_direct = annotations.and_then(|annotations| annotations.get(labels::ALLOW_DIRECT));
    let message = format!("Service {resource}: only a waypoint can judge a policy of a Service");
    if allow_direct.is_some_and(|value| value == "true") {
        return (
            message,
            "direct traffic passes unjudged, as weft.dev/allow-direct says",
        );
    }
    services[position].requires_waypoint = true;
    (
        message,
        "the Service refuses traffic that did not pass its waypoint",
    )
}
