//! `security.istio.io`: AuthorizationPolicy and PeerAuthentication, as Istio's API defines them.
//!
//! Fields that only a waypoint can judge are read too: refusing to read them would not say what is denied instead.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use crate::value::{IpBlock, Port, PortText};

/// Who may connect.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationPolicy {
    /// Always `security.istio.io/v1` or `v1beta1`, checked before.
    pub api_version: String,
    /// Always `AuthorizationPolicy`.
    pub kind: String,
    /// Name, namespace, labels.
    pub metadata: ObjectMeta,
    /// What it says; without it: ALLOW with no rule, which allows nothing.
    #[serde(default)]
    pub spec: AuthorizationPolicySpec,
    /// Written by other controllers; not read.
    pub status: Option<serde_json::Value>,
}

/// What an AuthorizationPolicy says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationPolicySpec {
    /// Workloads by labels; none: all of the namespace.
    pub selector: Option<WorkloadSelector>,
    /// A resource that a waypoint serves (older form).
    pub target_ref: Option<PolicyTargetReference>,
    /// Resources that a waypoint serves.
    #[serde(default)]
    pub target_refs: Vec<PolicyTargetReference>,
    /// Alternatives; none never matches.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// What a match means.
    #[serde(default)]
    pub action: PolicyAction,
    /// Who decides, for CUSTOM.
    pub provider: Option<ExtensionProvider>,
}

/// What a match means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PolicyAction {
    /// Allowed.
    #[default]
    Allow,
    /// Denied.
    Deny,
    /// Recorded.
    Audit,
    /// Somebody else decides.
    Custom,
}

/// Who decides, for CUSTOM.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ExtensionProvider {
    /// Name in the mesh settings.
    pub name: String,
}

/// Workloads by labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// All must be there with these values.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
}

/// A resource that a policy is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PolicyTargetReference {
    /// API group; empty for the core one.
    #[serde(default)]
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace; only that of the policy is legal.
    pub namespace: Option<String>,
}

/// All of `from`, `to`, `when` must match.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Rule {
    /// Any of these sources.
    #[serde(default)]
    pub from: Vec<From>,
    /// Any of these operations.
    #[serde(default)]
    pub to: Vec<To>,
    /// All of these conditions.
    #[serde(default)]
    pub when: Vec<Condition>,
}

/// Wraps a source, as the API does.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct From {
    /// The source.
    pub source: Source,
}

/// Wraps an operation, as the API does.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct To {
    /// The operation.
    pub operation: Operation,
}

/// Who asks: all fields that are given must match.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Source {
    /// Identities without `spiffe://`.
    pub principals: Vec<String>,
    /// None of these.
    pub not_principals: Vec<String>,
    /// End users by token; L7.
    pub request_principals: Vec<String>,
    /// None of these; L7.
    pub not_request_principals: Vec<String>,
    /// Namespaces of the identity.
    pub namespaces: Vec<String>,
    /// None of these.
    pub not_namespaces: Vec<String>,
    /// `namespace/account`, or an account of the policy's namespace.
    pub service_accounts: Vec<String>,
    /// None of these.
    pub not_service_accounts: Vec<String>,
    /// Addresses of the TCP peer.
    pub ip_blocks: Vec<IpBlock>,
    /// None of these.
    pub not_ip_blocks: Vec<IpBlock>,
    /// Addresses by `X-Forwarded-For` or PROXY protocol; L7.
    pub remote_ip_blocks: Vec<IpBlock>,
    /// None of these; L7.
    pub not_remote_ip_blocks: Vec<IpBlock>,
    /// Trust domains of the identity.
    pub trust_domains: Vec<String>,
    /// None of these.
    pub not_trust_domains: Vec<String>,
}

/// What is asked for: all fields that are given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Operation {
    /// HTTP hosts; L7.
    pub hosts: Vec<String>,
    /// None of these; L7.
    pub not_hosts: Vec<String>,
    /// Ports of the workload.
    pub ports: Vec<PortText>,
    /// None of these.
    pub not_ports: Vec<PortText>,
    /// HTTP methods; L7.
    pub methods: Vec<String>,
    /// None of these; L7.
    pub not_methods: Vec<String>,
    /// HTTP paths; L7.
    pub paths: Vec<String>,
    /// None of these; L7.
    pub not_paths: Vec<String>,
}

/// A condition on an attribute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Name of the attribute.
    pub key: String,
    /// Any of these.
    #[serde(default)]
    pub values: Vec<String>,
    /// None of these.
    #[serde(default)]
    pub not_values: Vec<String>,
}

/// Whether plaintext is accepted.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerAuthentication {
    /// Always `security.istio.io/v1` or `v1beta1`, checked before.
    pub api_version: String,
    /// Always `PeerAuthentication`.
    pub kind: String,
    /// Name, namespace, labels.
    pub metadata: ObjectMeta,
    /// What it says.
    #[serde(default)]
    pub spec: PeerAuthenticationSpec,
    /// Written by other controllers; not read.
    pub status: Option<serde_json::Value>,
}

/// What a PeerAuthentication says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerAuthenticationSpec {
    /// Workloads by labels; none: all of the namespace.
    pub selector: Option<WorkloadSelector>,
    /// Mode of every port.
    pub mtls: Option<MutualTls>,
    /// Mode of single ports of the workload.
    #[serde(default)]
    pub port_level_mtls: BTreeMap<Port, MutualTls>,
}

/// Wraps a mode, as the API does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct MutualTls {
    /// The mode.
    #[serde(default)]
    pub mode: MutualTlsMode,
}

/// Whether plaintext is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MutualTlsMode {
    /// As the next wider policy says.
    #[default]
    Unset,
    /// No mTLS; the mesh cannot switch its tunnel off for one workload.
    Disable,
    /// Both.
    Permissive,
    /// Only mTLS.
    Strict,
}
