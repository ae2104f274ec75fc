//! Agents that die, come back, and come back as another release, under a steady stream of connects.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use weft_agent::capture::{Capture, CaptureSettings};
use weft_tests::is_root;
use weft_types::OrigDst;

use crate::rig::{NEIGHBOUR_V4, POD, Rig, accept, connect, is_idle, listen, v4};

/// Connects in a loop while `work` runs. Every connect must be captured and keep its destination.
fn under_load(rig: &Rig, work: impl FnOnce(&dyn Fn(u32))) -> u32 {
    let theirs = listen(&rig.neighbour, NEIGHBOUR_V4, 0);
    let to = theirs.local_addr().unwrap();
    let stop = AtomicBool::new(false);
    let count = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            rig.pod
                .enter(|| {
                    while !stop.load(Ordering::Relaxed) {
                        one(rig, to);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
                .unwrap();
        });
        let _stop = Stop(&stop);
        let more = |more: u32| {
            let target = count.load(Ordering::Relaxed) + more;
            crate::rig::wait(
                || count.load(Ordering::Relaxed) >= target,
                "connects have stopped",
            );
        };
        more(20);
        work(&more);
        more(20);
    });
    assert!(is_idle(&theirs), "a connection went around the mesh");
    count.into_inner()
}

/// Whatever happens to the work, the loop must end, or its scope never does.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn one(rig: &Rig, to: SocketAddr) {
    let client = TcpStream::connect(to).unwrap();
    let (_accepted, original) = rig.accept_outbound();
    assert_eq!(original, Some(OrigDst(to)));
    assert_eq!(client.peer_addr().unwrap(), to);
}

fn replace_agent(rig: &mut Rig, generation: u32) -> CaptureSettings {
    drop(rig.capture.take());
    rig.settings.generation = generation;
    rig.settings.clone()
}

#[test]
fn capture_goes_on_while_the_agent_is_dead_and_while_it_returns() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new();
    let settings = replace_agent(&mut rig, 1);
    under_load(&rig, |more| {
        for _ in 0..20 {
            let capture = Capture::open(settings.clone()).unwrap();
            assert_eq!(capture.pods().unwrap(), [POD]);
            more(5);
            drop(capture);
            more(5);
        }
    });
    rig.capture = Some(Capture::open(settings).unwrap());
    rig.wait_empty("CAPTURES");
}

#[test]
fn another_generation_takes_over_without_a_gap() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new();
    let before = connect(&rig.pod, v4(NEIGHBOUR_V4, 80)).unwrap();
    let settings = replace_agent(&mut rig, 2);
    let waiting = connect(&rig.pod, v4(NEIGHBOUR_V4, 81)).unwrap();
    assert_eq!(rig.accept_outbound().1, Some(OrigDst(v4(NEIGHBOUR_V4, 80))));
    // `waiting` stays in the backlog through all of it: its destination must not be lost.
    let in_backlog = accept(&rig.outbound);

    under_load(&rig, |more| {
        let capture = Capture::open(settings.clone()).unwrap();
        more(20);
        // Both generations are attached now.
        assert!(capture.sync(&[rig.description()]).is_empty());
        more(20);
        let others = std::fs::read_dir(capture.pins()).unwrap();
        let names: Vec<_> = others.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["2"]);
    });
    rig.capture = Some(Capture::open(settings).unwrap());
    let original = rig
        .storage
        .original_destination(std::os::fd::AsFd::as_fd(&in_backlog))
        .unwrap();
    assert_eq!(original, Some(OrigDst(v4(NEIGHBOUR_V4, 81))));
    assert_eq!(before.peer_addr().unwrap(), v4(NEIGHBOUR_V4, 80));
    assert_eq!(waiting.peer_addr().unwrap(), v4(NEIGHBOUR_V4, 81));
    rig.wait_empty("CAPTURES");
}

#[test]
fn a_generation_that_dies_before_it_is_done_is_finished_by_the_next_start() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new();
    let settings = replace_agent(&mut rig, 2);
    under_load(&rig, |more| {
        // Dies after attaching, before the pods are enrolled.
        drop(Capture::open(settings.clone()).unwrap());
        more(5);
        // Dies when one pod is enrolled, before the old generation is gone.
        let capture = Capture::open(settings.clone()).unwrap();
        capture.enrol(&rig.description()).unwrap();
        drop(capture);
        more(5);
        let capture = Capture::open(settings.clone()).unwrap();
        assert!(capture.sync(&[rig.description()]).is_empty());
        more(5);
    });
    rig.capture = Some(Capture::open(settings).unwrap());
    rig.wait_empty("CAPTURES");
}

#[test]
fn a_pod_half_removed_by_a_crash_is_removed_by_the_next_start() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new();
    let generation = rig
        .capture()
        .pins()
        .join(rig.settings.generation.to_string());
    let settings = rig.settings.clone();
    // The crash came after the lookup was unpinned, before the maps were cleaned.
    drop(rig.capture.take());
    std::fs::remove_file(generation.join("pods").join(POD.to_string()).join("lookup")).unwrap();
    rig.capture = Some(Capture::open(settings).unwrap());
    assert!(rig.capture().pods().unwrap().is_empty());
    for usage in rig.capture().map_usage().unwrap() {
        assert_eq!(usage.entries, 0, "{}", usage.map);
    }
}
