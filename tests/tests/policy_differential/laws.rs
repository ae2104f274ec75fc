//! Method: laws that hold between the answers to a pair and to the same pair changed, whatever the right answers are. Each is
//! put to our evaluator on random pairs, and to evaluators that are broken on purpose, each of which must break its law.

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use weft_proto::convert::policy::{FEATURE_LEVEL, from_wire, refused, to_wire};
use weft_proto::error::ConvertError;
use weft_proto::wire::security as wire;
use weft_proto::wire::workload::Extension;
use weft_types::{
    Action, AuthorizationPolicy, Clause, Match, PolicyName, Rule, Scope, SpiffeId, StringMatch,
};

use crate::grammar;
use crate::question::{Answer, Question};

/// Pairs to which each law is put.
const PAIRS: usize = 20_000;
/// With `WEFT_TEST_LONG`.
const PAIRS_LONG: usize = 500_000;
/// A number of no action or scope.
const UNKNOWN: i32 = 77;

/// An evaluator: ours, with something broken before it.
#[derive(Clone, Copy)]
struct Evaluator {
    name: &'static str,
    change: fn(&mut Question),
    read: fn(&wire::Authorization) -> Result<AuthorizationPolicy, ConvertError>,
}

/// Changes a pair and compares. Nothing when there is nothing to change.
type Law = fn(&mut StdRng, &Question, &Evaluator) -> Option<bool>;

const OURS: Evaluator = Evaluator {
    name: "ours",
    change: |_| {},
    read: from_wire,
};

// === impl Evaluator ===

impl Evaluator {
    const fn broken(name: &'static str, change: fn(&mut Question)) -> Self {
        Self {
            name,
            change,
            ..OURS
        }
    }

    fn answer(&self, question: &Question) -> Answer {
        let mut question = question.clone();
        (self.change)(&mut question);
        question.answer()
    }

    /// The answer with one more policy, which came as a message.
    fn answer_with(&self, mut question: Question, message: &wire::Authorization) -> Answer {
        let refused = refused(message);
        if let Ok(policy) = (self.read)(message) {
            question.policies.push(policy);
        } else if message.dry_run {
            question.policies.push(AuthorizationPolicy {
                rules: Vec::new(),
                dry_run: true,
                ..refused
            });
        } else {
            question.broken.push((refused.name, refused.scope));
        }
        self.answer(&question)
    }
}

fn put(law: Law, broken: &[Evaluator]) {
    let long = std::env::var_os("WEFT_TEST_LONG").is_some();
    let pairs = if long { PAIRS_LONG } else { PAIRS };
    let seed = crate::setting("WEFT_SEED").unwrap_or_else(|| rand::rng().random());
    let (compared, breach) = first_breach(law, &OURS, seed, pairs);
    println!("seed {seed}, {compared} of {pairs} pairs compared");
    if let Some(question) = breach {
        panic!("broken with WEFT_SEED={seed} by {}", question.to_json());
    }
    // A law that is hardly ever put would say little.
    assert!(compared * 4 >= pairs, "only {compared} of {pairs} pairs");
    for evaluator in broken {
        let (compared, breach) = first_breach(law, evaluator, seed, PAIRS);
        let name = evaluator.name;
        assert!(breach.is_some(), "{name} was not caught, seed {seed}");
        println!("{name}: caught at pair {compared}");
    }
}

/// How many pairs were compared, and the one with which the law was broken.
fn first_breach(
    law: Law,
    evaluator: &Evaluator,
    seed: u64,
    pairs: usize,
) -> (usize, Option<Question>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut compared = 0;
    for _ in 0..pairs {
        let question = grammar::question(&mut rng);
        let Some(holds) = law(&mut rng, &question, evaluator) else {
            continue;
        };
        compared += 1;
        if !holds {
            return (compared, Some(question));
        }
    }
    (compared, None)
}

/// From the narrowest to the widest.
fn width(answer: &Answer) -> u8 {
    match &*answer.verdict {
        "deny" => 0,
        "hold" => 1,
        "allow" => 2,
        other => unreachable!("no verdict: {other}"),
    }
}

