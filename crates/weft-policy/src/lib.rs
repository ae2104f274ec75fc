//! Who may connect: pure decisions about one connection under the policies of its destination.
//!
//! In: [`weft_types::AppliedPolicies`] once for each workload, then one [`Connection`] at a time. Out: a [`Decision`].
//! Not here: which policies apply to a workload (`weft-config`), waiting for a policy that has not arrived, closing connections.
//!
//! # Rules of evaluation
//!
//! The first that holds decides; the order of policies never matters:
//!
//! 1. a DENY policy matches: deny
//! 2. a policy applies that this program does not understand: deny
//! 3. the workload names a policy that has not arrived: hold. It might be a DENY, or the first ALLOW
//! 4. no ALLOW policy applies: allow
//! 5. an ALLOW policy matches: allow; else deny
//!
//! A policy matches when any of its rules does, a rule when all of its clauses do, a clause when any of its matches does,
//! a match when all of its non-empty fields hold, a field when any of its values does, a `not_` field when none does.
//! Nothing never matches: no rules, no matches, a match without fields. One exception, because Istio's `rules: [{}]`
//! means it: a rule without clauses matches every connection.
//!
//! # Peers without identity
//!
//! A plaintext peer has no principal, namespace or service account. No value of these fields holds for it, not even
//! [`weft_types::StringMatch::Presence`]; so a positive field fails and a `not_` field holds.
//! `DENY not_principals: [presence]` is therefore how PeerAuthentication STRICT refuses plaintext, and
//! `ALLOW not_namespaces: [x]` admits plaintext: who wants identities only has to ask for one.
//!
//! # Text and addresses
//!
//! Text is compared byte by byte; there is no regular expression, so no character of a pattern is special.
//! Principals are compared whole, trust domain included, without `spiffe://` on both sides.
//! A v4-mapped IPv6 address is its IPv4 address, in connections and in blocks; beyond that, families are separate
//! (`::/0` holds no IPv4 address).

#![forbid(unsafe_code)]

mod compiled;
mod connection;
mod decision;

mod field;

pub use compiled::{CompiledPolicies, authorize};
pub use connection::Connection;
pub use decision::{Decision, Outcome, Reason, Verdict};
