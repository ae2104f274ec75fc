//! Cycles between the top-level modules of a crate.
//!
//! In: its sources. Out: one line for each cycle. A path `crate::name` outside of tests and comments makes an
//! edge to that module; `main`, `lib` and `app` may see everything and are left out as sources.
//! Not here: modules below the top level.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{is_test_file, production, rust_files};

/// Modules that wire the others.
const ROOTS: [&str; 3] = ["main", "lib", "app"];

/// Edges between modules of one crate.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// Every cycle in every crate.
pub fn findings(root: &Path) -> Result<Vec<String>> {
    let mut crates: BTreeMap<String, Graph> = BTreeMap::new();
    for path in rust_files(root)? {
        if is_test_file(&path) {
            continue;
        }
        let Some((name, module)) = place(&path) else {
            continue;
        };
        if ROOTS.contains(&module.as_str()) {
            continue;
        }
        let text = std::fs::read_to_string(root.join(&path))
            .with_context(|| format!("cannot read {}", path.display()))?;
        let graph = crates.entry(name).or_default();
        let edges = graph.entry(module.clone()).or_default();
        let code: String = production(&text)
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .flat_map(|line| [line, "\n"])
            .collect();
        edges.extend(uses(&code).filter(|other| *other != module));
    }
    let mut findings = Vec::new();
    for (name, graph) in &crates {
        for cycle in cycles(graph) {
            findings.push(format!(
                "{name}: modules form a cycle: {}",
                cycle.join(", ")
            ));
        }
    }
    Ok(findings)
}

/// Crate folder and top-level module of a file.
fn place(path: &Path) -> Option<(String, String)> {
    let text = path.to_str()?;
    let (name, rest) = text.split_once("/src/")?;
    let module = rest.split('/').next()?.trim_end_matches(".rs");
    Some((name.to_owned(), module.to_owned()))
}

/// Module names after `crate::`, also inside braces.
fn uses(text: &str) -> impl Iterator<Item = String> {
    let mut found = BTreeSet::new();
    for (at, word) in text.match_indices("crate::") {
        let rest = &text[at + word.len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for letter in list.chars() {
                match letter {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        found.insert(first_word(&item));
                        item.clear();
                    }
                    _ if depth == 0 => item.push(letter),
                    _ => {}
                }
            }
            found.insert(first_word(&item));
        } else {
            found.insert(first_word(rest));
        }
    }
    found
        .into_iter()
        .filter(|word| word.starts_with(|letter: char| letter.is_ascii_lowercase()))
}

fn first_word(text: &str) -> String {
    text.trim_start()
        .chars()
        .take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_')
        .collect()
}

/// Groups of modules that reach each other.
fn cycles(graph: &Graph) -> Vec<Vec<String>> {
    let reach: BTreeMap<&String, BTreeSet<String>> = graph
        .keys()
        .map(|start| (start, reachable(graph, start)))
        .collect();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (module, reached) in &reach {
        if !reached.contains(*module) || !seen.insert((*module).clone()) {
            continue;
        }
        let group: Vec<String> = reached
            .iter()
            .filter(|other| reach.get(other).is_some_and(|back| back.contains(*module)))
            .cloned()
            .collect();
        seen.extend(group.iter().cloned());
        found.push(group);
    }
    found
}

fn reachable(graph: &Graph, start: &String) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&String> = graph[start].iter().collect();
    while let Some(module) = next.pop() {
        if let Some((module, edges)) = graph.get_key_value(module)
            && reached.insert(module.clone())
        {
            next.extend(edges);
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_read_from_plain_and_braced_paths() {
        let text =
            "use crate::{plan::{A, b}, wires::C};\nlet x = crate::load::go();\nuse crate::Error;";
        let found: Vec<String> = uses(text).collect();
        assert_eq!(found, ["load", "plan", "wires"]);
    }

    #[test]
    fn a_cycle_is_found_once() {
        let graph: Graph = [("a", "b"), ("b", "c"), ("c", "b"), ("d", "a")]
            .into_iter()
            .map(|(from, to)| (from.to_owned(), BTreeSet::from([to.to_owned()])))
            .collect();
        assert_eq!(cycles(&graph), vec![vec!["b".to_owned(), "c".to_owned()]]);
    }
}