#[test]
fn adding_a_deny_never_widens() {
    let denies_allow = |question: &mut Question| {
        for policy in &mut question.policies {
            policy.action = Action::Allow;
        }
    };
    let last_decides = |question: &mut Question| {
        let policies = &mut question.policies;
        policies.drain(..policies.len().saturating_sub(1));
    };
    put(
        |rng, question, evaluator| {
            let mut more = question.clone();
            let mut deny = grammar::policy(rng);
            deny.action = Action::Deny;
            // A name that no workload waits for.
            deny.name = PolicyName::new(&*deny.name.namespace, "added");
            let at = rng.random_range(0..=more.policies.len());
            more.policies.insert(at, deny);
            let (before, after) = (evaluator.answer(question), evaluator.answer(&more));
            Some(width(&after) <= width(&before))
        },
        &[
            Evaluator::broken("denies-allow", denies_allow),
            Evaluator::broken("last-decides", last_decides),
        ],
    );
}

#[test]
fn the_order_of_policies_and_rules_changes_nothing() {
    let first_policy = |question: &mut Question| question.policies.truncate(1);
    let first_rule = |question: &mut Question| {
        for policy in &mut question.policies {
            policy.rules.truncate(1);
        }
    };
    put(
        |rng, question, evaluator| {
            let mut other = question.clone();
            other.policies.shuffle(rng);
            other.named.shuffle(rng);
            for policy in &mut other.policies {
                policy.rules.shuffle(rng);
                for rule in &mut policy.rules {
                    rule.clauses.shuffle(rng);
                    for clause in &mut rule.clauses {
                        clause.matches.shuffle(rng);
                    }
                }
            }
            Some(evaluator.answer(question) == evaluator.answer(&other))
        },
        &[
            Evaluator::broken("only-the-first-policy", first_policy),
            Evaluator::broken("only-the-first-rule", first_rule),
        ],
    );
}

#[test]
fn a_plaintext_peer_never_matches_a_principal() {
    let somebody = |question: &mut Question| {
        let anybody: SpiffeId = "spiffe://td/ns/a/sa/a".parse().unwrap();
        question.identity.get_or_insert(anybody);
    };
    let skips = |question: &mut Question| {
        let matches = question.policies.iter_mut().flat_map(matches_of);
        for item in matches.filter(|_| question.identity.is_none()) {
            item.principals.clear();
            item.namespaces.clear();
            // Something that always holds, in place of what is skipped.
            item.not_destination_ports = vec![2];
        }
    };
    put(
        |rng, question, evaluator| {
            let mut asks = question.clone();
            asks.identity = None;
            let at = (0..asks.policies.len()).collect::<Vec<_>>();
            let at = *at.choose(rng)?;
            let mut never = asks.clone();
            never.policies[at].rules.clear();
            for rule in &mut asks.policies[at].rules {
                let mut item = Match::default();
                let texts = grammar::texts(rng, 2);
                match rng.random_range(0..3) {
                    0 => item.principals = texts,
                    1 => item.namespaces = texts,
                    _ => item.service_accounts = grammar::accounts(rng, 2),
                }
                rule.clauses.push(Clause {
                    matches: vec![item],
                });
            }
            Some(evaluator.answer(&asks) == evaluator.answer(&never))
        },
        &[
            Evaluator::broken("plaintext-is-somebody", somebody),
            Evaluator::broken("plaintext-skips-principals", skips),
        ],
    );
}

#[test]
fn what_is_unknown_in_a_policy_never_widens() {
    let reads_what_it_knows = Evaluator {
        name: "reads-what-it-knows",
        read: |message| from_wire(&without_unknown(message)),
        ..OURS
    };
    let skips_the_policy = Evaluator::broken("skips-the-policy", |question| {
        question.broken.clear();
    });
    put(
        |rng, question, evaluator| {
            let mut rest = question.clone();
            let at = (0..rest.policies.len()).collect::<Vec<_>>();
            let policy = rest.policies.remove(*at.choose(rng)?);
            let (message, meanings) = plant(rng, &policy)?;
            let answer = evaluator.answer_with(rest.clone(), &message);
            let narrowest = meanings.into_iter().map(|meaning| {
                let mut known = rest.clone();
                known.policies.push(meaning);
                // What it could mean is judged by what is right.
                width(&OURS.answer(&known))
            });
            Some(width(&answer) <= narrowest.min()?)
        },
        &[reads_what_it_knows, skips_the_policy],
    );
}

