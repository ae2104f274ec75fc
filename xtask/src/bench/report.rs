//! Figures and ratios: tables for people, a JSON document for programs.
//!
//! In: samples by column and measure. Out: text. Not here: measuring.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::field::{DIRECT, HAPROXY, WEFT};
use super::samples::{Cell, Samples};
use crate::shell;

/// What the tunnel should reach; `docs/performance.md` says where the numbers come from.
struct Goal {
    measure: &'static str,
    /// The column that it is compared with; none for an absolute number.
    base: Option<&'static str>,
    bound: Bound,
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

const GOALS: [Goal; 15] = [
    at_least("bulk 1 connection, Gbit/s", DIRECT, 0.35),
    at_least("bulk 1 connection, Gbit/s", HAPROXY, 1.9),
    at_least("bulk 8 connections, Gbit/s", DIRECT, 0.35),
    at_least("bulk 8 connections, Gbit/s", HAPROXY, 1.9),
    at_most("both proxies, CPU s per GiB", HAPROXY, 0.5),
    at_most("both proxies, CPU s per GiB, 8 connections", HAPROXY, 0.5),
    at_most("round trip 64 B p50, us", DIRECT, 2.2),
    at_most("round trip 64 B p50, us", HAPROXY, 0.7),
    at_most("round trip 64 B p99, us", DIRECT, 2.5),
    at_least("HTTP keep-alive, requests/s", DIRECT, 0.45),
    at_least("HTTP keep-alive, requests/s", HAPROXY, 1.4),
    at_least("HTTP new connection each, requests/s", DIRECT, 0.4),
    at_least("HTTP new connection each, requests/s", HAPROXY, 10.0),
    Goal {
        measure: "memory idle, MiB",
        base: None,
        bound: Bound::AtMost(12.0),
    },
    at_most("memory after load, MiB", HAPROXY, 1.0),
];

const fn at_least(measure: &'static str, base: &'static str, ratio: f64) -> Goal {
    Goal {
        measure,
        base: Some(base),
        bound: Bound::AtLeast(ratio),
    }
}

const fn at_most(measure: &'static str, base: &'static str, ratio: f64) -> Goal {
    Goal {
        measure,
        base: Some(base),
        bound: Bound::AtMost(ratio),
    }
}

/// A Markdown table: figures, in brackets the ratio to `direct` and (bold) to the other proxy, then the lowest and the
/// highest visit.
pub(crate) fn table(samples: &Samples) -> String {
    let mut out = String::from("| |");
    for column in samples.columns() {
        push(&mut out, format_args!(" {column} |"));
    }
    out.push_str("\n|---|");
    out.push_str(&"---|".repeat(samples.columns().len()));
    out.push('\n');
    for row in samples.rows() {
        push(&mut out, format_args!("| {} |", row.name));
        for (at, column) in samples.columns().iter().enumerate() {
            let cell = row.cell(at).and_then(|cell| Some((cell, cell.figure()?)));
            let Some((cell, figure)) = cell else {
                out.push_str(" |");
                continue;
            };
            push(&mut out, format_args!(" {}", number(figure)));
            let ratios = [DIRECT, HAPROXY].map(|base| samples.ratio(row.name, column, base));
            let ratios = match ratios {
                [None, None] => String::new(),
                [Some(direct), None] => format!(" ({direct:.2})"),
                [None, Some(other)] => format!(" (**{other:.2}**)"),
                [Some(direct), Some(other)] => format!(" ({direct:.2}, **{other:.2}**)"),
            };
            push(&mut out, format_args!("{ratios}{} |", spread(cell)));
        }
        out.push('\n');
    }
    out
}

/// A Markdown table: what the tunnel between nodes should reach, and what it reached.
pub(crate) fn goals(samples: &Samples) -> String {
    let mut out = String::from("| goal | | reached | |\n|---|---|---|---|\n");
    for goal in &GOALS {
        let reached = match goal.base {
            Some(base) => samples.ratio(goal.measure, WEFT, base),
            None => samples.find(goal.measure, WEFT).and_then(Cell::figure),
        };
        let Some(reached) = reached else { continue };
        let (sign, bound, met) = match goal.bound {
            Bound::AtLeast(bound) => ("at least", bound, reached >= bound),
            Bound::AtMost(bound) => ("at most", bound, reached <= bound),
        };
        let of = goal
            .base
            .map(|base| format!(" x {base}"))
            .unwrap_or_default();
        let met = if met { "yes" } else { "no" };
        push(
            &mut out,
            format_args!(
                "| {} | {sign} {bound}{of} | {reached:.2} | {met} |\n",
                goal.measure
            ),
        );
    }
    out
}

fn spread(cell: &Cell) -> String {
    cell.spread().map_or_else(String::new, |(low, high)| {
        format!(" {} to {}", number(low), number(high))
    })
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text)
        .expect("writing to a string does not fail");
}

