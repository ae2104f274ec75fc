//! `istio.security.Authorization`.
//!
//! Anything in a policy that this program does not know is an error, never skipped: a skipped condition widens an ALLOW or shrinks a DENY.
//! Because protobuf drops unknown fields silently, a policy also says which feature level its judge needs;
//! one above [`FEATURE_LEVEL`] is refused, and [`refused`] gives the policy to enforce in its place.

use ipnet::IpNet;
use weft_types::{
    Action, AuthorizationPolicy, Clause, Match, PolicyName, Rule, Scope, ServiceAccountMatch,
    StringMatch,
};

use crate::convert::extension;
use crate::convert::field::{self, Resource};
use crate::error::{ConvertError, Problem};
use crate::wire::security as wire;

/// Feature level of this program. Raised by one whenever a policy may carry a condition that older programs would not see.
pub const FEATURE_LEVEL: u32 = 1;

/// Reads a policy.
pub fn from_wire(message: &wire::Authorization) -> Result<AuthorizationPolicy, ConvertError> {
    let name = PolicyName::new(message.namespace.as_str(), message.name.as_str());
    let name_text = name.to_string();
    let resource = Resource(&name_text);
    resource.not_empty("name", &message.name)?;
    check_extensions(resource, message)?;
    let mut rules = Vec::with_capacity(message.rules.len());
    for rule in &message.rules {
        rules.push(self::rule(resource, rule)?);
    }
    Ok(AuthorizationPolicy {
        name,
        scope: match resource.enumeration("scope", message.scope)? {
            wire::Scope::Global => Scope::Global,
            wire::Scope::Namespace => Scope::Namespace,
            wire::Scope::WorkloadSelector => Scope::WorkloadSelector,
        },
        action: match resource.enumeration("action", message.action)? {
            wire::Action::Allow => Action::Allow,
            wire::Action::Deny => Action::Deny,
        },
        rules,
        dry_run: message.dry_run,
    })
}

/// What to enforce in place of a policy that [`from_wire`] refuses: the same name and scope, everything denied.
///
/// A policy whose scope is unknown too could be about any workload, so its stand-in is about every one.
pub fn refused(message: &wire::Authorization) -> AuthorizationPolicy {
    AuthorizationPolicy {
        name: PolicyName::new(message.namespace.as_str(), message.name.as_str()),
        scope: match wire::Scope::try_from(message.scope) {
            Ok(wire::Scope::Namespace) => Scope::Namespace,
            Ok(wire::Scope::WorkloadSelector) => Scope::WorkloadSelector,
            Ok(wire::Scope::Global) | Err(_) => Scope::Global,
        },
        action: Action::Deny,
        rules: vec![Rule::default()],
        dry_run: false,
    }
}

/// Writes a policy that a program of the given feature level or above can judge.
pub fn to_wire(policy: &AuthorizationPolicy, feature_level: u32) -> wire::Authorization {
    wire::Authorization {
        name: policy.name.name.to_string(),
        namespace: policy.name.namespace.to_string(),
        scope: match policy.scope {
            Scope::Global => wire::Scope::Global,
            Scope::Namespace => wire::Scope::Namespace,
            Scope::WorkloadSelector => wire::Scope::WorkloadSelector,
        }
        .into(),
        action: match policy.action {
            Action::Allow => wire::Action::Allow,
            Action::Deny => wire::Action::Deny,
        }
        .into(),
        rules: policy.rules.iter().map(rule_to_wire).collect(),
        dry_run: policy.dry_run,
        extensions: vec![extension::of_u32(extension::FEATURE_LEVEL, feature_level)],
    }
}

fn check_extensions(
    resource: Resource<'_>,
    message: &wire::Authorization,
) -> Result<(), ConvertError> {
    for item in &message.extensions {
        if item.name != extension::FEATURE_LEVEL {
            let problem = Problem::Unsupported(item.name.clone());
            return Err(resource.error("extensions", problem));
        }
        let needed = extension::to_u32(resource, item)?;
        if needed > FEATURE_LEVEL {
            let problem = Problem::FeatureLevel {
                needed,
                supported: FEATURE_LEVEL,
            };
            return Err(resource.error("extensions", problem));
        }
    }
    Ok(())
}

fn rule(resource: Resource<'_>, message: &wire::Rule) -> Result<Rule, ConvertError> {
    let mut clauses = Vec::with_capacity(message.clauses.len());
    for clause in &message.clauses {
        let mut matches = Vec::with_capacity(clause.matches.len());
        for item in &clause.matches {
            matches.push(match_from_wire(resource, item)?);
        }
        clauses.push(Clause { matches });
    }
    Ok(Rule { clauses })
}

