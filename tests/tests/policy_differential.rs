//! Method: random policy sets and connections, drawn from a grammar of things that evaluators get wrong, are judged
//! by `weft-policy` (through the snapshot of `weft-config`, which chooses what applies) and by an evaluator in Python
//! that was written apart, from the specification's text. Any difference fails, shrunk, with its seed.
//! Negative control: the Python evaluator with one sentence broken at a time must be caught, each time.
//! Beside that stand laws that need no second evaluator (`laws`).
//!
//! `WEFT_SEED` repeats a run, `WEFT_PAIRS` sets its length, `WEFT_TEST_LONG=1` makes it long.

#![expect(
    clippy::unwrap_used,
    reason = "literals of the grammar parse, and a panic is the report of a test"
)]

#[path = "policy_differential/grammar.rs"]
mod grammar;
#[path = "policy_differential/laws.rs"]
mod laws;
#[path = "policy_differential/oracle.rs"]
mod oracle;
#[path = "policy_differential/question.rs"]
mod question;
#[path = "policy_differential/shrink.rs"]
mod shrink;

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use oracle::Oracle;
use question::Question;

/// Pairs of a run.
const PAIRS: usize = 200_000;
/// With `WEFT_TEST_LONG`.
const PAIRS_LONG: usize = 5_000_000;
/// Pairs after which a broken evaluator must have been caught.
const PAIRS_TO_CATCH: usize = 20_000;
/// Questions under way at a time.
const BATCH: usize = 1000;

/// Every sentence that the Python evaluator can break.
const MUTANTS: [&str; 10] = [
    "broken-is-ignored",
    "dot-is-wildcard",
    "empty-match-holds",
    "mapped-is-v6",
    "missing-is-ignored",
    "no-allow-denies",
    "plaintext-fails-not",
    "plaintext-is-present",
    "short-prefix",
    "suffix-is-substring",
];

#[test]
fn both_evaluators_give_the_same_answer_to_every_pair() {
    let seed = setting("WEFT_SEED").unwrap_or_else(|| rand::rng().random());
    let long = std::env::var_os("WEFT_TEST_LONG").is_some();
    let usual = if long { PAIRS_LONG } else { PAIRS };
    let pairs = setting("WEFT_PAIRS").map_or(usual, |pairs| pairs as usize);
    println!("seed {seed}, {pairs} pairs");
    let mut oracle = Oracle::start(None);
    let mut answers: BTreeMap<String, usize> = BTreeMap::new();
    if let Some(found) = first_difference(&mut oracle, seed, pairs, |answer| {
        *answers.entry(answer.to_owned()).or_default() += 1;
    }) {
        panic!("{}", report(&mut oracle, seed, found));
    }
    println!("answers: {answers:?}");
    // A grammar that only ever leads to one answer would prove nothing.
    for verdict in ["allow", "deny", "hold"] {
        let share = answers.get(verdict).copied().unwrap_or(0);
        assert!(share * 20 >= pairs, "{verdict} is too rare: {answers:?}");
    }
}

#[test]
fn a_broken_evaluator_is_caught() {
    let seed = setting("WEFT_SEED").unwrap_or_else(|| rand::rng().random());
    println!("seed {seed}");
    for mutant in MUTANTS {
        let mut oracle = Oracle::start(Some(mutant));
        let found = first_difference(&mut oracle, seed, PAIRS_TO_CATCH, |_| {});
        let found = found.unwrap_or_else(|| panic!("{mutant} was not caught, seed {seed}"));
        let shrunk = shrink::shrink(found, |smaller| differs(&mut oracle, smaller));
        // What is left must be small enough to read.
        assert!(shrunk.policies.len() <= 3, "{mutant}: {}", shrunk.to_json());
        println!("{mutant}: caught with {}", shrunk.to_json());
    }
}

/// The first of `pairs` questions to which the evaluators answer differently; `seen` is told every answer before it.
fn first_difference(
    oracle: &mut Oracle,
    seed: u64,
    pairs: usize,
    mut seen: impl FnMut(&str),
) -> Option<Question> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut left = pairs;
    while left > 0 {
        let batch: Vec<Question> = (0..left.min(BATCH))
            .map(|_| grammar::question(&mut rng))
            .collect();
        left -= batch.len();
        let theirs = oracle.ask(&batch);
        for (question, theirs) in batch.into_iter().zip(theirs) {
            let ours = question.answer();
            if ours != theirs {
                return Some(question);
            }
            seen(&ours.verdict);
        }
    }
    None
}

fn differs(oracle: &mut Oracle, question: &Question) -> bool {
    oracle.ask(std::slice::from_ref(question)) != [question.answer()]
}

fn report(oracle: &mut Oracle, seed: u64, found: Question) -> String {
    let shrunk = shrink::shrink(found, |smaller| differs(oracle, smaller));
    let theirs = oracle.ask(std::slice::from_ref(&shrunk));
    format!(
        "the evaluators differ (WEFT_SEED={seed})\nweft-policy: {:?}\npython: {:?}\nquestion: {}",
        shrunk.answer(),
        theirs[0],
        shrunk.to_json()
    )
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
    )
}
