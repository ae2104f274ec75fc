//! Random pairs from a small, nasty vocabulary: small, so that patterns and connections meet often;
//! nasty, so that whatever an evaluator may mix up is there to be mixed up.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use weft_types::{
    Action, AuthorizationPolicy, Clause, Match, PolicyName, Rule, Scope, ServiceAccountMatch,
    SpiffeId, StringMatch,
};

use crate::question::Question;

/// Names that a regular expression, a substring or a careless prefix would take for one another.
const WORDS: [&str; 7] = ["a.b", "a-b", "axb", "a", "b", "a.b.c", "A.B"];
const DOMAINS: [&str; 3] = ["td", "td.x", "td-x"];
const FRAGMENTS: [&str; 12] = [
    "td/",
    "td/ns/a",
    "td.x/ns/",
    "/sa/a.b",
    ".b",
    "a.",
    "-",
    "/ns/a/sa/",
    "sa",
    "spiffe://td",
    "spiffe://",
    "",
];
const ADDRESSES: [&str; 12] = [
    "10.0.0.0",
    "10.0.0.1",
    "10.0.0.255",
    "10.0.1.0",
    "9.255.255.255",
    "255.255.255.255",
    "0.0.0.0",
    "::ffff:10.0.0.1",
    "::ffff:10.0.1.0",
    "fd00::1",
    "fd00::2",
    "::1",
];
const BLOCKS: [&str; 15] = [
    "10.0.0.0/24",
    "10.0.0.77/24",
    "10.0.0.1/32",
    "10.0.0.0/31",
    "10.0.0.0/8",
    "0.0.0.0/0",
    "0.0.0.0/1",
    "::/0",
    "::/95",
    "::ffff:0:0/96",
    "::ffff:10.0.0.0/120",
    "::ffff:10.0.0.1/128",
    "fd00::/127",
    "fd00::1/128",
    "fd00::/8",
];
const PORTS: [u16; 5] = [80, 81, 443, 1, 65535];
const NAMES: [&str; 5] = ["p", "q", "p.q", "p-q", "r"];
const NAMESPACES: [&str; 3] = ["a", "a.b", "root"];

/// Draws one pair.
pub(crate) fn question(rng: &mut StdRng) -> Question {
    let namespace = pick(rng, &NAMESPACES);
    let mut policies: Vec<AuthorizationPolicy> = Vec::new();
    for _ in 0..rng.random_range(0..5) {
        let drawn = policy(rng);
        // Names are unique in a mesh.
        if policies.iter().all(|policy| policy.name != drawn.name) {
            policies.push(drawn);
        }
    }
    let mut broken = Vec::new();
    if rng.random_ratio(1, 12) {
        let name = policy_name(rng);
        if policies.iter().all(|policy| policy.name != name) {
            broken.push((name, scope(rng)));
        }
    }
    let mut named: Vec<PolicyName> = Vec::new();
    for policy in &policies {
        if rng.random_ratio(1, 3) {
            named.push(policy.name.clone());
        }
    }
    if rng.random_ratio(1, 8) {
        let drawn = policy_name(rng);
        if !named.contains(&drawn) {
            named.push(drawn);
        }
    }
    Question {
        policies,
        broken,
        namespace,
        named,
        identity: rng.random_ratio(3, 4).then(|| identity(rng)),
        source: pick(rng, &ADDRESSES).parse().unwrap(),
        destination: pick(rng, &ADDRESSES).parse().unwrap(),
        port: pick(rng, &PORTS),
    }
}

fn pick<T: Copy>(rng: &mut StdRng, items: &[T]) -> T {
    *items.choose(rng).unwrap()
}

fn policy_name(rng: &mut StdRng) -> PolicyName {
    PolicyName::new(pick(rng, &NAMESPACES), pick(rng, &NAMES))
}

fn scope(rng: &mut StdRng) -> Scope {
    let scopes = [Scope::Global, Scope::Namespace, Scope::WorkloadSelector];
    pick(rng, &scopes)
}

