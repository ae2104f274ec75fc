//! Sizes of files and functions, and the head that every file has.
//!
//! In: Rust files as rustfmt leaves them. Out: one line for each that is too long or headless.
//! Not here: whether the words of a head are good.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::{is_test_file, production, rust_files};

/// Production lines of a file: the target is 200, and this many fail.
const FILE_LINES_MAX: usize = 500;
/// Lines of a file of tests.
const TEST_LINES_MAX: usize = 600;
/// Lines of a function, from its signature to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;
/// Lines of a `main.rs`.
const MAIN_LINES_MAX: usize = 100;

/// What may be longer, and why: path, function or `*` for the file, reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[(
    "crates/weft-node-api/src/simulation/world.rs",
    "*",
    "a test: one deterministic world with every fault that it can have, read as a whole",
)];

/// Every file or function that breaks a rule.
pub fn findings(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for path in rust_files(root)? {
        let text = std::fs::read_to_string(root.join(&path))
            .with_context(|| format!("cannot read {}", path.display()))?;
        let found = judge(&path, &text);
        findings.extend(found);
    }
    Ok(findings)
}

/// Judges one file. Pure.
pub fn judge(path: &Path, text: &str) -> Vec<String> {
    let name = path.to_string_lossy();
    let excepted = |what: &str| {
        EXCEPTIONS
            .iter()
            .any(|(file, function, _)| *file == name && *function == what)
    };
    let mut findings = Vec::new();
    if !text.starts_with("//!") {
        findings.push(format!("{name}:1: does not begin with a //! head"));
    }
    let test = is_test_file(path);
    let body = if test { text } else { production(text) };
    let lines = body.lines().count();
    let limit = if test {
        TEST_LINES_MAX
    } else if name.ends_with("src/main.rs") {
        MAIN_LINES_MAX
    } else {
        FILE_LINES_MAX
    };
    if lines > limit && !excepted("*") {
        findings.push(format!("{name}: {lines} lines, at most {limit}"));
    }
    if !test {
        for (function, line, length) in functions(body) {
            if length > FUNCTION_LINES_MAX && !excepted(function) {
                findings.push(format!(
                    "{name}:{line}: {function} has {length} lines, at most {FUNCTION_LINES_MAX}"
                ));
            }
        }
    }
    findings
}

/// Name, first line and length of every function, by the indentation that rustfmt gives.
fn functions(text: &str) -> Vec<(&str, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let end = lines[index..].iter().position(|other| {
            other.len() - other.trim_start().len() == indent
                && (other.trim_start().starts_with('}') || other.trim_end().ends_with(';'))
        });
        if let Some(length) = end {
            found.push((name, index + 1, length + 1));
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    loop {
        if let Some(after) = rest.strip_prefix("fn ") {
            return Some(&after[..after.find(['(', '<']).unwrap_or(after.len())]);
        }
        let (word, after) = rest.split_once(' ')?;
        let known = ["const", "async", "unsafe", "extern", "\"C\""].contains(&word)
            || word.starts_with("pub");
        if !known {
            return None;
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_function_is_found_with_its_line() {
        let body = "    let x = 1;\n".repeat(80);
        let text = format!("//! Head.\n\npub(crate) async fn long(\n    a: u8,\n) {{\n{body}}}\n");
        let found = judge(Path::new("crates/x/src/a.rs"), &text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("a.rs:3: long has 84 lines"), "{found:?}");
    }

    #[test]
    fn tests_do_not_count_as_production() {
        let tests = "    // line\n".repeat(510);
        let text = format!("//! Head.\nfn short() {{}}\n\n#[cfg(test)]\nmod tests {{\n{tests}}}\n");
        assert!(judge(Path::new("crates/x/src/a.rs"), &text).is_empty());
    }

    #[test]
    fn a_file_without_head_is_found() {
        let found = judge(Path::new("crates/x/src/a.rs"), "use std::io;\n");
        assert!(found[0].contains("head"));
    }
}
