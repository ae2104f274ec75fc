//! The measures: each runs a client inside a column's pod and reads its result.
//!
//! In: a column and a length. Out: named numbers with their unit in the name, or the times of all
//! round trips. Not here: rounds, medians.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::field::{Column, ECHO, HTTP, IPERF};
use super::{latency, process};
use crate::shell;

/// Something to measure.
#[derive(Clone, Copy)]
pub(crate) enum Measure {
    Bulk { connections: u32 },
    RoundTrip,
    KeepAlive,
    NewConnections,
}

/// What one visit of a column brought.
pub(crate) enum Taken {
    Numbers(Vec<(&'static str, f64)>),
    /// Nanoseconds of each round trip.
    RoundTrips(Vec<u32>),
}

/// Visits of a column in one round for round trips. Their time depends on where the scheduler puts four processes on
/// few cores, and a connection often keeps that for its whole life: many short ones see more of it than a long one.
const ROUND_TRIP_VISITS: u32 = 6;

/// Open connections of the HTTP client.
const HTTP_CONNECTIONS: &str = "32";

impl Measure {
    pub(crate) const ALL: [Self; 5] = [
        Self::Bulk { connections: 1 },
        Self::Bulk { connections: 8 },
        Self::RoundTrip,
        Self::KeepAlive,
        Self::NewConnections,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bulk { connections: 1 } => "bulk-1",
            Self::Bulk { .. } => "bulk-8",
            Self::RoundTrip => "round-trip",
            Self::KeepAlive => "keep-alive",
            Self::NewConnections => "new-connections",
        }
    }

    /// How often each column is visited in a round; the visits share its length.
    pub(crate) fn visits(self) -> u32 {
        match self {
            Self::RoundTrip => ROUND_TRIP_VISITS,
            _ => 1,
        }
    }

    pub(crate) fn take(self, column: &Column, length: Duration) -> Result<Taken> {
        let numbers = match self {
            Self::Bulk { connections } => bulk(column, length, connections),
            Self::RoundTrip => {
                let times = latency::measure(&column.client, column.server(ECHO), length)?;
                return Ok(Taken::RoundTrips(times));
            }
            Self::KeepAlive => {
                let names = [
                    "HTTP keep-alive, requests/s",
                    "both proxies, CPU us per request",
                ];
                http(column, length, &[], names)
            }
            Self::NewConnections => {
                let close = ["--header", "Connection: close"];
                let names = [
                    "HTTP new connection each, requests/s",
                    "both proxies, CPU us per new connection",
                ];
                http(column, length, &close, names)
            }
        };
        numbers.map(Taken::Numbers)
    }
}

fn bulk(column: &Column, length: Duration, connections: u32) -> Result<Vec<(&'static str, f64)>> {
    let proxies = column.proxies()?;
    let before = process::seconds(&proxies);
    let server = column.server(IPERF);
    let mut command = Command::new("iperf3");
    command
        .args([
            "--json",
            "--client",
            &server.ip().to_string(),
            "--port",
            &server.port().to_string(),
        ])
        .args([
            "--time",
            &length.as_secs().to_string(),
            "--parallel",
            &connections.to_string(),
        ]);
    let text = run_inside(column, command)?;
    let used = process::seconds(&proxies) - before;
    let result: Value = serde_json::from_str(&text).context("iperf3 wrote no JSON")?;
    let received = &result["end"]["sum_received"];
    let number = |key: &str| {
        received[key]
            .as_f64()
            .with_context(|| format!("iperf3 reports no {key}: {}", result["error"]))
    };
    let gbit = number("bits_per_second")? / 1e9;
    let gib = number("bytes")? / f64::from(1 << 30);
    let (speed, cost) = if connections == 1 {
        ("bulk 1 connection, Gbit/s", "both proxies, CPU s per GiB")
    } else {
        (
            "bulk 8 connections, Gbit/s",
            "both proxies, CPU s per GiB, 8 connections",
        )
    };
    let mut values = vec![(speed, gbit)];
    if !proxies.is_empty() {
        values.push((cost, used / gib));
    }
    Ok(values)
}

fn http(
    column: &Column,
    length: Duration,
    more: &[&str],
    [speed, cost]: [&'static str; 2],
) -> Result<Vec<(&'static str, f64)>> {
    let proxies = column.proxies()?;
    let before = process::seconds(&proxies);
    let mut command = Command::new("wrk");
    command
        .args(["--threads", "1", "--connections", HTTP_CONNECTIONS])
        .args(["--duration", &format!("{}s", length.as_secs())])
        .args(more)
        .arg(format!("http://{}/", column.server(HTTP)));
    let text = run_inside(column, command)?;
    let used = process::seconds(&proxies) - before;
    let field = |key: &str| text.lines().find_map(|line| line.trim().strip_prefix(key));
    // A proxy that fails requests quickly must not look fast.
    if let Some(errors) = field("Socket errors:").or_else(|| field("Non-2xx or 3xx responses:")) {
        let failed = errors
            .split_ascii_whitespace()
            .filter_map(|word| word.trim_end_matches(',').parse::<u64>().ok());
        let failed: u64 = failed.sum();
        if failed > 0 {
            let (name, errors) = (column.name, errors.trim());
            shell::warn(&format!("{name}: {failed} failed requests ({errors})"));
        }
    }
    let rate = field("Requests/sec:").and_then(|text| text.trim().parse().ok());
    let mut values = vec![(speed, rate.context("wrk reports no rate")?)];
    // "12345 requests in 2.00s, 1.00MB read"
    let requests = text.lines().find_map(|line| {
        let (count, _) = line.trim().split_once(" requests in ")?;
        count.parse::<f64>().ok()
    });
    if !proxies.is_empty() {
        let requests = requests.context("wrk reports no number of requests")?;
        values.push((cost, used / requests * 1e6));
    }
    Ok(values)
}

/// Runs a client in the column's pod and returns what it printed.
fn run_inside(column: &Column, mut command: Command) -> Result<String> {
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = column
        .client
        .enter(|| command.output().context("cannot start the client"))?;
    let text = String::from_utf8(output.stdout).context("the client wrote no text")?;
    if !output.status.success() {
        bail!(
            "the client ended with {}: {}",
            output.status,
            text.lines().take(5).collect::<String>()
        );
    }
    Ok(text)
}
