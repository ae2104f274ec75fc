//! Access records, read back from a proxy's log.

use std::collections::HashMap;
use std::net::SocketAddr;

use weft_tests::lab::TestLab;

/// What the oracles need of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) node: String,
    pub(crate) inbound: bool,
    pub(crate) source: Option<SocketAddr>,
    pub(crate) source_workload: Option<String>,
    pub(crate) source_identity: Option<String>,
    pub(crate) destination: Option<SocketAddr>,
    pub(crate) destination_workload: Option<String>,
    pub(crate) destination_identity: Option<String>,
    pub(crate) failed: bool,
}

/// Every record that a node's proxy has written.
pub(crate) fn records(lab: &TestLab, node: &str) -> Vec<Record> {
    let log = lab.lab().place().node_logs(node).join("proxy.log");
    let text = std::fs::read_to_string(log).unwrap();
    let lines = text.lines().filter(|line| line.contains("direction=\""));
    lines.map(|line| parse(node, line)).collect()
}

/// Records of one direction by the address that the client connected from.
pub(crate) fn by_source(records: &[Record], inbound: bool) -> HashMap<SocketAddr, Vec<&Record>> {
    let mut found: HashMap<_, Vec<_>> = HashMap::new();
    for record in records.iter().filter(|record| record.inbound == inbound) {
        if let Some(source) = record.source {
            found.entry(source).or_default().push(record);
        }
    }
    found
}

fn parse(node: &str, line: &str) -> Record {
    let text = |name: &str| field(line, name).map(str::to_owned);
    let address = |name: &str| field(line, name)?.parse().ok();
    Record {
        node: node.to_owned(),
        inbound: field(line, "direction") == Some("inbound"),
        source: address("src.addr"),
        source_workload: text("src.workload"),
        source_identity: text("src.identity"),
        destination: address("dst.addr"),
        destination_workload: text("dst.workload"),
        destination_identity: text("dst.identity"),
        failed: field(line, "response_flags").is_some(),
    }
}

/// The value of `name=value` or `name="value"`.
fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let start = line
        .match_indices(name)
        .find(|(at, _)| {
            let before = line[..*at].chars().next_back();
            before.is_none_or(char::is_whitespace) && line[at + name.len()..].starts_with('=')
        })
        .map(|(at, _)| at + name.len() + 1)?;
    let rest = &line[start..];
    match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => rest.split_whitespace().next(),
    }
}

#[test]
fn a_record_is_read_field_by_field() {
    let line = "2026-01-01T00:00:00Z info access connection complete src.addr=10.0.0.1:5 src.workload=\"a\" \
                src.identity=\"spiffe://t/ns/n/sa/a\" dst.addr=[fd00::2]:80 direction=\"inbound\" error=\"x dst.identity=y\"";
    let record = parse("n1", line);
    assert_eq!(record.source, Some("10.0.0.1:5".parse().unwrap()));
    assert_eq!(record.source_workload.as_deref(), Some("a"));
    assert_eq!(
        record.source_identity.as_deref(),
        Some("spiffe://t/ns/n/sa/a")
    );
    assert_eq!(record.destination, Some("[fd00::2]:80".parse().unwrap()));
    assert!(record.inbound && !record.failed);
    assert_eq!(record.destination_workload, None);
}
