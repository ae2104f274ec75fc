//! Connects that cannot succeed fail at once, with ECONNREFUSED, and no longer than that is so.

use std::io;
use std::net::{IpAddr, SocketAddr};

use weft_testkit::admin;
use weft_testkit::lab::file::PodEntry;
use weft_testkit::lab::program::kill_all;
use weft_testkit::lab::report::program_of_node;
use weft_testkit::netns::has_ipv6;
use weft_testkit::peer::{Behaviour, Server};
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::{Builder, TestLab};

use super::reaches;

const LONELY: &str = "
apiVersion: v1
kind: Service
metadata: {name: lonely}
spec: {clusterIP: 10.96.8.8, clusterIPs: [10.96.8.8, 'fd00:10:96::88'], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: PreferDualStack, selector: {tier: lonely}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: served}
spec: {clusterIP: 10.96.8.9, selector: {app: b}, ports: [{port: 80, targetPort: 8080}]}
";

fn vips() -> Vec<SocketAddr> {
    let mut vips = vec!["10.96.8.8:80".parse().unwrap()];
    if has_ipv6() {
        vips.push("[fd00:10:96::88]:80".parse().unwrap());
    }
    vips
}

fn served() -> SocketAddr {
    "10.96.8.9:80".parse().unwrap()
}

/// What connect(2) itself says, blocking and not.
fn connects(lab: &TestLab, from: &str, to: SocketAddr) -> [io::Result<()>; 2] {
    [false, true].map(|nonblocking| {
        let outcome = lab.netns(from).enter(|| {
            let socket = socket2::Socket::new(
                socket2::Domain::for_address(to),
                socket2::Type::STREAM,
                None,
            )?;
            socket.set_nonblocking(nonblocking)?;
            let outcome = socket.connect(&to.into());
            Ok(outcome)
        });
        outcome.unwrap()
    })
}

fn is_refused(lab: &TestLab, from: &str, to: SocketAddr) -> bool {
    let refused = |outcome: &io::Result<()>| {
        let error = outcome.as_ref().err().and_then(io::Error::raw_os_error);
        error == Some(libc::ECONNREFUSED)
    };
    connects(lab, from, to).iter().all(refused)
}

fn until_refused(lab: &TestLab, from: &str) {
    for vip in vips() {
        until(
            &format!("connects of {from} to {vip} to be refused"),
            LONG,
            || {
                anyhow::ensure!(is_refused(lab, from, vip), "{:?}", connects(lab, from, vip));
                Ok(())
            },
        )
        .unwrap();
    }
}

fn until_served(lab: &TestLab, from: &str) {
    for vip in vips() {
        until(&format!("{vip} to serve {from}"), LONG, || {
            anyhow::ensure!(reaches(lab, from, vip), "{:?}", connects(lab, from, vip));
            Ok(())
        })
        .unwrap();
    }
}

/// What an agent says that the kernel refuses: addresses with port.
fn in_force(lab: &TestLab, node: &str) -> Vec<(IpAddr, u16)> {
    let path = lab.lab().place().admin(node, "agent");
    let refusals = admin::get_json(&path, "/refusals").unwrap();
    assert_eq!(refusals["omitted"], 0);
    serde_json::from_value(refusals["in_force"].clone()).unwrap()
}

fn refused_connects(lab: &TestLab, node: &str) -> u64 {
    let path = lab.lab().place().admin(node, "agent");
    let counters = admin::get_json(&path, "/counters").unwrap();
    let counters: Vec<(String, u64)> = serde_json::from_value(counters).unwrap();
    let (_, count) = counters
        .into_iter()
        .find(|(name, _)| name == "refused_known")
        .unwrap();
    count
}

fn lonely(entry: &mut PodEntry) {
    entry.labels.insert("tier".to_owned(), "lonely".to_owned());
}

/// Pods a on n1, b and outsider p on n2, and one service that nobody serves.
fn lab() -> Builder {
    Builder::two_nodes()
        .pod("a", "n1")
        .pod("b", "n2")
        .plain_pod("p", "n2")
        .resource(LONELY)
}

#[test]
fn a_service_without_endpoints_refuses_connect_itself_until_one_is_there() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = lab().up().unwrap();
    let _b = Server::start(&lab.netns("b"), super::service::any_8080(), Behaviour::Echo).unwrap();
    let before = refused_connects(&lab, "n1");
    until_refused(&lab, "a");
    until_refused(&lab, "b");
    assert!(in_force(&lab, "n1").contains(&(vips()[0].ip(), 0)));
    // Ports that nobody has are refused with the address, and nothing else is.
    assert!(is_refused(&lab, "a", SocketAddr::new(vips()[0].ip(), 81)));
    assert!(reaches(&lab, "a", served()));
    assert!(
        !is_refused(&lab, "p", vips()[0]),
        "a pod outside of the mesh is left alone"
    );
    until("the refused connects to be counted", LONG, || {
        let now = refused_connects(&lab, "n1");
        anyhow::ensure!(now >= before + 2, "{before} -> {now}");
        Ok(())
    })
    .unwrap();

    // An endpoint on the other node.
    lab.change(|file| {
        let mut entry = PodEntry::new("l", "n2");
        lonely(&mut entry);
        file.pods.push(entry);
    })
    .unwrap();
    let _l = Server::start(&lab.netns("l"), super::service::any_8080(), Behaviour::Echo).unwrap();
    until_served(&lab, "a");
    until_served(&lab, "b");
    assert!(in_force(&lab, "n1").is_empty() && in_force(&lab, "n2").is_empty());

    lab.change(|file| file.pods.retain(|entry| entry.name != "l"))
        .unwrap();
    until_refused(&lab, "a");
    until_refused(&lab, "b");
}

#[test]
fn refusals_outlive_no_program_and_follow_the_next_one() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = lab().pod_with("l", "n2", lonely).up().unwrap();
    let _l = Server::start(&lab.netns("l"), super::service::any_8080(), Behaviour::Echo).unwrap();
    let nobody = LONELY.replace("tier: lonely", "tier: nobody");
    for name in ["weft-proxy", "weft-agent", "weft-node"] {
        until_served(&lab, "a");
        assert!(
            in_force(&lab, "n1").is_empty(),
            "before the death of {name}"
        );
        lab.set_resource(0, &nobody).unwrap();
        until_refused(&lab, "a");
        let victim = program_of_node(lab.lab(), "n1", name).unwrap();
        kill_all(&[victim]).unwrap();
        if name == "weft-node" {
            lab.lab_mut().restart_node("n1").unwrap();
        }
        // The next one hears of it, and its word lifts the refusal again.
        until_refused(&lab, "a");
        lab.set_resource(0, LONELY).unwrap();
    }
    until_served(&lab, "a");
}
