//! One pair: a policy set with the workload that it is about, and a connection to that workload.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use weft_config::{BrokenPolicy, PolicyEntry, SnapshotBuilder};
use weft_policy::{CompiledPolicies, Connection, Verdict};
use weft_proto::convert::workload;
use weft_proto::wire::workload::Workload;
use weft_types::{
    Action, AuthorizationPolicy, Match, PolicyName, Rule, Scope, ServiceAccountMatch, SpiffeId,
    StringMatch,
};

/// A pair.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// Policies of the whole mesh, those that do not apply included.
    pub(crate) policies: Vec<AuthorizationPolicy>,
    /// Policies that arrived and are not understood.
    pub(crate) broken: Vec<(PolicyName, Scope)>,
    /// Namespace of the workload.
    pub(crate) namespace: &'static str,
    /// Policies that the workload names.
    pub(crate) named: Vec<PolicyName>,
    /// Identity of the peer.
    pub(crate) identity: Option<SpiffeId>,
    /// Address of the peer.
    pub(crate) source: IpAddr,
    /// Address asked for.
    pub(crate) destination: IpAddr,
    /// Port asked for.
    pub(crate) port: u16,
}

/// What an evaluator says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// What happens.
    pub(crate) verdict: String,
    /// What would happen with dry-run policies enforced.
    pub(crate) dry_run: String,
}

impl Question {
    /// Our answer, the way that a proxy comes to it.
    pub(crate) fn answer(&self) -> Answer {
        let mut builder = SnapshotBuilder::new();
        for policy in &self.policies {
            builder.put_policy(PolicyEntry::Good(Arc::new(policy.clone())));
        }
        for (name, scope) in &self.broken {
            builder.put_policy(PolicyEntry::Broken(Arc::new(BrokenPolicy {
                name: name.clone(),
                scope: *scope,
                reason: "drawn".into(),
            })));
        }
        let message = Workload {
            uid: "Kubernetes//Pod/x/x".to_owned(),
            namespace: self.namespace.to_owned(),
            authorization_policies: self.named.iter().map(ToString::to_string).collect(),
            ..Workload::default()
        };
        let workload = workload::from_wire(&message).unwrap();
        let compiled = CompiledPolicies::compile(&builder.build().policies_for(&workload));
        let decision = compiled.authorize(&Connection {
            source_identity: self.identity.as_ref(),
            source_ip: self.source,
            destination_ip: self.destination,
            destination_port: self.port,
        });
        let word = |verdict: Verdict| {
            match verdict {
                Verdict::Allow => "allow",
                Verdict::Deny => "deny",
                Verdict::Hold => "hold",
            }
            .to_owned()
        };
        let dry_run = decision
            .dry_run
            .map_or(decision.verdict, |outcome| outcome.verdict);
        Answer {
            verdict: word(decision.verdict),
            dry_run: word(dry_run),
        }
    }

    /// The pair in the words of the other evaluator.
    pub(crate) fn to_json(&self) -> Value {
        let broken = |(name, scope): &(PolicyName, Scope)| {
            json!({
                "namespace": &*name.namespace,
                "name": &*name.name,
                "scope": scope_word(*scope),
            })
        };
        json!({
            "policies": self.policies.iter().map(policy).collect::<Vec<_>>(),
            "broken": self.broken.iter().map(broken).collect::<Vec<_>>(),
            "workload": {
                "namespace": self.namespace,
                "policies": texts(&self.named),
            },
            "connection": {
                "source_identity": self.identity.as_ref().map(ToString::to_string),
                "source_ip": self.source.to_string(),
                "destination_ip": self.destination.to_string(),
                "destination_port": self.port,
            },
        })
    }
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

fn scope_word(scope: Scope) -> &'static str {
    match scope {
        Scope::Global => "global",
        Scope::Namespace => "namespace",
        Scope::WorkloadSelector => "workload_selector",
    }
}

fn policy(policy: &AuthorizationPolicy) -> Value {
    json!({
        "namespace": &*policy.name.namespace,
        "name": &*policy.name.name,
        "scope": scope_word(policy.scope),
        "action": match policy.action {
            Action::Allow => "allow",
            Action::Deny => "deny",
        },
        "dry_run": policy.dry_run,
        "rules": policy.rules.iter().map(rule).collect::<Vec<_>>(),
    })
}

fn rule(rule: &Rule) -> Value {
    let clauses = rule.clauses.iter().map(|clause| {
        let matches: Vec<Value> = clause.matches.iter().map(match_).collect();
        json!({ "matches": matches })
    });
    json!({ "clauses": clauses.collect::<Vec<_>>() })
}

fn match_(item: &Match) -> Value {
    json!({
        "namespaces": patterns(&item.namespaces),
        "not_namespaces": patterns(&item.not_namespaces),
        "principals": patterns(&item.principals),
        "not_principals": patterns(&item.not_principals),
        "source_ips": texts(&item.source_ips),
        "not_source_ips": texts(&item.not_source_ips),
        "destination_ips": texts(&item.destination_ips),
        "not_destination_ips": texts(&item.not_destination_ips),
        "destination_ports": item.destination_ports,
        "not_destination_ports": item.not_destination_ports,
        "service_accounts": accounts(&item.service_accounts),
        "not_service_accounts": accounts(&item.not_service_accounts),
    })
}

fn patterns(patterns: &[StringMatch]) -> Vec<Value> {
    let pattern = |pattern: &StringMatch| match pattern {
        StringMatch::Exact(text) => json!({ "exact": text }),
        StringMatch::Prefix(text) => json!({ "prefix": text }),
        StringMatch::Suffix(text) => json!({ "suffix": text }),
        StringMatch::Presence => json!({ "presence": "" }),
    };
    patterns.iter().map(pattern).collect()
}

fn accounts(accounts: &[ServiceAccountMatch]) -> Vec<Value> {
    let account = |one: &ServiceAccountMatch| json!({ "namespace": one.namespace, "service_account": one.service_account });
    accounts.iter().map(account).collect()
}
