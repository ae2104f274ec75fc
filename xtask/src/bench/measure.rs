//! The measures: each runs a client inside a column's pod and reads its result.
//!
//! In: a column and a length. Out: named numbers with their unit in the name. Not here: rounds,
//! medians.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::field::{Column, ECHO, HTTP, IPERF};
use super::{latency, process};

/// Something to measure.
#[derive(Clone, Copy)]
pub(crate) enum Measure {
    Bulk { connections: u32 },
    RoundTrip,
    KeepAlive,
    NewConnections,
}

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

    pub(crate) fn take(
        self,
        column: &Column,
        length: Duration,
    ) -> Result<Vec<(&'static str, f64)>> {
        match self {
            Self::Bulk { connections } => bulk(column, length, connections),
            Self::RoundTrip => {
                let times = latency::measure(&column.client, column.server(ECHO), length)?;
                Ok(vec![
                    ("round trip 64 B p50, us", times.p50_us),
                    ("round trip 64 B p99, us", times.p99_us),
                ])
            }
            Self::KeepAlive => http(column, length, &[], "HTTP keep-alive, requests/s"),
            Self::NewConnections => {
                let close = ["--header", "Connection: close"];
                http(
                    column,
                    length,
                    &close,
                    "HTTP new connection each, requests/s",
                )
            }
        }
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
    name: &'static str,
) -> Result<Vec<(&'static str, f64)>> {
    let mut command = Command::new("wrk");
    command
        .args(["--threads", "1", "--connections", HTTP_CONNECTIONS])
        .args(["--duration", &format!("{}s", length.as_secs())])
        .args(more)
        .arg(format!("http://{}/", column.server(HTTP)));
    let text = run_inside(column, command)?;
    let field = |key: &str| text.lines().find_map(|line| line.trim().strip_prefix(key));
    // A proxy that fails requests quickly must not look fast.
    if let Some(errors) = field("Socket errors:").or_else(|| field("Non-2xx or 3xx responses:")) {
        let failed = errors
            .split_ascii_whitespace()
            .filter_map(|word| word.trim_end_matches(',').parse::<u64>().ok());
        let failed: u64 = failed.sum();
        if failed > 0 {
            eprintln!(
                "    {}: {failed} failed requests ({})",
                column.name,
                errors.trim()
            );
        }
    }
    let rate = field("Requests/sec:").and_then(|text| text.trim().parse().ok());
    Ok(vec![(name, rate.context("wrk reports no rate")?)])
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