fn match_from_wire(resource: Resource<'_>, message: &wire::Match) -> Result<Match, ConvertError> {
    if let Some(item) = message.extensions.first() {
        let problem = Problem::Unsupported(item.name.clone());
        return Err(resource.error("match.extensions", problem));
    }
    let texts = |field: &str, values: &[wire::StringMatch]| {
        let convert = |value| string_match(resource, field, value);
        values.iter().map(convert).collect::<Result<Vec<_>, _>>()
    };
    let blocks = |field: &str, values: &[wire::Address]| {
        let convert = |value: &wire::Address| resource.block(field, &value.address, value.length);
        values.iter().map(convert).collect::<Result<Vec<_>, _>>()
    };
    let ports = |field: &str, values: &[u32]| {
        let convert = |value: &u32| resource.port_not_zero(field, *value);
        values.iter().map(convert).collect::<Result<Vec<_>, _>>()
    };
    let accounts = |field: &str, values: &[wire::ServiceAccountMatch]| {
        let convert = |value| service_account(resource, field, value);
        values.iter().map(convert).collect::<Result<Vec<_>, _>>()
    };
    Ok(Match {
        namespaces: texts("namespaces", &message.namespaces)?,
        not_namespaces: texts("not_namespaces", &message.not_namespaces)?,
        principals: texts("principals", &message.principals)?,
        not_principals: texts("not_principals", &message.not_principals)?,
        source_ips: blocks("source_ips", &message.source_ips)?,
        not_source_ips: blocks("not_source_ips", &message.not_source_ips)?,
        destination_ips: blocks("destination_ips", &message.destination_ips)?,
        not_destination_ips: blocks("not_destination_ips", &message.not_destination_ips)?,
        destination_ports: ports("destination_ports", &message.destination_ports)?,
        not_destination_ports: ports("not_destination_ports", &message.not_destination_ports)?,
        service_accounts: accounts("service_accounts", &message.service_accounts)?,
        not_service_accounts: accounts("not_service_accounts", &message.not_service_accounts)?,
    })
}

fn string_match(
    resource: Resource<'_>,
    field: &str,
    message: &wire::StringMatch,
) -> Result<StringMatch, ConvertError> {
    use wire::string_match::MatchType;
    match &message.match_type {
        Some(MatchType::Exact(text)) => Ok(StringMatch::Exact(text.clone())),
        Some(MatchType::Prefix(text)) => Ok(StringMatch::Prefix(text.clone())),
        Some(MatchType::Suffix(text)) => Ok(StringMatch::Suffix(text.clone())),
        Some(MatchType::Presence(())) => Ok(StringMatch::Presence),
        // A kind of match that this program does not know arrives as none at all.
        None => Err(resource.error(field, Problem::Missing)),
    }
}

fn service_account(
    resource: Resource<'_>,
    field: &str,
    message: &wire::ServiceAccountMatch,
) -> Result<ServiceAccountMatch, ConvertError> {
    Ok(ServiceAccountMatch {
        namespace: resource.not_empty(field, &message.namespace)?.to_owned(),
        service_account: resource
            .not_empty(field, &message.service_account)?
            .to_owned(),
    })
}

fn rule_to_wire(rule: &Rule) -> wire::Rule {
    let clause = |clause: &Clause| wire::Clause {
        matches: clause.matches.iter().map(match_to_wire).collect(),
    };
    wire::Rule {
        clauses: rule.clauses.iter().map(clause).collect(),
    }
}

fn match_to_wire(item: &Match) -> wire::Match {
    let texts = |values: &[StringMatch]| values.iter().map(string_to_wire).collect();
    let blocks = |values: &[IpNet]| values.iter().map(block_to_wire).collect();
    let ports = |values: &[u16]| values.iter().copied().map(u32::from).collect();
    let accounts = |values: &[ServiceAccountMatch]| {
        let account = |value: &ServiceAccountMatch| wire::ServiceAccountMatch {
            namespace: value.namespace.clone(),
            service_account: value.service_account.clone(),
        };
        values.iter().map(account).collect()
    };
    wire::Match {
        namespaces: texts(&item.namespaces),
        not_namespaces: texts(&item.not_namespaces),
        principals: texts(&item.principals),
        not_principals: texts(&item.not_principals),
        source_ips: blocks(&item.source_ips),
        not_source_ips: blocks(&item.not_source_ips),
        destination_ips: blocks(&item.destination_ips),
        not_destination_ips: blocks(&item.not_destination_ips),
        destination_ports: ports(&item.destination_ports),
        not_destination_ports: ports(&item.not_destination_ports),
        service_accounts: accounts(&item.service_accounts),
        not_service_accounts: accounts(&item.not_service_accounts),
        extensions: Vec::new(),
    }
}

fn string_to_wire(value: &StringMatch) -> wire::StringMatch {
    use wire::string_match::MatchType;
    let match_type = match value {
        StringMatch::Exact(text) => MatchType::Exact(text.clone()),
        StringMatch::Prefix(text) => MatchType::Prefix(text.clone()),
        StringMatch::Suffix(text) => MatchType::Suffix(text.clone()),
        StringMatch::Presence => MatchType::Presence(()),
    };
    wire::StringMatch {
        match_type: Some(match_type),
    }
}

fn block_to_wire(block: &IpNet) -> wire::Address {
    wire::Address {
        address: field::address_bytes(block.addr()),
        length: block.prefix_len().into(),
    }
}
