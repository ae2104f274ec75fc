//! Authorization policies at L4 (`istio.security.Authorization`).
//!
//! ```text
//! policy = any of its rules       rule  = all of its clauses
//! clause = any of its matches     match = all of its non-empty fields
//! field  = any of its values; a `not_` field: none of its values
//! ```

use std::sync::Arc;

use ipnet::IpNet;

use crate::name::PolicyName;

/// The policies that apply to one workload, with those of them that cannot be judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppliedPolicies {
    /// Those that can be judged, in no particular order.
    pub policies: Vec<Arc<AuthorizationPolicy>>,
    /// Named by the workload, but not arrived yet: the connection is held, then refused.
    pub missing: Vec<PolicyName>,
    /// Arrived in a form that this program does not understand: the connection is refused.
    pub broken: Vec<PolicyName>,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// Namespace and name.
    pub name: PolicyName,
    /// Which workloads it applies to.
    pub scope: Scope,
    /// What a matching rule means.
    pub action: Action,
    /// Alternatives; an empty list never matches.
    pub rules: Vec<Rule>,
    /// Only reported, never enforced.
    pub dry_run: bool,
}

/// Which workloads a policy applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All.
    Global,
    /// Those of its namespace.
    Namespace,
    /// Those that name it.
    WorkloadSelector,
}

/// What a matching rule means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The connection is allowed, unless a DENY matches as well.
    Allow,
    /// The connection is refused.
    Deny,
}

/// All clauses must match; a rule without clauses matches every connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// What must hold.
    pub clauses: Vec<Clause>,
}

/// Any match is enough; a clause without matches never matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clause {
    /// Alternatives.
    pub matches: Vec<Match>,
}

/// All non-empty fields must hold; a match without any field never matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Source namespace, from the verified identity.
    pub namespaces: Vec<StringMatch>,
    /// None of these.
    pub not_namespaces: Vec<StringMatch>,
    /// Source identity without `spiffe://`.
    pub principals: Vec<StringMatch>,
    /// None of these.
    pub not_principals: Vec<StringMatch>,
    /// Address of the TCP peer.
    pub source_ips: Vec<IpNet>,
    /// None of these.
    pub not_source_ips: Vec<IpNet>,
    /// Address asked for.
    pub destination_ips: Vec<IpNet>,
    /// None of these.
    pub not_destination_ips: Vec<IpNet>,
    /// Port asked for.
    pub destination_ports: Vec<u16>,
    /// None of these.
    pub not_destination_ports: Vec<u16>,
    /// Source service account.
    pub service_accounts: Vec<ServiceAccountMatch>,
    /// None of these.
    pub not_service_accounts: Vec<ServiceAccountMatch>,
}

/// A comparison of text; there is no regular expression in identity matching, on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// Equal.
    Exact(String),
    /// Starts with.
    Prefix(String),
    /// Ends with.
    Suffix(String),
    /// Not empty.
    Presence,
}

/// A service account, both parts exact.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceAccountMatch {
    /// Namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
}