fn number(value: f64) -> String {
    if value >= 1000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

/// Writes everything, the single samples included, with what the figures depend on.
pub(crate) fn write_json(path: &Path, samples: &Samples, conditions: &Value) -> Result<()> {
    let mut measures = Map::new();
    for row in samples.rows() {
        let mut columns = Map::new();
        for (at, column) in samples.columns().iter().enumerate() {
            let cell = row.cell(at).filter(|cell| !cell.samples.is_empty());
            let Some(cell) = cell else { continue };
            let entry = json!({
                "figure": cell.figure(),
                "samples": cell.samples,
                "xDirect": samples.ratio(row.name, column, DIRECT),
                "xHaproxyPair": samples.ratio(row.name, column, HAPROXY),
            });
            columns.insert((*column).to_owned(), entry);
        }
        measures.insert(row.name.to_owned(), Value::Object(columns));
    }
    let document = json!({
        "bench": "l4",
        "conditions": conditions,
        "machine": machine(),
        "commit": commit(),
        "measures": measures,
    });
    let folder = path.parent().context("the JSON file needs a folder")?;
    std::fs::create_dir_all(folder)?;
    std::fs::write(path, serde_json::to_string_pretty(&document)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))
}

/// How busy the machine is, as the kernel shows it: three averages, running and all tasks.
pub(crate) fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.trim().to_owned()
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
    use super::{DIRECT, HAPROXY, Samples, WEFT, goals, table};

    #[test]
    fn a_table_holds_figures_ratios_and_spreads() {
        let mut samples = Samples::new([DIRECT, HAPROXY, WEFT].into_iter());
        for value in [9.0, 10.0, 14.0] {
            samples.add(DIRECT, "speed", value);
        }
        samples.add(HAPROXY, "speed", 4.0);
        samples.add(WEFT, "speed", 5.0);
        samples.add(WEFT, "memory", 2000.0);
        let text = table(&samples);
        let speed =
            "| speed | 10.00 (**2.50**) 9.00 to 14.00 | 4.00 (0.40) | 5.00 (0.50, **1.25**) |";
        assert!(text.contains(speed), "{text}");
        assert!(text.contains("| memory | | | 2000 |"), "{text}");
    }

    #[test]
    fn goals_are_shown_with_what_was_reached_and_only_when_measured() {
        let mut samples = Samples::new([DIRECT, HAPROXY, WEFT].into_iter());
        samples.add(DIRECT, "bulk 1 connection, Gbit/s", 40.0);
        samples.add(WEFT, "bulk 1 connection, Gbit/s", 16.0);
        samples.add(WEFT, "memory idle, MiB", 20.0);
        let text = goals(&samples);
        let bulk = "| bulk 1 connection, Gbit/s | at least 0.35 x direct | 0.40 | yes |";
        assert!(text.contains(bulk), "{text}");
        assert!(text.contains("| memory idle, MiB | at most 12 | 20.00 | no |"));
        assert_eq!(text.lines().count(), 4, "{text}");
    }
}
