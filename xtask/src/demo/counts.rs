//! The last act: what the proxies counted, as a table that can be read without knowing the names, and where dashboards find it.
//!
//! In: the metrics of both nodes' proxies. Out: one row for each pair of service accounts, side and security. Not here: what
//! all the metrics are.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use weft_testkit::admin;
use weft_testkit::wait::{SHORT, until};

use super::acts::{say, title};
use super::stage::{SERVICE, Stage};

/// Where a proxy shows its metrics, inside its node's network namespace.
const METRICS: &str = "127.0.0.1:15020";
/// The count that the table is made of.
const OPENED: &str = "istio_tcp_connections_opened_total";

const CALLER_SIDE: &str = "caller's side";
const CALLEE_SIDE: &str = "callee's side";
/// Calls of this act, by caller.
const CALLS: [(&str, u64); 2] = [("web", 6), ("batch", 3)];

/// What tells rows apart, in the order of the columns.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    caller: String,
    callee: String,
    side: String,
    security: String,
}

/// The numbers that dashboards read.
pub(super) fn metrics(stage: &mut Stage) -> Result<()> {
    title(7, "the metrics: who called whom, and how often");
    let before = counts(stage)?;
    for (caller, calls) in CALLS {
        for _ in 0..calls {
            stage.call(caller, SERVICE.parse()?)?;
        }
        say(&format!("{caller} calls the api {calls} times"));
    }
    let rows = until("both sides to count every call", SHORT, || {
        let rows = since(&before, counts(stage)?);
        for (caller, calls) in CALLS {
            for side in [CALLER_SIDE, CALLEE_SIDE] {
                let counted: u64 = rows
                    .iter()
                    .filter(|(row, _)| row.caller == caller && row.side == side)
                    .map(|(_, count)| count)
                    .sum();
                ensure!(counted == calls, "{side}: {counted} of {calls} of {caller}");
            }
        }
        Ok(rows)
    })?;
    say("what the proxies of both nodes counted of it, by service account:");
    say("");
    for line in table(&rows) {
        say(&line);
    }
    say("");
    say(
        "Each connection is counted twice: by the proxy of the caller's node and by that of the callee's.",
    );
    say("mutual_tls: both sides proved who they are; otherwise it would read `unknown`.");
    example(stage)
}

/// Where the numbers stand, for whoever has dashboards.
fn example(stage: &Stage) -> Result<()> {
    let netns = stage.lab.topology().node("n1");
    let text = admin::get_tcp(&netns, METRICS.parse()?, "/metrics")?;
    let line = text.lines().find(|line| line.starts_with(OPENED));
    let line = line.context("n1's proxy counted nothing")?;
    say(
        "The names are Istio's, so that its dashboards read them; n1's proxy since it was started:",
    );
    say(&format!("  {}", shorten(line)));
    say(&format!(
        "With --keep: nsenter --net=/run/netns/{} curl -s http://{METRICS}/metrics",
        netns.name()
    ));
    Ok(())
}

/// Connections opened, as both nodes' proxies count them now.
fn counts(stage: &Stage) -> Result<BTreeMap<Row, u64>> {
    let address: SocketAddr = METRICS.parse()?;
    let mut rows = BTreeMap::new();
    for node in ["n1", "n2"] {
        let text = admin::get_tcp(&stage.lab.topology().node(node), address, "/metrics")?;
        for (row, count) in text
            .lines()
            .filter(|line| line.starts_with(OPENED))
            .filter_map(read)
        {
            *rows.entry(row).or_insert(0) += count;
        }
    }
    Ok(rows)
}

/// What was added.
fn since(before: &BTreeMap<Row, u64>, mut now: BTreeMap<Row, u64>) -> BTreeMap<Row, u64> {
    now.retain(|row, count| {
        *count -= before.get(row).copied().unwrap_or(0).min(*count);
        *count > 0
    });
    now
}

/// A sample of the text format: its labels, and its value.
fn read(line: &str) -> Option<(Row, u64)> {
    let (_, rest) = line.split_once('{')?;
    let (labels, value) = rest.rsplit_once('}')?;
    let labels: BTreeMap<&str, &str> = labels
        .split("\",")
        .filter_map(|label| label.split_once("=\""))
        .map(|(name, value)| (name, value.trim_end_matches('"')))
        .collect();
    let label = |name: &str| labels.get(name).copied().unwrap_or("unknown");
    let side = match label("reporter") {
        "source" => CALLER_SIDE,
        "destination" => CALLEE_SIDE,
        other => other,
    };
    let row = Row {
        caller: account(label("source_principal")),
        callee: account(label("destination_principal")),
        side: side.to_owned(),
        security: label("connection_security_policy").to_owned(),
    };
    Some((row, value.trim().parse().ok()?))
}

/// The service account of an identity.
fn account(principal: &str) -> String {
    let account = principal.rsplit_once("/sa/").map(|(_, account)| account);
    account.unwrap_or(principal).to_owned()
}

fn table(rows: &BTreeMap<Row, u64>) -> Vec<String> {
    let line = |caller: &str, callee: &str, side: &str, security: &str, count: &str| {
        format!("{caller:<8} {callee:<8} {side:<14} {security:<11} {count:>11}")
    };
    let head = line("caller", "callee", "counted on", "security", "connections");
    std::iter::once(head)
        .chain(rows.iter().map(|(row, count)| {
            line(
                &row.caller,
                &row.callee,
                &row.side,
                &row.security,
                &count.to_string(),
            )
        }))
        .collect()
}

/// A sample with the labels that tell who and whom; the rest is left out.
fn shorten(line: &str) -> String {
    let wanted = ["reporter", "source_principal", "destination_principal"];
    let (name, rest) = line.split_once('{').unwrap_or((line, ""));
    let (labels, value) = rest.rsplit_once('}').unwrap_or((rest, ""));
    let labels: Vec<String> = labels
        .split("\",")
        .map(|label| format!("{}\"", label.trim_end_matches('"')))
        .filter(|label| {
            wanted
                .iter()
                .any(|name| label.starts_with(&format!("{name}=")))
        })
        .collect();
    format!("{name}{{{},...}}{value}", labels.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "istio_tcp_connections_opened_total{reporter=\"source\",source_principal=\"spiffe://cluster.local/ns/default/sa/web\",destination_principal=\"spiffe://cluster.local/ns/default/sa/api\",connection_security_policy=\"mutual_tls\"} 7";

    #[test]
    fn a_sample_becomes_a_row_in_words() {
        let (row, count) = read(LINE).unwrap();
        let rows = BTreeMap::from([(row, count)]);
        assert_eq!(
            table(&rows)[1],
            "web      api      caller's side  mutual_tls            7"
        );
    }

    #[test]
    fn an_example_keeps_its_form() {
        assert_eq!(
            shorten(LINE),
            "istio_tcp_connections_opened_total{reporter=\"source\",source_principal=\"spiffe://cluster.local/ns/default/sa/web\",destination_principal=\"spiffe://cluster.local/ns/default/sa/api\",...} 7"
        );
    }
}
