//! Medians and ratios: a table for people, a JSON document for programs.
//!
//! In: samples by column and measure. Out: text. Not here: measuring.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::shell;

/// Samples in the order in which measures and columns came.
pub(crate) struct Samples {
    columns: Vec<&'static str>,
    rows: Vec<(&'static str, Vec<Vec<f64>>)>,
}

impl Samples {
    pub(crate) fn new(columns: impl Iterator<Item = &'static str>) -> Self {
        Self {
            columns: columns.collect(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, column: &str, measure: &'static str, value: f64) {
        let at = self
            .rows
            .iter()
            .position(|(name, _)| *name == measure)
            .unwrap_or_else(|| {
                self.rows
                    .push((measure, vec![Vec::new(); self.columns.len()]));
                self.rows.len() - 1
            });
        let column = self.columns.iter().position(|name| *name == column);
        self.rows[at].1[column.expect("samples belong to a column")].push(value);
    }

    /// Ratio of a column's median to the one of `base`.
    fn ratio(&self, row: &[Vec<f64>], column: usize, base: &str) -> Option<f64> {
        let base = self.columns.iter().position(|name| *name == base)?;
        if base == column {
            return None;
        }
        Some(median(&row[column])? / median(&row[base])?)
    }
}

fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// A Markdown table: medians, and for each column the ratios to `direct` and to the other proxy.
pub(crate) fn table(samples: &Samples) -> String {
    let mut out = String::from("| median (x direct, x haproxy pair) |");
    for column in &samples.columns {
        write!(out, " {column} |").expect("writing to a string does not fail");
    }
    out.push_str("\n|---|");
    out.push_str(&"---|".repeat(samples.columns.len()));
    out.push('\n');
    for (measure, row) in &samples.rows {
        write!(out, "| {measure} |").expect("writing to a string does not fail");
        for (at, column) in row.iter().enumerate() {
            let Some(value) = median(column) else {
                out.push_str(" |");
                continue;
            };
            let ratios = ["direct", "haproxy pair"].map(|base| samples.ratio(row, at, base));
            let ratios: Vec<String> = ratios
                .iter()
                .map(|ratio| ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")))
                .collect();
            write!(out, " {} ({}) |", number(value), ratios.join(", "))
                .expect("writing to a string does not fail");
        }
        out.push('\n');
    }
    out
}

fn number(value: f64) -> String {
    if value >= 1000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

/// Writes everything, the single samples included, with what the figures depend on.
pub(crate) fn write_json(
    path: &Path,
    samples: &Samples,
    rounds: usize,
    seconds: u64,
) -> Result<()> {
    let mut measures = Map::new();
    for (measure, row) in &samples.rows {
        let mut columns = Map::new();
        for (at, values) in row.iter().enumerate() {
            if values.is_empty() {
                continue;
            }
            let entry = json!({
                "median": median(values),
                "samples": values,
                "xDirect": samples.ratio(row, at, "direct"),
                "xHaproxyPair": samples.ratio(row, at, "haproxy pair"),
            });
            columns.insert(samples.columns[at].to_owned(), entry);
        }
        measures.insert((*measure).to_owned(), Value::Object(columns));
    }
    let document = json!({
        "bench": "l4",
        "rounds": rounds,
        "seconds": seconds,
        "machine": machine(),
        "commit": commit(),
        "measures": measures,
    });
    let folder = path.parent().context("the JSON file needs a folder")?;
    std::fs::create_dir_all(folder)?;
    std::fs::write(path, serde_json::to_string_pretty(&document)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))
}

fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    json!({
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": model.map(|(_, name)| name),
    })
}

fn commit() -> Option<String> {
    let mut command = std::process::Command::new("git");
    command
        .current_dir(shell::root())
        .args(["describe", "--always", "--dirty"]);
    shell::output(&mut command)
        .ok()
        .map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Samples, median, table};

    #[test]
    fn medians_and_ratios() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        let mut samples = Samples::new(["direct", "haproxy pair", "weft"].into_iter());
        samples.add("direct", "speed", 10.0);
        samples.add("haproxy pair", "speed", 4.0);
        samples.add("weft", "speed", 5.0);
        samples.add("weft", "memory", 2000.0);
        let text = table(&samples);
        assert!(text.contains("| speed | 10.00 (-, 2.50) | 4.00 (0.40, -) | 5.00 (0.50, 1.25) |"));
        assert!(text.contains("| memory | | | 2000 (-, -) |"), "{text}");
    }
}
