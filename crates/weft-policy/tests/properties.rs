//! What must hold of every decision, over random policies and connections.
//!
//! The grammar is nasty on purpose: names that a regular expression would mix up, empty lists at every level,
//! stars at both ends, v4-mapped addresses, blocks at their edges, plaintext peers.

#![expect(
    clippy::unwrap_used,
    reason = "literals of the grammar parse, and a panic is the report of a test"
)]

use std::net::IpAddr;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use weft_policy::{CompiledPolicies, Connection, Reason, Verdict, authorize};
use weft_types::{
    Action, AppliedPolicies, AuthorizationPolicy, Clause, Match, PolicyName, Rule, Scope,
    ServiceAccountMatch, SpiffeId, StringMatch,
};

const WORDS: [&str; 6] = ["a.b", "a-b", "axb", "a", "b", "a.b.c"];

fn word() -> impl Strategy<Value = &'static str> {
    select(&WORDS)
}

fn identity() -> impl Strategy<Value = SpiffeId> {
    (select(&["td", "td.x", "tdx"]), word(), word()).prop_map(|(domain, namespace, account)| {
        format!("spiffe://{domain}/ns/{namespace}/sa/{account}")
            .parse()
            .unwrap()
    })
}

fn text() -> impl Strategy<Value = StringMatch> {
    let pattern = prop_oneof![
        word().prop_map(str::to_owned),
        identity().prop_map(|id| id.principal()),
        identity().prop_map(|id| id.to_string()),
        select(&["td/ns/a", "/sa/a.b", ".b", "a.", "td", ""]).prop_map(str::to_owned),
    ];
    prop_oneof![
        3 => pattern.clone().prop_map(StringMatch::Exact),
        1 => pattern.clone().prop_map(StringMatch::Prefix),
        1 => pattern.prop_map(StringMatch::Suffix),
        1 => Just(StringMatch::Presence),
    ]
}

fn address() -> impl Strategy<Value = IpAddr> {
    select(&[
        "10.0.0.0",
        "10.0.0.255",
        "10.0.1.0",
        "::ffff:10.0.0.0",
        "fd00::1",
        "fd00::2",
        "0.0.0.0",
    ])
    .prop_map(|text| text.parse().unwrap())
}

fn block() -> impl Strategy<Value = ipnet::IpNet> {
    select(&[
        "10.0.0.0/24",
        "10.0.0.7/24",
        "10.0.0.0/32",
        "0.0.0.0/0",
        "::/0",
        "::ffff:10.0.0.0/120",
        "fd00::/127",
        "fd00::1/128",
    ])
    .prop_map(|text| text.parse().unwrap())
}

fn port() -> impl Strategy<Value = u16> {
    select(&[80, 81, 443])
}

fn account() -> impl Strategy<Value = ServiceAccountMatch> {
    (word(), word()).prop_map(|(namespace, account)| ServiceAccountMatch {
        namespace: namespace.to_owned(),
        service_account: account.to_owned(),
    })
}

fn few<T: std::fmt::Debug>(
    one: impl Strategy<Value = T> + Clone,
) -> impl Strategy<Value = Vec<T>> + Clone {
    prop_oneof![4 => vec(one.clone(), 0..1), 1 => vec(one, 1..3)]
}

fn match_() -> impl Strategy<Value = Match> {
    let texts = || few(text().boxed());
    let blocks = || few(block().boxed());
    let ports = || few(port().boxed());
    let accounts = || few(account().boxed());
    (
        (texts(), texts(), texts(), texts()),
        (blocks(), blocks(), blocks(), blocks()),
        (ports(), ports(), accounts(), accounts()),
    )
        .prop_map(|(texts, blocks, others)| Match {
            namespaces: texts.0,
            not_namespaces: texts.1,
            principals: texts.2,
            not_principals: texts.3,
            source_ips: blocks.0,
            not_source_ips: blocks.1,
            destination_ips: blocks.2,
            not_destination_ips: blocks.3,
            destination_ports: others.0,
            not_destination_ports: others.1,
            service_accounts: others.2,
            not_service_accounts: others.3,
        })
}

fn rule() -> impl Strategy<Value = Rule> {
    let clause = vec(match_(), 0..3).prop_map(|matches| Clause { matches });
    vec(clause, 0..3).prop_map(|clauses| Rule { clauses })
}

fn policy() -> impl Strategy<Value = AuthorizationPolicy> {
    let action = select(&[Action::Allow, Action::Deny]);
    let rules = vec(rule(), 0..3);
    (action, rules, "[a-z]{8}", any::<bool>()).prop_map(|(action, rules, name, dry_run)| {
        AuthorizationPolicy {
            name: PolicyName::new("ns", name),
            scope: Scope::Namespace,
            action,
            rules,
            dry_run,
        }
    })
}

