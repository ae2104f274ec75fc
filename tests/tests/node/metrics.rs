//! What the programs count, scraped as an operator's Prometheus does.

use std::collections::BTreeSet;

use weft_testkit::admin;
use weft_testkit::netns::Netns;
use weft_testkit::wait::{LONG, until};

use super::two_pods;

/// Ports of agent, proxy, node program; of the controller.
const AGENT: u16 = 15025;
const PROXY: u16 = 15020;
const NODE: u16 = 15023;
const CONTROLLER: u16 = 15014;

fn scrape(netns: &Netns, port: u16) -> anyhow::Result<String> {
    admin::get_tcp(netns, ([127, 0, 0, 1], port).into(), "/metrics")
}

/// Labels `limit` of whatever text.
fn limits(text: &str) -> BTreeSet<&str> {
    text.split("weft_limit_reached_total{limit=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect()
}

#[test]
fn every_limit_is_counted_from_the_start_and_each_stream_tells_how_it_is() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = two_pods();
    let topology = lab.lab().topology();
    let node = topology.node("n1");
    for port in [AGENT, PROXY] {
        until("the stream is connected", LONG, || {
            let text = scrape(&node, port)?;
            for line in [
                "weft_config_connected 1",
                "weft_config_rejected_resources 0",
            ] {
                anyhow::ensure!(text.lines().any(|found| found == line), "{line}: {text}");
            }
            anyhow::ensure!(text.contains("\nistio_xds_message_total{url="), "{text}");
            // Without it, a scraper refuses the whole answer.
            anyhow::ensure!(text.ends_with("# EOF\n"), "{text}");
            Ok(())
        })
        .unwrap();
    }
    let mut counted = scrape(&topology.controller(), CONTROLLER).unwrap();
    for port in [AGENT, PROXY, NODE] {
        counted += &scrape(&node, port).unwrap();
    }
    let table = include_str!("../../../docs/limits.md");
    let told: BTreeSet<&str> = limits(table)
        .into_iter()
        .filter(|name| *name != "…")
        .collect();
    assert_eq!(limits(&counted), told);
    assert!(told.contains("pod_captures"), "{told:?}");
}
