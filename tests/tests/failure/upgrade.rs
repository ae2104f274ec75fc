//! Planned replacement of all programs of all nodes, again and again, with connections old and new.
//!
//! Every generation of the proxy is given connections of its own, so that at the end as many generations drain side by side.

use std::time::{Duration, Instant};

use weft_testkit::lab::program::of_lab;
use weft_testkit::lab::upgrade;
use weft_testkit::load;
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::{TestLab, build_folder};

use super::{Steady, is_long, ping_all, raise_open_files, until_none_is_left};

/// New connections a second.
const RATE: u32 = 500;
/// Connections from before the first upgrade.
const LONG_CONNECTIONS: usize = 500;
/// Connections that each later generation takes on.
const EACH: usize = 5;
/// Upgrades of both nodes, one after the other; each takes a second or two.
const UPGRADES: usize = 10;
const UPGRADES_LONG: usize = 200;
/// Generations that are left draining at once: each is three processes a node.
const GENERATIONS_MAX: usize = 12;

#[test]
fn upgrades_break_no_connection_old_or_new() {
    if !weft_tests::is_root() {
        return;
    }
    raise_open_files();
    let upgrades = if is_long() { UPGRADES_LONG } else { UPGRADES };
    let mut steady = Steady::new(RATE);
    let (netns, to) = (steady.lab.netns("a"), steady.to());
    let mut long = load::connect_many(&netns, to, LONG_CONNECTIONS).unwrap();
    ping_all(&mut long);
    let mut longest = Duration::ZERO;
    for number in 0..upgrades {
        let started = Instant::now();
        upgrade(steady.lab.lab_mut(), &build_folder(), None).unwrap();
        longest = longest.max(started.elapsed());
        ping_all(&mut long);
        long.extend(load::connect_many(&netns, to, EACH).unwrap());
        if number % GENERATIONS_MAX == GENERATIONS_MAX - 1 {
            // The first ones stay to the end.
            long.truncate(LONG_CONNECTIONS);
            until_programs(&steady.lab, "weft-proxy", 2);
        }
    }
    println!("{upgrades} upgrades of two nodes, the longest took {longest:?}");
    ping_all(&mut long);
    let draining = programs(&steady.lab, "n1", "weft-proxy");
    assert!(draining > 2, "old proxies drain");
    let count = long.len();
    // The first programs leave while their successors, which have been replaced as well, still drain.
    let later = long.split_off(LONG_CONNECTIONS);
    let holders = ["n1", "n2"].map(|node| programs(&steady.lab, node, "weft-node"));
    drop(long);
    until_programs(&steady.lab, "weft-node", holders[0].max(holders[1]) - 1);
    drop(later);
    until_programs(&steady.lab, "weft-proxy", 1);
    until_programs(&steady.lab, "weft-node", 1);
    println!("{count} long connections lived on; no old program is left");
    for node in ["n1", "n2"] {
        // A node program that has been replaced starts none, not even when the one before it leaves.
        let log = steady.lab.lab().place().node_logs(node).join("agent.log");
        let log = std::fs::read_to_string(log).unwrap();
        assert!(!log.contains("another agent holds"), "two agents on {node}");
    }
    let (lab, server) = steady.survives();
    until_none_is_left(&lab.netns("b"), server.port());
}

/// Waits until each node runs this many of a program at most.
fn until_programs(lab: &TestLab, name: &str, most: usize) {
    for node in ["n1", "n2"] {
        until(&format!("each old {name} of {node} to end"), LONG, || {
            let count = programs(lab, node, name);
            anyhow::ensure!(count <= most, "{count} run");
            Ok(())
        })
        .unwrap();
    }
}

fn programs(lab: &TestLab, node: &str, name: &str) -> usize {
    let inode = lab.lab().topology().node(node).inode().unwrap();
    of_lab(lab.lab().place().name(), &[inode])
        .into_iter()
        .filter(|running| running.name() == name && running.is_inside(inode))
        .count()
}
