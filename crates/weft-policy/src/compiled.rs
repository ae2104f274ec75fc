//! Policies of one workload in the form that is fast to check: no allocation and no lock for a connection.

use weft_types::{Action, AppliedPolicies, AuthorizationPolicy, PolicyName};

use crate::connection::Connection;
use crate::decision::{Decision, Outcome, Reason, Verdict};
use crate::field::Field;

/// The policies of one workload, to be made once for each of their versions.
#[derive(Clone, Debug, Default)]
pub struct CompiledPolicies {
    enforced: Set,
    /// Enforced and dry-run policies together; None without any of the latter.
    with_dry_run: Option<Set>,
}

/// Policies that count together.
#[derive(Clone, Debug, Default)]
struct Set {
    deny: Box<[Policy]>,
    allow: Box<[Policy]>,
    broken: Box<[PolicyName]>,
    missing: Box<[PolicyName]>,
}

#[derive(Clone, Debug)]
struct Policy {
    name: PolicyName,
    rules: Box<[Rule]>,
}

/// All clauses, of each any match, of that all fields. A match without fields is left out here,
/// so that it matches nothing; the clause that held it stays, so that its rule does not grow wider.
#[derive(Clone, Debug)]
struct Rule {
    clauses: Box<[Box<[Fields]>]>,
}

/// Never empty.
type Fields = Box<[Field]>;

/// Judges one connection without keeping the compiled form: for tests and tools.
///
/// The reason is dropped because it would borrow what is compiled here.
pub fn authorize(connection: &Connection<'_>, policies: &AppliedPolicies) -> Verdict {
    CompiledPolicies::compile(policies)
        .authorize(connection)
        .verdict
}

impl CompiledPolicies {
    /// Compiles the policies that apply to a workload.
    pub fn compile(applied: &AppliedPolicies) -> Self {
        let dry_run = applied.policies.iter().any(|policy| policy.dry_run);
        Self {
            enforced: Set::compile(applied, |policy| !policy.dry_run),
            with_dry_run: dry_run.then(|| Set::compile(applied, |_| true)),
        }
    }

    /// Judges one connection. Costs no allocation; of every list of values one binary search.
    pub fn authorize(&self, connection: &Connection<'_>) -> Decision<'_> {
        let connection = connection.canonical();
        let reason = self.enforced.judge(&connection);
        Decision {
            verdict: reason.verdict(),
            reason,
            dry_run: self.with_dry_run.as_ref().map(|set| {
                let reason = set.judge(&connection);
                Outcome {
                    verdict: reason.verdict(),
                    reason,
                }
            }),
        }
    }

    /// Whether every connection is allowed, so that nobody needs to be asked.
    pub fn allows_everything(&self) -> bool {
        let Set {
            deny,
            allow,
            broken,
            missing,
        } = &self.enforced;
        let nothing =
            deny.is_empty() && allow.is_empty() && broken.is_empty() && missing.is_empty();
        nothing && self.with_dry_run.is_none()
    }

    /// Policies that the workload names and that have not arrived.
    pub fn missing(&self) -> &[PolicyName] {
        &self.enforced.missing
    }
}

impl Set {
    fn compile(applied: &AppliedPolicies, take: impl Fn(&AuthorizationPolicy) -> bool) -> Self {
        let of_action = |action| {
            let mut policies: Vec<Policy> = applied
                .policies
                .iter()
                .filter(|policy| policy.action == action && take(policy))
                .map(|policy| Policy::compile(policy))
                .collect();
            // The reason given does not depend on the order of arrival.
            policies.sort_by(|a, b| a.name.cmp(&b.name));
            policies.into_boxed_slice()
        };
        Self {
            deny: of_action(Action::Deny),
            allow: of_action(Action::Allow),
            broken: applied.broken.clone().into_boxed_slice(),
            missing: applied.missing.clone().into_boxed_slice(),
        }
    }

    fn judge(&self, connection: &Connection<'_>) -> Reason<'_> {
        if let Some((name, rule)) = first_match(&self.deny, connection) {
            return Reason::Denied(name, rule);
        }
        if let Some(name) = self.broken.first() {
            return Reason::Broken(name);
        }
        if let Some(name) = self.missing.first() {
            return Reason::Missing(name);
        }
        if self.allow.is_empty() {
            return Reason::NoAllowPolicy;
        }
        match first_match(&self.allow, connection) {
            Some((name, rule)) => Reason::Allowed(name, rule),
            None => Reason::NotAllowed,
        }
    }
}

fn first_match<'p>(
    policies: &'p [Policy],
    connection: &Connection<'_>,
) -> Option<(&'p PolicyName, usize)> {
    policies.iter().find_map(|policy| {
        let mut rules = policy.rules.iter();
        let rule = rules.position(|rule| rule.matches(connection))?;
        Some((&policy.name, rule))
    })
}

impl Policy {
    fn compile(policy: &AuthorizationPolicy) -> Self {
        let clause = |clause: &weft_types::Clause| {
            let fields = clause.matches.iter().map(Field::of_match);
            fields.filter(|fields| !fields.is_empty()).collect()
        };
        let rule = |rule: &weft_types::Rule| Rule {
            clauses: rule.clauses.iter().map(clause).collect(),
        };
        Self {
            name: policy.name.clone(),
            rules: policy.rules.iter().map(rule).collect(),
        }
    }
}

impl Rule {
    fn matches(&self, connection: &Connection<'_>) -> bool {
        self.clauses.iter().all(|clause| {
            let mut matches = clause.iter();
            matches.any(|fields| fields.iter().all(|field| field.holds(connection)))
        })
    }
}
