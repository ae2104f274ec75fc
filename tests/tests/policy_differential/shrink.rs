//! Makes a pair smaller while it still shows what it shows.

use weft_types::Match;

use crate::question::Question;

/// Takes one thing away at a time for as long as `shows` stays true.
pub(crate) fn shrink(mut question: Question, mut shows: impl FnMut(&Question) -> bool) -> Question {
    while let Some(smaller) = smaller(&question).into_iter().find(&mut shows) {
        question = smaller;
    }
    question
}

/// Every way to take one thing away, the largest first.
fn smaller(question: &Question) -> Vec<Question> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut Question)| {
        let mut changed = question.clone();
        change(&mut changed);
        all.push(changed);
    };
    for p in 0..question.policies.len() {
        with(&|question| drop(question.policies.remove(p)));
    }
    for b in 0..question.broken.len() {
        with(&|question| drop(question.broken.remove(b)));
    }
    for n in 0..question.named.len() {
        with(&|question| drop(question.named.remove(n)));
    }
    if question.identity.is_some() {
        with(&|question| question.identity = None);
    }
    for (p, policy) in question.policies.iter().enumerate() {
        if policy.dry_run {
            with(&|question| question.policies[p].dry_run = false);
        }
        for (r, rule) in policy.rules.iter().enumerate() {
            with(&|question| drop(question.policies[p].rules.remove(r)));
            for (c, clause) in rule.clauses.iter().enumerate() {
                with(&|question| drop(question.policies[p].rules[r].clauses.remove(c)));
                for (m, item) in clause.matches.iter().enumerate() {
                    with(&|question| {
                        drop(question.policies[p].rules[r].clauses[c].matches.remove(m));
                    });
                    for narrower in narrower(item) {
                        with(&|question| {
                            question.policies[p].rules[r].clauses[c].matches[m] = narrower.clone();
                        });
                    }
                }
            }
        }
    }
    all
}

/// Every way to take one value out of a match.
fn narrower(item: &Match) -> Vec<Match> {
    let mut all = Vec::new();
    macro_rules! without_one {
        ($($field:ident),*) => {$(
            for index in 0..item.$field.len() {
                let mut changed = item.clone();
                changed.$field.remove(index);
                all.push(changed);
            }
        )*};
    }
    without_one!(
        namespaces,
        not_namespaces,
        principals,
        not_principals,
        source_ips,
        not_source_ips,
        destination_ips,
        not_destination_ips,
        destination_ports,
        not_destination_ports,
        service_accounts,
        not_service_accounts
    );
    all
}
