//! The table of limits in `docs/limits.md` against the code: names, values, metrics.
//!
//! In: the workspace's root. Out: one line for every row that the code does not bear out, and for every limit
//! that is counted and stands in no row. Not here: whether a reason is a good one.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Where the table is.
const TABLE: &str = "docs/limits.md";

/// Everything that is wrong.
pub fn findings(root: &Path) -> Result<Vec<String>> {
    let read = |path: &str| {
        std::fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {path}"))
    };
    let table = read(TABLE)?;
    let mut sources = String::new();
    for path in super::rust_files(root)? {
        if !super::is_test_file(&path) {
            let text = std::fs::read_to_string(root.join(&path))?;
            sources.push_str(super::production(&text));
        }
    }
    Ok(judge(&table, &sources, |path| read(path).ok()))
}

/// Compares the table with all sources, and its rows with the files that they name. Pure but for `file`.
pub fn judge(table: &str, sources: &str, file: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut findings = Vec::new();
    let mut told = BTreeSet::new();
    let rows = table.lines().filter(|line| line.starts_with("| "));
    for row in rows.filter(|row| !row.starts_with("| limit ")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [limit, value, .., metric] = cells[..] else {
            findings.push(format!("a row of {TABLE} has too few cells: {row}"));
            continue;
        };
        // Rows that name no file speak of the kernel's limits.
        if let [name, path] = code(limit)[..]
            && path.contains('/')
        {
            let value = code(value).first().copied().unwrap_or_default();
            let stands = [format!(" = {value};"), format!(": {value},")];
            let is_there = file(path).is_some_and(|text| {
                let mut lines = text.lines().filter(|line| line.contains(name));
                lines.any(|line| stands.iter().any(|end| line.ends_with(end.as_str())))
            });
            if !is_there {
                findings.push(format!(
                    "{TABLE}: {path} does not say that {name} is {value}"
                ));
            }
        }
        for metric in code(metric) {
            let name = metric.split('{').next().unwrap_or(metric);
            let name = name.strip_suffix("_total").unwrap_or(name);
            if !sources.contains(&format!("\"{name}\"")) {
                findings.push(format!("{TABLE}: nothing is counted as {name}"));
            }
            if let Some((_, rest)) = metric.split_once("limit=\"") {
                told.insert(rest.trim_end_matches("\"}").to_owned());
            }
        }
    }
    let counted = counted(sources);
    let all = counted.union(&told).cloned().collect::<BTreeSet<_>>();
    for name in all {
        match (counted.contains(&name), told.contains(&name)) {
            (true, false) => findings.push(format!("{TABLE} has no row for the limit {name}")),
            (false, true) => findings.push(format!("{TABLE}: no limit is counted as {name}")),
            _ => {}
        }
    }
    findings
}

/// What stands between backticks.
fn code(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Names of limits as they are made.
fn counted(sources: &str) -> BTreeSet<String> {
    sources
        .split("Limit::new(")
        .skip(1)
        .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
        // Not the marker itself, which stands above.
        .filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .map(ToOwned::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::judge;

    const HEAD: &str = "| limit | value | why | when | metric |\n|---|---|---|---|---|\n";
    const ROW: &str = "| `SEATS_MAX` in `a/b.rs` | `4` seats | four chairs | stand | `weft_limit_reached_total{limit=\"seats\"}` |\n";
    const SOURCES: &str =
        "x(\"weft_limit_reached\"); static SEATS: Limit = Limit::new(\n    \"seats\", \"\");";

    fn check(table: &str, file: &str, want: &str) {
        let findings = judge(table, SOURCES, |_| Some(file.to_owned()));
        assert_eq!(
            findings.len(),
            usize::from(!want.is_empty()),
            "{findings:?}"
        );
        assert!(findings.iter().all(|finding| finding.contains(want)));
    }

    #[test]
    fn a_row_must_name_the_value_that_the_code_has_and_a_metric_that_is_counted() {
        let table = format!("{HEAD}{ROW}");
        check(&table, "const SEATS_MAX: usize = 4;", "");
        check(&table, "    SEATS_MAX: 4,", "");
        check(&table, "const SEATS_MAX: usize = 5;", "is 4");
        let more = format!("{table}{}", ROW.replace("seats\"", "chairs\""));
        check(&more, "const SEATS_MAX: usize = 4;", "chairs");
        check(HEAD, "", "no row for the limit seats");
    }
}
