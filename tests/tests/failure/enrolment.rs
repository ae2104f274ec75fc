//! Pods that join and leave the mesh while they run.
//!
//! Method: a pod joins and leaves through the whole chain, the controller's source to the eBPF maps, while it has connections
//! of three kinds: one from before it ever joined, one from its last time in the mesh, new ones. The leak oracle watches what
//! is new while the pod is in. Everything that programs and kernel hold is counted before and after.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use weft_testkit::lab::program::kill_all;
use weft_testkit::load;
use weft_testkit::peer::Behaviour;
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::{Builder, TestLab};

use super::remains::Census;
use super::{is_long, program, until_replaced};

/// Rounds of joining and leaving.
const ROUNDS: usize = 100;
const ROUNDS_LONG: usize = 1000;
/// One round in so many the pod joins again only when its node has let go of it for good; else while tunnels still find it.
const FOR_GOOD: usize = 60;
/// Rounds before things are counted, in which caches and pools fill.
const WARM_UP: usize = 3;

#[test]
fn rounds_of_joining_and_leaving_leave_nothing_behind() {
    if !weft_tests::is_root() {
        return;
    }
    let rounds = if is_long() { ROUNDS_LONG } else { ROUNDS };
    let mut lab = Builder::two_nodes()
        .plain_pod("a", "n1")
        .pod("b", "n2")
        .up()
        .unwrap();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    let netns = lab.netns("a");
    let both = [lab.v4("a"), lab.v4("b")];
    let recorder = lab.record().unwrap();
    recorder.set_enrolled([]);
    let mut first = load::connect(&netns, to).unwrap();
    ping(&mut first);
    let mut round = |lab: &mut TestLab| {
        lab.set_mesh("a", true).unwrap();
        recorder.set_enrolled(both);
        load::echo(&netns, to, 1000).unwrap();
        let mut of_this_time = load::connect(&netns, to).unwrap();
        ping(&mut of_this_time);
        ping(&mut first);
        recorder.set_enrolled([]);
        lab.set_mesh("a", false).unwrap();
        // What was captured stays so to its end, and what was not still is not.
        ping(&mut of_this_time);
        ping(&mut first);
        load::echo(&netns, to, 1000).unwrap();
    };
    for _ in 0..WARM_UP {
        round(&mut lab);
    }
    lab.wait_until_let_go("a").unwrap();
    let before = ["n1", "n2"].map(|node| Census::take(&lab, node).unwrap());
    let started = Instant::now();
    for number in WARM_UP..rounds {
        round(&mut lab);
        if number % FOR_GOOD == 0 {
            lab.wait_until_let_go("a").unwrap();
        }
    }
    println!("{rounds} rounds in {:?}", started.elapsed());
    until_no_more_than(&lab, &before);
    println!("n1: {} descriptors before", before[0].descriptors());

    // Told again what it knows already, by its successor: joining is idempotent.
    lab.set_mesh("a", true).unwrap();
    let enrolled = ["n1", "n2"].map(|node| Census::take(&lab, node).unwrap());
    assert_eq!(
        enrolled[0].of("entries of PODS"),
        1,
        "the census does see a pod"
    );
    assert!(enrolled[0].is_no_more_than(&before[0]).is_err());
    let agent = program(&lab, "n1", "weft-agent");
    kill_all(&[agent]).unwrap();
    until_replaced(&lab, "n1", "weft-agent", agent);
    until("the pod to be enrolled as before", LONG, || {
        let now = Census::take(&lab, "n1")?;
        anyhow::ensure!(now.of("entries of PODS") == 1, "{now:?}");
        now.is_no_more_than(&enrolled[0])
    })
    .unwrap();
    ping(&mut first);
    lab.set_mesh("a", false).unwrap();
    lab.set_mesh("a", false).unwrap();
    until_no_more_than(&lab, &before);

    let report = recorder.stop().unwrap();
    report.verdict().unwrap();
    assert!(
        report.flows.iter().any(|(_, flow)| flow.canary),
        "outside of the mesh it is plain networking again"
    );
}

fn until_no_more_than(lab: &TestLab, before: &[Census; 2]) {
    let started = Instant::now();
    for (node, before) in ["n1", "n2"].into_iter().zip(before) {
        until(&format!("{node} to hold no more than before"), LONG, || {
            let r = Census::take(lab, node)?.is_no_more_than(before);
            if let Err(e) = &r {
                println!("{:?}: {node}: {e}", started.elapsed());
            }
            r
        })
        .unwrap();
    }
    println!("as before after {:?}", started.elapsed());
}

fn ping(stream: &mut TcpStream) {
    stream.write_all(b"~ping~").unwrap();
    stream.read_exact(&mut [0; 6]).unwrap();
}
