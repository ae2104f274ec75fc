//! Rules: from `from`, `to`, `when` to clauses. Pure; the table of what fails closed is in the parent.

use weft_k8s_api::ObjectKey;
use weft_k8s_api::security::{Condition, Operation, Rule as KubeRule, Source};
use weft_k8s_api::value::{IpBlock, PortText};
use weft_types::{Action, Clause, Match, Rule, ServiceAccountMatch, StringMatch};

use crate::translate::finding::{Findings, Note, Reason};

/// Translates the rules of a policy.
pub(super) fn rules(
    key: &ObjectKey,
    action: Action,
    rules: &[KubeRule],
    findings: &mut Findings,
) -> Vec<Rule> {
    let mut translated = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let mut reader = Reader {
            namespace: &key.namespace,
            unjudged: Vec::new(),
        };
        let alternatives = reader.rule(&format!("spec.rules[{index}]"), rule);
        let effect = match action {
            Action::Allow => "this rule allows nothing",
            Action::Deny => "taken as met: this rule denies whatever its other fields match",
        };
        for (field, message) in &reader.unjudged {
            let note = Note {
                field,
                reason: Reason::UnsupportedField,
                message: (*message).to_owned(),
                effect,
            };
            findings.add(key, note);
        }
        if action == Action::Deny || reader.unjudged.is_empty() {
            translated.extend(alternatives);
        }
    }
    translated
}

const NEEDS_WAYPOINT: &str = "only a waypoint can judge this";
const WILDCARD: &str = "a * is understood only alone, or as the first or the last character";

/// Reads one rule as if everything that cannot be judged were met, and lists it.
struct Reader<'a> {
    namespace: &'a str,
    /// Fields that cannot be judged, and why.
    unjudged: Vec<(String, &'static str)>,
}

impl Reader<'_> {
    /// Usually one rule; one for each source where a source needs several clauses of its own.
    fn rule(&mut self, field: &str, rule: &KubeRule) -> Vec<Rule> {
        let mut clauses = Vec::new();
        let mut operations = Vec::new();
        for (index, to) in rule.to.iter().enumerate() {
            let field = format!("{field}.to[{index}].operation");
            operations.push(self.operation(&field, &to.operation));
        }
        clauses.extend(any_of(operations));
        for (index, condition) in rule.when.iter().enumerate() {
            let field = format!("{field}.when[{index}]");
            let item = self.condition(&field, condition);
            clauses.extend(any_of(vec![item]));
        }
        let mut sources = Vec::new();
        for (index, from) in rule.from.iter().enumerate() {
            let field = format!("{field}.from[{index}].source");
            sources.push(self.source(&field, &from.source));
        }
        if sources.iter().all(|(_, domains)| domains.is_none()) {
            let sources = sources.into_iter().map(|(item, _)| item).collect();
            clauses.splice(0..0, any_of(sources));
            return vec![Rule { clauses }];
        }
        let each = sources.into_iter().map(|(item, domains)| {
            let own = [Some(item), domains].into_iter().flatten();
            let own = own.filter_map(|item| any_of(vec![item]));
            Rule {
                clauses: own.chain(clauses.iter().cloned()).collect(),
            }
        });
        each.collect()
    }

    /// A source; trust domains beside principals are a second match, as both are about the same text.
    fn source(&mut self, field: &str, source: &Source) -> (Match, Option<Match>) {
        let l7 = [
            ("requestPrincipals", !source.request_principals.is_empty()),
            (
                "notRequestPrincipals",
                !source.not_request_principals.is_empty(),
            ),
            ("remoteIpBlocks", !source.remote_ip_blocks.is_empty()),
            ("notRemoteIpBlocks", !source.not_remote_ip_blocks.is_empty()),
        ];
        self.note_l7(field, &l7);
        let principals = self.texts(field, "principals", &source.principals, principal);
        let domains = self.texts(field, "trustDomains", &source.trust_domains, trust_domain);
        let mut not_principals =
            self.texts(field, "notPrincipals", &source.not_principals, principal);
        let not_domains = self.texts(
            field,
            "notTrustDomains",
            &source.not_trust_domains,
            trust_domain,
        );
        not_principals.extend(not_domains);
        let (principals, extra) = if principals.is_empty() {
            (domains, Vec::new())
        } else {
            (principals, domains)
        };
        let item = Match {
            namespaces: self.texts(field, "namespaces", &source.namespaces, text),
            not_namespaces: self.texts(field, "notNamespaces", &source.not_namespaces, text),
            principals,
            not_principals,
            source_ips: blocks(&source.ip_blocks),
            not_source_ips: blocks(&source.not_ip_blocks),
            service_accounts: self.accounts(&source.service_accounts),
            not_service_accounts: self.accounts(&source.not_service_accounts),
            ..Match::default()
        };
        let extra = (!extra.is_empty()).then(|| Match {
            principals: extra,
            ..Match::default()
        });
        (item, extra)
    }

    fn operation(&mut self, field: &str, operation: &Operation) -> Match {
        let l7 = [
            ("hosts", !operation.hosts.is_empty()),
            ("notHosts", !operation.not_hosts.is_empty()),
            ("methods", !operation.methods.is_empty()),
            ("notMethods", !operation.not_methods.is_empty()),
            ("paths", !operation.paths.is_empty()),
            ("notPaths", !operation.not_paths.is_empty()),
        ];
        self.note_l7(field, &l7);
        let ports = |ports: &[PortText]| ports.iter().map(|port| port.0).collect();
        Match {
            destination_ports: ports(&operation.ports),
            not_destination_ports: ports(&operation.not_ports),
            ..Match::default()
        }
    }

    fn condition(&mut self, field: &str, condition: &Condition) -> Match {
        let Condition {
            key,
            values,
            not_values,
        } = condition;
        let mut item = Match::default();
        match key.as_str() {
            "source.ip" => {
                item.source_ips = parsed(values, |block: IpBlock| block.0);
                item.not_source_ips = parsed(not_values, |block: IpBlock| block.0);
            }
            "destination.ip" => {
                item.destination_ips = parsed(values, |block: IpBlock| block.0);
                item.not_destination_ips = parsed(not_values, |block: IpBlock| block.0);
            }
            "destination.port" => {
                item.destination_ports = parsed(values, |port: PortText| port.0);
                item.not_destination_ports = parsed(not_values, |port: PortText| port.0);
            }
            "source.namespace" => {
                item.namespaces = self.texts(field, "values", values, text);
                item.not_namespaces = self.texts(field, "notValues", not_values, text);
            }
            "source.principal" => {
                item.principals = self.texts(field, "values", values, principal);
                item.not_principals = self.texts(field, "notValues", not_values, principal);
            }
            "source.trustDomain" => {
                item.principals = self.texts(field, "values", values, trust_domain);
                item.not_principals = self.texts(field, "notValues", not_values, trust_domain);
            }
            "source.serviceAccount" | "source.serviceaccount" => {
                item.service_accounts = self.accounts(values);
                item.not_service_accounts = self.accounts(not_values);
            }
            _ => self.unjudged.push((format!("{field}.key"), NEEDS_WAYPOINT)),
        }
        item
    }

    fn note_l7(&mut self, field: &str, fields: &[(&str, bool)]) {
        let given = fields.iter().filter(|(_, given)| *given);
        let notes = given.map(|(name, _)| (format!("{field}.{name}"), NEEDS_WAYPOINT));
        self.unjudged.extend(notes);
    }

    /// All values of a field, or none of them when one cannot be judged.
    fn texts(
        &mut self,
        field: &str,
        name: &str,
        values: &[String],
        read: fn(&str) -> Option<StringMatch>,
    ) -> Vec<StringMatch> {
        let read: Option<Vec<StringMatch>> = values.iter().map(|value| read(value)).collect();
        read.unwrap_or_else(|| {
            self.unjudged.push((format!("{field}.{name}"), WILDCARD));
            Vec::new()
        })
    }

    /// `namespace/account`, or an account of the policy's own namespace.
    fn accounts(&self, values: &[String]) -> Vec<ServiceAccountMatch> {
        let account = |value: &String| {
            let (namespace, account) = value.split_once('/').unwrap_or((self.namespace, value));
            ServiceAccountMatch {
                namespace: namespace.to_owned(),
                service_account: account.to_owned(),
            }
        };
        values.iter().map(account).collect()
    }
}