/// A policy as a message with something in it that this program does not know, and what that could mean.
fn plant(
    rng: &mut StdRng,
    policy: &AuthorizationPolicy,
) -> Option<(wire::Authorization, Vec<AuthorizationPolicy>)> {
    let mut message = to_wire(policy, FEATURE_LEVEL);
    let with = |change: &dyn Fn(&mut AuthorizationPolicy)| {
        let mut changed = policy.clone();
        change(&mut changed);
        changed
    };
    let never = with(&|policy| policy.rules.clear());
    let always = with(&|policy| policy.rules = vec![Rule::default()]);
    let meanings = match rng.random_range(0..6) {
        0 => {
            message.extensions.push(unknown());
            vec![policy.clone(), never, always]
        }
        1 => {
            message = to_wire(policy, FEATURE_LEVEL + 1);
            vec![policy.clone(), never, always]
        }
        2 => {
            message.action = UNKNOWN;
            let action = |action| with(&|policy| policy.action = action);
            vec![action(Action::Allow), action(Action::Deny)]
        }
        3 => {
            message.scope = UNKNOWN;
            let scope = |scope| with(&|policy| policy.scope = scope);
            vec![
                scope(Scope::Global),
                scope(Scope::Namespace),
                policy.clone(),
            ]
        }
        kind => {
            let (r, c, m) = *places(policy).choose(rng)?;
            let at = &mut message.rules[r].clauses[c].matches[m];
            let item = |change: &dyn Fn(&mut Match)| {
                with(&|policy| change(&mut policy.rules[r].clauses[c].matches[m]))
            };
            if kind == 4 {
                // One more condition, which holds, or does not.
                at.extensions.push(unknown());
                let without = with(&|policy| {
                    policy.rules[r].clauses[c].matches.remove(m);
                });
                vec![policy.clone(), without]
            } else {
                at.principals.push(wire::StringMatch::default());
                let none = StringMatch::Exact("no principal".to_owned());
                vec![
                    item(&|item| item.principals.push(StringMatch::Presence)),
                    item(&|item| item.principals.push(none.clone())),
                ]
            }
        }
    };
    Some((message, meanings))
}

/// A message as a program would see it that skips what it does not know.
fn without_unknown(message: &wire::Authorization) -> wire::Authorization {
    let mut message = message.clone();
    message.extensions.clear();
    if message.action == UNKNOWN {
        message.action = wire::Action::Allow.into();
    }
    if message.scope == UNKNOWN {
        message.scope = wire::Scope::WorkloadSelector.into();
    }
    let rules = message.rules.iter_mut();
    let clauses = rules.flat_map(|rule| &mut rule.clauses);
    for item in clauses.flat_map(|clause| &mut clause.matches) {
        item.extensions.clear();
        item.principals.retain(|text| text.match_type.is_some());
    }
    message
}

fn unknown() -> Extension {
    Extension {
        name: "a condition of another time".to_owned(),
        config: None,
    }
}

/// Where the matches of a policy are.
fn places(policy: &AuthorizationPolicy) -> Vec<(usize, usize, usize)> {
    let mut all = Vec::new();
    for (r, rule) in policy.rules.iter().enumerate() {
        for (c, clause) in rule.clauses.iter().enumerate() {
            all.extend((0..clause.matches.len()).map(|m| (r, c, m)));
        }
    }
    all
}

fn matches_of(policy: &mut AuthorizationPolicy) -> impl Iterator<Item = &mut Match> {
    let clauses = policy.rules.iter_mut().flat_map(|rule| &mut rule.clauses);
    clauses.flat_map(|clause| &mut clause.matches)
}
