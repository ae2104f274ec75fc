//! Policies: each `golden/NAME.yaml` beside what must come of it. `WEFT_UPDATE_GOLDEN=1` writes the results anew, to be read before they are committed.

use std::fmt::Write as _;
use std::path::Path;

use weft_types::{AuthorizationPolicy, Match};

use super::{Lists, mesh};

/// One line for each thing that a policy says.
fn render(translation: &Lists) -> String {
    let mut text = String::new();
    for policy in &translation.policies {
        policy_lines(&mut text, policy);
    }
    for workload in &translation.workloads {
        let names = workload
            .authorization_policies
            .iter()
            .map(ToString::to_string);
        let names: Vec<String> = names.collect();
        if !names.is_empty() {
            writeln!(
                text,
                "workload {}/{}: {}",
                workload.namespace,
                workload.name,
                names.join(", ")
            )
            .unwrap();
        }
    }
    for status in &translation.statuses {
        let crate::translate::PolicyStatus {
            kind,
            namespace,
            name,
            conditions,
        } = status;
        let condition = &conditions[0];
        writeln!(
            text,
            "{kind} {namespace}/{name}: {} {}",
            condition.kind, condition.status
        )
        .unwrap();
        if condition.status == "False" {
            for line in condition.message.lines() {
                writeln!(text, "  {line}").unwrap();
            }
        }
    }
    text
}

fn policy_lines(text: &mut String, policy: &AuthorizationPolicy) {
    let AuthorizationPolicy {
        name,
        scope,
        action,
        rules,
        dry_run,
    } = policy;
    let dry_run = if *dry_run { " dry-run" } else { "" };
    writeln!(text, "policy {name} {scope:?} {action:?}{dry_run}").unwrap();
    for rule in rules {
        if rule.clauses.is_empty() {
            writeln!(text, "  rule: every connection").unwrap();
            continue;
        }
        writeln!(text, "  rule: all of").unwrap();
        for clause in &rule.clauses {
            let matches: Vec<String> = clause.matches.iter().map(match_text).collect();
            writeln!(text, "    any of {}", matches.join(" | ")).unwrap();
        }
    }
}

/// The fields that are given.
fn match_text(item: &Match) -> String {
    let debug = format!("{item:?}");
    let inside = debug.trim_start_matches("Match { ").trim_end_matches(" }");
    let mut fields = Vec::new();
    for part in inside.split("], ") {
        let part = part.trim_end_matches(']');
        if !part.ends_with('[') {
            fields.push(format!("{part}]"));
        }
    }
    format!("{{{}}}", fields.join(", "))
}

#[test]
fn policies_translate_as_the_golden_files_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/translate/tests/golden");
    let update = std::env::var_os("WEFT_UPDATE_GOLDEN").is_some();
    let mut cases = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let input = entry.unwrap().path();
        if input
            .extension()
            .is_none_or(|extension| extension != "yaml")
        {
            continue;
        }
        cases += 1;
        let got = render(&mesh(&std::fs::read_to_string(&input).unwrap()));
        let output = input.with_extension("txt");
        if update {
            std::fs::write(&output, &got).unwrap();
        }
        let want = std::fs::read_to_string(&output).unwrap_or_default();
        assert_eq!(got, want, "{}", input.display());
    }
    assert!(cases >= 10, "only {cases} golden files found");
}