fn applied() -> impl Strategy<Value = AppliedPolicies> {
    let names = || prop_oneof![4 => Just(Vec::new()), 1 => Just(vec![PolicyName::new("ns", "x")])];
    (vec(policy(), 0..4), names(), names()).prop_map(|(policies, missing, broken)| {
        AppliedPolicies {
            policies: policies.into_iter().map(Arc::new).collect(),
            missing,
            broken,
        }
    })
}

#[derive(Clone, Debug)]
struct Peer {
    identity: Option<SpiffeId>,
    source: IpAddr,
    destination: IpAddr,
    port: u16,
}

impl Peer {
    fn connection(&self) -> Connection<'_> {
        Connection {
            source_identity: self.identity.as_ref(),
            source_ip: self.source,
            destination_ip: self.destination,
            destination_port: self.port,
        }
    }
}

fn peer() -> impl Strategy<Value = Peer> {
    (option::of(identity()), address(), address(), port()).prop_map(
        |(identity, source, destination, port)| Peer {
            identity,
            source,
            destination,
            port,
        },
    )
}

/// From the widest to the narrowest.
fn width(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Allow => 2,
        Verdict::Hold => 1,
        Verdict::Deny => 0,
    }
}

fn with(applied: &AppliedPolicies, policy: AuthorizationPolicy) -> AppliedPolicies {
    let mut more = applied.clone();
    more.policies.push(Arc::new(policy));
    more
}

fn enforced_allows(applied: &AppliedPolicies) -> bool {
    let mut policies = applied.policies.iter();
    policies.any(|policy| policy.action == Action::Allow && !policy.dry_run)
}

