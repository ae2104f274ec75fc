//! Many connections: at once, one after the other, and ones that leave at once.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use weft_testkit::admin;
use weft_testkit::load::{self, Churn};
use weft_testkit::peer::{Behaviour, Server};
use weft_testkit::wait::{LONG, until};

use super::{addresses, three_pods};

/// Connections open at the same time.
const CROWD: usize = 1000;
/// Connections one after the other; `WEFT_TEST_LONG=1` makes it the long size.
const QUEUE: u64 = 20_000;
const QUEUE_LONG: u64 = 300_000;
/// A thousand a second, far below the limit of 5000 up to which none may fail.
const QUEUE_INTERVAL: Duration = Duration::from_millis(1);

#[test]
fn a_thousand_connections_are_open_at_once() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = three_pods();
    for pod in ["b", "c"] {
        let server = Server::on_any(&lab.netns(pod), Behaviour::Echo).unwrap();
        for address in addresses(&lab, pod) {
            let to = server.at(address);
            let mut streams = load::connect_many(&lab.netns("a"), to, CROWD).unwrap();
            for stream in &mut streams {
                stream.write_all(b"~here~").unwrap();
            }
            for (number, stream) in streams.iter_mut().enumerate() {
                let mut answer = [0; 6];
                stream
                    .read_exact(&mut answer)
                    .unwrap_or_else(|error| panic!("connection {number} to {to}: {error}"));
            }
        }
    }
}

#[test]
fn new_connections_to_one_destination_never_run_out() {
    if !weft_tests::is_root() {
        return;
    }
    let long = std::env::var_os("WEFT_TEST_LONG").is_some();
    let count = if long { QUEUE_LONG } else { QUEUE };
    let lab = three_pods();
    let server = Server::on_any(&lab.netns("b"), Behaviour::Echo).unwrap();
    let started = std::time::Instant::now();
    // Both families at once: a thousand a second each, so far below the limit together as well.
    let churning: Vec<_> = addresses(&lab, "b")
        .into_iter()
        .map(|address| {
            let mut churn = Churn::new(&lab.netns("a"), server.at(address));
            churn.interval = QUEUE_INTERVAL;
            churn.start().unwrap()
        })
        .collect();
    until("that many connections", Duration::from_mins(10), || {
        for churn in &churning {
            let good = churn.good();
            anyhow::ensure!(good >= count, "{good} of {count}");
        }
        Ok(())
    })
    .unwrap();
    for churn in churning {
        let report = churn.stop().unwrap();
        println!("{} connections in {:?}", report.good, started.elapsed());
        report.verdict().unwrap();
    }
}

#[test]
fn clients_that_leave_at_once_leave_nothing_behind() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = three_pods();
    for pod in ["b", "c"] {
        let server = Server::on_any(&lab.netns(pod), Behaviour::Echo).unwrap();
        for address in addresses(&lab, pod) {
            drop(load::connect_many(&lab.netns("a"), server.at(address), 200).unwrap());
            for _ in 0..50 {
                drop(load::connect(&lab.netns("a"), server.at(address)).unwrap());
            }
        }
        for node in ["n1", "n2"] {
            let socket = lab.lab().place().admin(node, "proxy");
            until("no connection to be left", LONG, || {
                let list = admin::get_json(&socket, "/connections")?;
                let left = list["connections"].as_array().map_or(0, Vec::len);
                anyhow::ensure!(left == 0, "{left} are left");
                Ok(())
            })
            .unwrap();
        }
        load::echo(&lab.netns("a"), server.at(lab.v4(pod)), 1000).unwrap();
    }
}
