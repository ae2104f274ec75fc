//! Policies: what Istio's own admission refuses, because a policy that says nothing is a mistake.

use super::Problems;
use crate::names::is_dns_subdomain;
use crate::security::{
    AuthorizationPolicy, Condition, Operation, PeerAuthentication, PolicyAction, Rule, Source,
    WorkloadSelector,
};

/// The attributes that a condition may name, besides those in brackets.
const CONDITION_KEYS: [&str; 13] = [
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.serviceaccount",
    "source.trustDomain",
    "destination.ip",
    "destination.port",
    "connection.sni",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
];

pub(super) fn authorization(problems: &mut Problems, policy: &AuthorizationPolicy) {
    let spec = &policy.spec;
    selector(problems, spec.selector.as_ref());
    if spec.selector.is_some() && (spec.target_ref.is_some() || !spec.target_refs.is_empty()) {
        problems.add(
            "spec.targetRefs",
            "selector and targetRefs exclude each other",
        );
    }
    match (spec.action, &spec.provider) {
        (PolicyAction::Custom, None) => problems.add("spec.provider", "missing for action CUSTOM"),
        (PolicyAction::Custom, Some(_)) | (_, None) => {}
        (_, Some(_)) => problems.add("spec.provider", "is for action CUSTOM only"),
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        self::rule(problems, &format!("spec.rules[{index}]"), rule);
    }
}

pub(super) fn peer(problems: &mut Problems, policy: &PeerAuthentication) {
    selector(problems, policy.spec.selector.as_ref());
    let selects = policy
        .spec
        .selector
        .as_ref()
        .is_some_and(|selector| !selector.match_labels.is_empty());
    if !policy.spec.port_level_mtls.is_empty() && !selects {
        let message = "needs a selector: ports are those of workloads";
        problems.add("spec.portLevelMtls", message);
    }
}

fn selector(problems: &mut Problems, selector: Option<&WorkloadSelector>) {
    for key in selector
        .iter()
        .flat_map(|selector| selector.match_labels.keys())
    {
        if key.is_empty() || key.contains('*') {
            let message = format!("{key:?} is not a label");
            problems.add("spec.selector.matchLabels", message);
        }
    }
}

fn rule(problems: &mut Problems, field: &str, rule: &Rule) {
    for (index, from) in rule.from.iter().enumerate() {
        source(
            problems,
            &format!("{field}.from[{index}].source"),
            &from.source,
        );
    }
    for (index, to) in rule.to.iter().enumerate() {
        let field = format!("{field}.to[{index}].operation");
        if to.operation == Operation::default() {
            problems.add(&field, "empty: name what is asked for, or leave `to` out");
        }
        let Operation {
            hosts,
            not_hosts,
            ports: _,
            not_ports: _,
            methods,
            not_methods,
            paths,
            not_paths,
        } = &to.operation;
        no_empty_text(problems, &field, "hosts", hosts);
        no_empty_text(problems, &field, "notHosts", not_hosts);
        no_empty_text(problems, &field, "methods", methods);
        no_empty_text(problems, &field, "notMethods", not_methods);
        no_empty_text(problems, &field, "paths", paths);
        no_empty_text(problems, &field, "notPaths", not_paths);
    }
    for (index, when) in rule.when.iter().enumerate() {
        condition(problems, &format!("{field}.when[{index}]"), when);
    }
}

fn source(problems: &mut Problems, field: &str, source: &Source) {
    if *source == Source::default() {
        problems.add(field, "empty: name a source, or leave `from` out");
    }
    no_empty_text(problems, field, "principals", &source.principals);
    no_empty_text(problems, field, "notPrincipals", &source.not_principals);
    no_empty_text(
        problems,
        field,
        "requestPrincipals",
        &source.request_principals,
    );
    no_empty_text(
        problems,
        field,
        "notRequestPrincipals",
        &source.not_request_principals,
    );
    no_empty_text(problems, field, "namespaces", &source.namespaces);
    no_empty_text(problems, field, "notNamespaces", &source.not_namespaces);
    no_empty_text(problems, field, "trustDomains", &source.trust_domains);
    no_empty_text(
        problems,
        field,
        "notTrustDomains",
        &source.not_trust_domains,
    );
    let accounts = [
        ("serviceAccounts", &source.service_accounts),
        ("notServiceAccounts", &source.not_service_accounts),
    ];
    for (name, values) in accounts {
        for (index, account) in values.iter().enumerate() {
            if !is_account(account) {
                let message = format!("{account:?} is not account or namespace/account, without *");
                problems.add(format!("{field}.{name}[{index}]"), message);
            }
        }
    }
    let by_account = accounts.iter().any(|(_, values)| !values.is_empty());
    let by_identity = [
        &source.principals,
        &source.not_principals,
        &source.namespaces,
        &source.not_namespaces,
    ];
    if by_account && by_identity.iter().any(|values| !values.is_empty()) {
        let message = "cannot be combined with principals or namespaces";
        problems.add(format!("{field}.serviceAccounts"), message);
    }
}

fn is_account(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    parts.len() <= 2 && parts.iter().all(|part| is_dns_subdomain(part))
}

fn condition(problems: &mut Problems, field: &str, condition: &Condition) {
    let key = condition.key.as_str();
    let known = CONDITION_KEYS.contains(&key)
        || [
            "request.headers[",
            "request.auth.claims[",
            "experimental.envoy.filters.",
        ]
        .iter()
        .any(|prefix| key.starts_with(prefix));
    if !known {
        let hint = crate::decode::nearest(key, &CONDITION_KEYS)
            .map(|known| format!(", did you mean {known}?"))
            .unwrap_or_default();
        problems.add(
            format!("{field}.key"),
            format!("unknown attribute {key:?}{hint}"),
        );
    }
    if condition.values.is_empty() && condition.not_values.is_empty() {
        problems.add(field, "needs values or notValues");
    }
    no_empty_text(problems, field, "values", &condition.values);
    no_empty_text(problems, field, "notValues", &condition.not_values);
    let values = condition.values.iter().chain(&condition.not_values);
    for value in values {
        let legal = match key {
            "source.ip" | "remote.ip" | "destination.ip" => {
                value.parse::<crate::value::IpBlock>().map(|_| ())
            }
            "destination.port" => value.parse::<crate::value::PortText>().map(|_| ()),
            _ => Ok(()),
        };
        if let Err(error) = legal {
            problems.add(field, error.to_string());
        }
    }
}

fn no_empty_text(problems: &mut Problems, field: &str, name: &str, values: &[String]) {
    for (index, value) in values.iter().enumerate() {
        if value.is_empty() {
            problems.add(format!("{field}.{name}[{index}]"), "empty text");
        }
    }
}
