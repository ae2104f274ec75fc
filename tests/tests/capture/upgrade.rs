//! Agents that die, come back, and come back as another release, under a steady stream of connects.
//!
//! Method: the pod connects in a loop, IPv4 and IPv6 in turn, to a neighbour that listens; every connect must be captured and
//! keep its destination. A packet socket at the neighbour is the witness that knows nothing of eBPF: any SYN of the pod that
//! it sees is a leak.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use weft_agent::capture::{Capture, CaptureSettings, MapSizes};
use weft_bpf::{link_cgroup_id, object_get};
use weft_testkit::leak::{Recorder, Report, Why};
use weft_tests::is_root;
use weft_types::OrigDst;

use crate::crash::{Life, live_for};
use crate::rig::{
    NEIGHBOUR_V4, NEIGHBOUR_V6, POD, POD_V4, POD_V6, Rig, accept, connect, is_idle, listen, v4,
};

/// Replacements of programs in place, each of one link.
const LINK_UPDATES: usize = 100;
const LINK_UPDATES_LONG: usize = 1000;
/// Replacements of all maps and programs by those of another generation.
const MIGRATIONS: u32 = 5;
const MIGRATIONS_LONG: u32 = 50;
/// Of the steps after which a generation is taken back, every so many is tried; all of them in the long size.
const EVERY: usize = 3;