/// A clause of alternatives; none where one of them asks for nothing, because then every connection meets it.
fn any_of(matches: Vec<Match>) -> Option<Clause> {
    let free = matches.iter().any(|item| *item == Match::default());
    (!free && !matches.is_empty()).then_some(Clause { matches })
}

fn text(value: &str) -> Option<StringMatch> {
    if value == "*" {
        return Some(StringMatch::Presence);
    }
    let read = if let Some(suffix) = value.strip_prefix('*') {
        (suffix, StringMatch::Suffix(suffix.to_owned()))
    } else if let Some(prefix) = value.strip_suffix('*') {
        (prefix, StringMatch::Prefix(prefix.to_owned()))
    } else {
        (value, StringMatch::Exact(value.to_owned()))
    };
    (!read.0.contains('*')).then_some(read.1)
}

/// Principals are compared without their scheme.
fn principal(value: &str) -> Option<StringMatch> {
    text(value.strip_prefix("spiffe://").unwrap_or(value))
}

/// A trust domain is how a principal starts.
fn trust_domain(value: &str) -> Option<StringMatch> {
    match text(value)? {
        StringMatch::Exact(domain) => Some(StringMatch::Prefix(format!("{domain}/"))),
        StringMatch::Prefix(start) => Some(StringMatch::Prefix(start)),
        StringMatch::Presence => Some(StringMatch::Presence),
        StringMatch::Suffix(_) => None,
    }
}

fn blocks(blocks: &[IpBlock]) -> Vec<ipnet::IpNet> {
    blocks.iter().map(|block| block.0).collect()
}

fn parsed<T: std::str::FromStr, U>(values: &[String], value_of: impl Fn(T) -> U) -> Vec<U> {
    let parse = |value: &String| {
        let value = value.parse().ok();
        value_of(value.expect("parsing checks the values of conditions"))
    };
    values.iter().map(parse).collect()
}