/// Draws a policy.
pub(crate) fn policy(rng: &mut StdRng) -> AuthorizationPolicy {
    let rules = rng.random_range(0..4);
    AuthorizationPolicy {
        name: policy_name(rng),
        scope: scope(rng),
        action: pick(rng, &[Action::Allow, Action::Allow, Action::Deny]),
        rules: (0..rules).map(|_| rule(rng)).collect(),
        dry_run: rng.random_ratio(1, 8),
    }
}

fn rule(rng: &mut StdRng) -> Rule {
    let clauses = pick(rng, &[0, 1, 1, 1, 2]);
    let clause = |rng: &mut StdRng| {
        let matches = pick(rng, &[0, 1, 1, 2]);
        Clause {
            matches: (0..matches).map(|_| match_(rng)).collect(),
        }
    };
    Rule {
        clauses: (0..clauses).map(|_| clause(rng)).collect(),
    }
}

fn match_(rng: &mut StdRng) -> Match {
    let mut item = Match::default();
    // Few fields at a time: with many, nothing ever matches.
    for _ in 0..pick(rng, &[0, 1, 1, 1, 2, 3]) {
        let values = rng.random_range(1..4);
        match rng.random_range(0..12) {
            0 => item.namespaces = texts(rng, values),
            1 => item.not_namespaces = texts(rng, values),
            2 => item.principals = texts(rng, values),
            3 => item.not_principals = texts(rng, values),
            4 => item.source_ips = blocks(rng, values),
            5 => item.not_source_ips = blocks(rng, values),
            6 => item.destination_ips = blocks(rng, values),
            7 => item.not_destination_ips = blocks(rng, values),
            8 => item.destination_ports = ports(rng, values),
            9 => item.not_destination_ports = ports(rng, values),
            10 => item.service_accounts = accounts(rng, values),
            _ => item.not_service_accounts = accounts(rng, values),
        }
    }
    item
}

/// Draws patterns.
pub(crate) fn texts(rng: &mut StdRng, count: usize) -> Vec<StringMatch> {
    (0..count).map(|_| text(rng)).collect()
}

fn text(rng: &mut StdRng) -> StringMatch {
    let text = match rng.random_range(0..4) {
        0 => pick(rng, &WORDS).to_owned(),
        1 => identity(rng).principal(),
        2 => identity(rng).to_string(),
        _ => pick(rng, &FRAGMENTS).to_owned(),
    };
    match rng.random_range(0..7) {
        0..3 => StringMatch::Exact(text),
        3 => StringMatch::Prefix(text),
        4 => StringMatch::Suffix(text),
        5 => StringMatch::Suffix(pick(rng, &FRAGMENTS).to_owned()),
        _ => StringMatch::Presence,
    }
}

fn identity(rng: &mut StdRng) -> SpiffeId {
    let (domain, namespace, account) = (pick(rng, &DOMAINS), pick(rng, &WORDS), pick(rng, &WORDS));
    format!("spiffe://{domain}/ns/{namespace}/sa/{account}")
        .parse()
        .unwrap()
}

fn blocks(rng: &mut StdRng, count: usize) -> Vec<ipnet::IpNet> {
    let block = |rng: &mut StdRng| pick(rng, &BLOCKS).parse().unwrap();
    (0..count).map(|_| block(rng)).collect()
}

fn ports(rng: &mut StdRng, count: usize) -> Vec<u16> {
    (0..count).map(|_| pick(rng, &PORTS)).collect()
}

/// Draws service accounts.
pub(crate) fn accounts(rng: &mut StdRng, count: usize) -> Vec<ServiceAccountMatch> {
    let account = |rng: &mut StdRng| ServiceAccountMatch {
        namespace: pick(rng, &WORDS).to_owned(),
        service_account: pick(rng, &WORDS).to_owned(),
    };
    (0..count).map(|_| account(rng)).collect()
}