/// Connects in a loop while `work` runs. Every connect must be captured and keep its destination.
fn under_load(rig: &Rig, work: impl FnOnce(&dyn Fn(u32))) {
    let theirs = [
        listen(&rig.neighbour, NEIGHBOUR_V4, 0),
        listen(&rig.neighbour, NEIGHBOUR_V6, 0),
    ];
    let to = [0, 1].map(|family| theirs[family].local_addr().unwrap());
    let witness = witness(rig);
    let stop = AtomicBool::new(false);
    let count = AtomicU32::new(0);
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            rig.pod
                .enter(|| {
                    for to in to.iter().cycle() {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        one(rig, *to);
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
    let (count, elapsed) = (count.into_inner(), started.elapsed());
    println!(
        "{count} connects, {:.0} a second",
        f64::from(count) / elapsed.as_secs_f64()
    );
    assert!(
        theirs.iter().all(is_idle),
        "a connection went around the mesh"
    );
    witness.stop().unwrap().verdict().unwrap();
}

/// Sees every packet that reaches the neighbour, whatever programs are attached at the pod.
fn witness(rig: &Rig) -> Recorder {
    let all = [
        POD_V4.into(),
        POD_V6.into(),
        NEIGHBOUR_V4.into(),
        NEIGHBOUR_V6.into(),
    ];
    Recorder::start(std::slice::from_ref(&rig.neighbour), all).unwrap()
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

fn is_long() -> bool {
    std::env::var_os("WEFT_TEST_LONG").is_some()
}

/// Generations that have pins.
fn generations(capture: &Capture) -> Vec<String> {
    let entries = std::fs::read_dir(capture.pins()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into()).collect();
    names.sort();
    names
}

/// A whole start of an agent that knows its pods at once, to the end or to its death.
fn start(rig: &Rig, settings: &CaptureSettings) -> Result<(), String> {
    let capture = Capture::open(settings.clone()).map_err(|error| error.to_string())?;
    match capture.sync(&[rig.description()]).as_slice() {
        [] => Ok(()),
        failed => Err(format!("{failed:?}")),
    }
}

/// A start that must succeed and leave this generation and no other.
fn finish(rig: &Rig, settings: &CaptureSettings) {
    let capture = Capture::open(settings.clone()).unwrap();
    assert!(capture.sync(&[rig.description()]).is_empty());
    assert_eq!(capture.pods().unwrap(), [POD]);
    assert_eq!(generations(&capture), [settings.generation.to_string()]);
}

#[test]
fn the_witness_sees_what_is_not_captured() {
    if !is_root() {
        return;
    }
    let rig = Rig::plain(MapSizes::default());
    let theirs = listen(&rig.neighbour, NEIGHBOUR_V4, 0);
    let witness = witness(&rig);
    let _client = connect(&rig.pod, theirs.local_addr().unwrap()).unwrap();
    let report: Report = witness.stop().unwrap();
    assert!(
        report
            .violations
            .iter()
            .any(|seen| seen.why == Why::Uncaptured)
    );
}

#[test]
fn programs_are_replaced_in_place_without_a_gap() {
    if !is_root() {
        return;
    }
    let wanted = if is_long() {
        LINK_UPDATES_LONG
    } else {
        LINK_UPDATES
    };
    let mut rig = Rig::new();
    let settings = replace_agent(&mut rig, 1);
    let mut updates = 0;
    under_load(&rig, |more| {
        while updates < wanted {
            // The agent of before is dead, this one comes, and dies.
            let Life { outcome, steps, .. } = live_for(usize::MAX, || start(&rig, &settings));
            outcome.unwrap();
            updates += steps.iter().filter(|step| **step == "link update").count();
            more(10);
        }
    });
    println!("{updates} links updated");
    rig.capture = Some(Capture::open(settings).unwrap());
    rig.wait_empty("CAPTURES");
}

#[test]
fn other_generations_take_over_without_a_gap() {
    if !is_root() {
        return;
    }
    let migrations = if is_long() {
        MIGRATIONS_LONG
    } else {
        MIGRATIONS
    };
    let mut rig = Rig::new();
    let before = connect(&rig.pod, v4(NEIGHBOUR_V4, 80)).unwrap();
    let mut settings = replace_agent(&mut rig, 1);
    let waiting = connect(&rig.pod, v4(NEIGHBOUR_V4, 81)).unwrap();
    assert_eq!(rig.accept_outbound().1, Some(OrigDst(v4(NEIGHBOUR_V4, 80))));
    // `waiting` stays in the backlog through all of it: its destination must not be lost.
    let in_backlog = accept(&rig.outbound);

    under_load(&rig, |more| {
        for number in 0..migrations {
            settings.generation += 1;
            // The maps of each are of another size than those before.
            settings.sizes.captures = 1024 << (number % 4);
            settings.sizes.refusals = 512 << (number % 3);
            let capture = Capture::open(settings.clone()).unwrap();
            more(20);
            // Both generations are attached now.
            assert_eq!(generations(&capture).len(), 2);
            assert!(capture.sync(&[rig.description()]).is_empty());
            more(20);
            assert_eq!(generations(&capture), [settings.generation.to_string()]);
        }
    });
    rig.settings = settings.clone();
    rig.capture = Some(Capture::open(settings).unwrap());
    let original = rig
        .storage
        .original_destination(in_backlog.as_fd())
        .unwrap();
    assert_eq!(original, Some(OrigDst(v4(NEIGHBOUR_V4, 81))));
    assert_eq!(before.peer_addr().unwrap(), v4(NEIGHBOUR_V4, 80));
    assert_eq!(waiting.peer_addr().unwrap(), v4(NEIGHBOUR_V4, 81));
    rig.wait_empty("CAPTURES");
}

#[test]
fn a_generation_that_goes_captures_nothing_more_whoever_holds_its_links() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new();
    let links = rig.settings.generation.to_string();
    let links = rig.capture().pins().join(links).join("links");
    // As the kernel does until its worker comes to a link without pins.
    let held = ["connect4", "connect6"].map(|name| object_get(&links.join(name)).unwrap());
    let generation = rig.settings.generation + 1;
    let settings = replace_agent(&mut rig, generation);
    finish(&rig, &settings);
    rig.capture = Some(Capture::open(settings).unwrap());
    for link in &held {
        assert_eq!(link_cgroup_id(link.as_fd()).unwrap(), 0, "still attached");
    }
    let theirs = listen(&rig.neighbour, NEIGHBOUR_V4, 0);
    let to = theirs.local_addr().unwrap();
    let _client = connect(&rig.pod, to).unwrap();
    assert_eq!(rig.accept_outbound().1, Some(OrigDst(to)));
    assert!(is_idle(&theirs));
    rig.wait_empty("CAPTURES");
}

#[test]
fn a_generation_that_dies_at_any_step_is_finished_by_the_next_start() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new();
    let mut settings = replace_agent(&mut rig, 1);
    let mut all = Vec::new();
    under_load(&rig, |more| {
        for allowed in 0.. {
            settings.generation += 1;
            let life = live_for(allowed, || start(&rig, &settings));
            if !life.died {
                life.outcome.unwrap();
                all = life.steps;
                break;
            }
            life.outcome.unwrap_err();
            more(3);
            finish(&rig, &settings);
        }
    });
    println!(
        "died before each of {} steps: {}",
        all.len(),
        all.join(", ")
    );
    for kind in [
        "mkdir",
        "pin",
        "link create",
        "map update",
        "link detach",
        "unlink",
        "rmdir",
    ] {
        assert!(
            all.contains(&kind),
            "an upgrade has no step of this kind: {kind}"
        );
    }
    rig.settings = settings.clone();
    rig.capture = Some(Capture::open(settings).unwrap());
    rig.wait_empty("CAPTURES");
}

#[test]
fn a_generation_that_dies_at_any_step_can_be_taken_back() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new();
    let old = replace_agent(&mut rig, 1);
    let new = CaptureSettings {
        generation: 2,
        ..old.clone()
    };
    let every = if is_long() { 1 } else { EVERY };
    let mut count = 0;
    under_load(&rig, |more| {
        for allowed in (0..).step_by(every) {
            if !live_for(allowed, || start(&rig, &new)).died {
                break;
            }
            count += 1;
            more(3);
            // The release of before is installed again.
            finish(&rig, &old);
        }
    });
    println!("taken back {count} times, after every {every}. step");
    rig.settings = new.clone();
    rig.capture = Some(Capture::open(new).unwrap());
    rig.wait_empty("CAPTURES");
}

#[test]
fn a_start_that_dies_at_any_step_is_finished_by_the_next_one() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new();
    let settings = replace_agent(&mut rig, 1);
    under_load(&rig, |more| {
        for allowed in 0.. {
            if !live_for(allowed, || start(&rig, &settings)).died {
                break;
            }
            more(3);
        }
    });
    finish(&rig, &settings);
    rig.capture = Some(Capture::open(settings).unwrap());
    rig.wait_empty("CAPTURES");
}

#[test]
fn enrolment_and_its_end_may_die_at_any_step() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::plain(MapSizes::default());
    let settings = replace_agent(&mut rig, 1);
    let open = || Capture::open(settings.clone()).map_err(|error| error.to_string());
    let leave = || open()?.unenrol(POD).map_err(|error| error.to_string());
    for allowed in 0.. {
        let life = live_for(allowed, || start(&rig, &settings));
        // However far it came, it can be undone, and whatever is undone half can be undone whole.
        for further in 0.. {
            if !live_for(further, leave).died {
                break;
            }
        }
        leave().unwrap();
        let capture = open().unwrap();
        for usage in capture.map_usage().unwrap() {
            assert_eq!(usage.entries, 0, "{} after {allowed} steps", usage.map);
        }
        assert!(capture.pods().unwrap().is_empty());
        if !life.died {
            break;
        }
    }
    finish(&rig, &settings);
    rig.capture = Some(Capture::open(settings).unwrap());
    let _client = connect(&rig.pod, v4(NEIGHBOUR_V4, 80)).unwrap();
    assert!(rig.accept_outbound().1.is_some());
}