fn one_rule(action: Action, field: Match) -> AppliedPolicies {
    let clauses = vec![Clause {
        matches: vec![field],
    }];
    AppliedPolicies {
        policies: vec![Arc::new(AuthorizationPolicy {
            name: PolicyName::new("ns", "only"),
            scope: Scope::Namespace,
            action,
            rules: vec![Rule { clauses }],
            dry_run: false,
        })],
        ..AppliedPolicies::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn adding_a_deny_never_widens(applied in applied(), mut policy in policy(), peer in peer()) {
        policy.action = Action::Deny;
        let before = authorize(&peer.connection(), &applied);
        let after = authorize(&peer.connection(), &with(&applied, policy));
        prop_assert!(width(after) <= width(before));
    }

    #[test]
    fn adding_an_allow_never_narrows_unless_it_is_the_first(
        applied in applied(),
        mut policy in policy(),
        peer in peer(),
    ) {
        policy.action = Action::Allow;
        policy.dry_run = false;
        let before = authorize(&peer.connection(), &applied);
        let after = authorize(&peer.connection(), &with(&applied, policy));
        if enforced_allows(&applied) {
            prop_assert!(width(after) >= width(before));
        } else {
            prop_assert!(width(after) <= width(before));
        }
    }

    #[test]
    fn the_order_of_policies_is_irrelevant(applied in applied(), peer in peer(), turn in 0usize..4) {
        let mut turned = applied.clone();
        let count = turned.policies.len().max(1);
        turned.policies.rotate_left(turn % count);
        let (one, other) = (CompiledPolicies::compile(&applied), CompiledPolicies::compile(&turned));
        prop_assert_eq!(one.authorize(&peer.connection()), other.authorize(&peer.connection()));
    }

    #[test]
    fn what_is_missing_or_not_understood_never_widens(applied in applied(), peer in peer()) {
        let before = authorize(&peer.connection(), &applied);
        let mut missing = applied.clone();
        missing.missing.push(PolicyName::new("ns", "late"));
        let mut broken = applied.clone();
        broken.broken.push(PolicyName::new("ns", "odd"));
        prop_assert!(authorize(&peer.connection(), &missing) != Verdict::Allow);
        prop_assert!(width(authorize(&peer.connection(), &missing)) <= width(before).max(1));
        prop_assert_eq!(authorize(&peer.connection(), &broken), Verdict::Deny);
    }

    #[test]
    fn plaintext_never_matches_a_positive_field_of_identity(
        mut peer in peer(),
        texts in vec(text(), 1..4),
        accounts in vec(account(), 1..4),
        mut rest in match_(),
        which in 0..3,
    ) {
        peer.identity = None;
        match which {
            0 => rest.principals = texts,
            1 => rest.namespaces = texts,
            _ => rest.service_accounts = accounts,
        }
        let connection = peer.connection();
        prop_assert_eq!(authorize(&connection, &one_rule(Action::Allow, rest.clone())), Verdict::Deny);
        prop_assert_eq!(authorize(&connection, &one_rule(Action::Deny, rest)), Verdict::Allow);
    }

    #[test]
    fn plaintext_satisfies_every_negated_field_of_identity(mut peer in peer(), texts in vec(text(), 1..4)) {
        peer.identity = None;
        let only = |field: Match| authorize(&peer.connection(), &one_rule(Action::Deny, field));
        let principals = Match { not_principals: texts.clone(), ..Match::default() };
        let namespaces = Match { not_namespaces: texts, ..Match::default() };
        prop_assert_eq!(only(principals), Verdict::Deny);
        prop_assert_eq!(only(namespaces), Verdict::Deny);
    }

    #[test]
    fn an_empty_match_changes_nothing(applied in applied(), peer in peer(), at in 0usize..4) {
        let mut more = applied.clone();
        for policy in &mut more.policies {
            for rule in &mut Arc::make_mut(policy).rules {
                for clause in &mut rule.clauses {
                    let at = at.min(clause.matches.len());
                    clause.matches.insert(at, Match::default());
                }
            }
        }
        prop_assert_eq!(
            authorize(&peer.connection(), &applied),
            authorize(&peer.connection(), &more)
        );
    }

    #[test]
    fn a_mapped_address_is_judged_as_its_v4_form(applied in applied(), peer in peer()) {
        let mapped = |address: IpAddr| match address {
            IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
            v6 @ IpAddr::V6(_) => v6,
        };
        let other = Peer {
            source: mapped(peer.source),
            destination: mapped(peer.destination),
            ..peer.clone()
        };
        prop_assert_eq!(
            authorize(&peer.connection(), &applied),
            authorize(&other.connection(), &applied)
        );
    }

    #[test]
    fn dry_run_policies_enforce_nothing_and_are_reported(applied in applied(), peer in peer()) {
        let compiled = CompiledPolicies::compile(&applied);
        let decision = compiled.authorize(&peer.connection());
        let mut without = applied.clone();
        without.policies.retain(|policy| !policy.dry_run);
        prop_assert_eq!(decision.verdict, authorize(&peer.connection(), &without));
        let mut enforced = applied.clone();
        for policy in &mut enforced.policies {
            Arc::make_mut(policy).dry_run = false;
        }
        let would = decision.dry_run.map_or(decision.verdict, |outcome| outcome.verdict);
        prop_assert_eq!(would, authorize(&peer.connection(), &enforced));
    }

    #[test]
    fn a_reason_names_a_policy_that_applies(applied in applied(), peer in peer()) {
        let compiled = CompiledPolicies::compile(&applied);
        let decision = compiled.authorize(&peer.connection());
        prop_assert_eq!(decision.reason.verdict(), decision.verdict);
        if let Reason::Denied(name, rule) | Reason::Allowed(name, rule) = decision.reason {
            let mut policies = applied.policies.iter();
            let named = |policy: &&Arc<AuthorizationPolicy>| policy.name == *name;
            prop_assert!(policies.any(|policy| named(&policy) && rule < policy.rules.len()));
        }
        if compiled.allows_everything() {
            prop_assert_eq!(decision.verdict, Verdict::Allow);
        }
    }
}

#[test]
fn strict_peer_authentication_refuses_plaintext_and_admits_any_identity() {
    let strict = one_rule(
        Action::Deny,
        Match {
            not_principals: vec![StringMatch::Presence],
            ..Match::default()
        },
    );
    let mut peer = Peer {
        identity: None,
        source: "10.0.0.1".parse().unwrap(),
        destination: "10.0.0.2".parse().unwrap(),
        port: 80,
    };
    assert_eq!(authorize(&peer.connection(), &strict), Verdict::Deny);
    peer.identity = Some("spiffe://td/ns/a/sa/b".parse().unwrap());
    assert_eq!(authorize(&peer.connection(), &strict), Verdict::Allow);
}

#[test]
fn a_dot_in_a_principal_is_a_dot() {
    let allow = one_rule(
        Action::Allow,
        Match {
            principals: vec![StringMatch::Exact("td/ns/a.b/sa/c".to_owned())],
            ..Match::default()
        },
    );
    let verdict = |identity: &str| {
        let peer = Peer {
            identity: Some(identity.parse().unwrap()),
            source: "10.0.0.1".parse().unwrap(),
            destination: "10.0.0.2".parse().unwrap(),
            port: 80,
        };
        authorize(&peer.connection(), &allow)
    };
    assert_eq!(verdict("spiffe://td/ns/a.b/sa/c"), Verdict::Allow);
    assert_eq!(verdict("spiffe://td/ns/a-b/sa/c"), Verdict::Deny);
    assert_eq!(verdict("spiffe://td/ns/axb/sa/c"), Verdict::Deny);
    assert_eq!(verdict("spiffe://other/ns/a.b/sa/c"), Verdict::Deny);
}
