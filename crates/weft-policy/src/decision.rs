//! What became of a connection, and by whose word.

use std::fmt;

use weft_types::PolicyName;

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It goes on.
    Allow,
    /// It is refused.
    Deny,
    /// It waits, for a bounded time, for a policy to arrive; then it is refused.
    Hold,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason<'p> {
    /// This DENY policy matched by this rule (counted from 0).
    Denied(&'p PolicyName, usize),
    /// This policy applies and is not understood.
    Broken(&'p PolicyName),
    /// This policy is named by the workload and has not arrived.
    Missing(&'p PolicyName),
    /// No ALLOW policy applies.
    NoAllowPolicy,
    /// This ALLOW policy matched by this rule (counted from 0).
    Allowed(&'p PolicyName, usize),
    /// ALLOW policies apply, and none of them matched.
    NotAllowed,
}

/// A verdict with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outcome<'p> {
    /// What happens.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason<'p>,
}

/// The answer to one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decision<'p> {
    /// What happens.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason<'p>,
    /// What would happen if dry-run policies were enforced too; None when there is none.
    pub dry_run: Option<Outcome<'p>>,
}

impl Reason<'_> {
    /// What follows from the reason.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::NoAllowPolicy | Self::Allowed(..) => Verdict::Allow,
            Self::Denied(..) | Self::Broken(_) | Self::NotAllowed => Verdict::Deny,
            Self::Missing(_) => Verdict::Hold,
        }
    }

    /// The policy that decided, if it was one.
    pub fn policy(&self) -> Option<&PolicyName> {
        match self {
            Self::Denied(name, _)
            | Self::Broken(name)
            | Self::Missing(name)
            | Self::Allowed(name, _) => Some(name),
            Self::NoAllowPolicy | Self::NotAllowed => None,
        }
    }
}

/// For logs: says what to look at.
impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(name, rule) => write!(f, "denied by policy {name}, rule {rule}"),
            Self::Broken(name) => write!(f, "policy {name} is not understood, check its status"),
            Self::Missing(name) => write!(f, "policy {name} has not arrived"),
            Self::NoAllowPolicy => f.write_str("no allow policy applies"),
            Self::Allowed(name, rule) => write!(f, "allowed by policy {name}, rule {rule}"),
            Self::NotAllowed => f.write_str("no allow policy matched"),
        }
    }
}
