//! Deterministic simulation of agent, holder and proxy: random interleavings of pods that come and go, lost connections,
//! killed processes, deleted namespaces and refusals, with peers of an older version now and then; each replayable by its seed.
//!
//! Descriptors are counted tokens. After every run chaos ends, everything is delivered, and all three must agree.

mod world;

use rand::Rng;
use rand::seq::IndexedRandom;

use world::{Process, World};

/// Runs of the test; a second in total.
const SEEDS: u64 = 600;

/// Random events of one run.
const EVENTS: usize = 400;

#[test]
fn after_any_chaos_holder_and_proxy_agree_with_the_agent_and_nothing_leaks() {
    let seeds = std::env::var("WEFT_SIMULATION_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(SEEDS);
    for seed in 0..seeds {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(outcome.is_ok(), "seed {seed} failed");
    }
}

#[test]
fn listeners_survive_any_two_of_the_three_processes() {
    for pair in [
        [Process::Agent, Process::Node],
        [Process::Agent, Process::Proxy],
        [Process::Node, Process::Proxy],
    ] {
        let mut world = World::new(1);
        world.add_pod();
        world.settle();
        let before = world.served_listeners();
        for process in pair {
            world.kill(process);
        }
        world.settle();
        assert_eq!(world.served_listeners(), before, "{pair:?}");
    }
    // Negative control: with all three dead, nobody has them.
    let mut world = World::new(1);
    world.add_pod();
    world.settle();
    let before = world.served_listeners();
    for process in [Process::Agent, Process::Node, Process::Proxy] {
        world.kill(process);
    }
    world.settle();
    assert_ne!(world.served_listeners(), before);
}

#[test]
fn an_agent_that_remembers_only_some_pods_costs_the_others_nothing() {
    let mut world = World::new(1);
    for _ in 0..5 {
        world.add_pod();
    }
    world.settle();
    let before = world.served_listeners();
    for _ in 0..20 {
        world.kill(Process::Agent);
        world.deliver_all();
        assert_eq!(world.served_listeners(), before);
    }
    world.settle();
    assert_eq!(world.served_listeners(), before);
    world.check_settled();
}

#[test]
fn a_holder_that_is_started_again_takes_no_pod_from_the_proxy() {
    // Whoever is faster with the next holder, the agent or the proxy, and however long namespaces take.
    for seed in 0..200 {
        let mut world = World::new(seed);
        for _ in 0..5 {
            world.add_pod();
        }
        world.settle();
        for _ in 0..5 {
            world.kill(Process::Node);
            world.connect();
            for _ in 0..100 {
                if world.rng.random_range(0..4) == 0 {
                    world.finish_job();
                } else {
                    world.deliver();
                }
            }
            world.settle();
        }
        assert_eq!(world.removals, 0, "seed {seed}");
        world.check_settled();
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    world.choose_versions();
    for _ in 0..EVENTS {
        step(&mut world);
        world.check_always();
    }
    world.settle();
    world.check_settled();
}

fn step(world: &mut World) {
    match world.rng.random_range(0..100) {
        0..8 => world.add_pod(),
        8..14 => world.remove_pod(),
        14..18 => world.change_pod(),
        18..21 => world.delete_netns(),
        21..24 => world.recreate_netns(),
        24..28 => world.break_agent(),
        28..32 => world.break_proxy(),
        32..34 => {
            let process = [Process::Agent, Process::Node, Process::Proxy]
                .choose(&mut world.rng)
                .copied()
                .expect("three to choose from");
            world.kill(process);
        }
        34..40 => world.connect(),
        40..46 => world.want_sockets(),
        46..48 => world.store_keys(),
        48..52 => world.notice_deletions(),
        52..55 => world.agent_knows_all(),
        55..62 => world.finish_job(),
        62..65 => world.retry_refused(),
        65..66 => world.give_up_offers(),
        66..69 => world.change_refusals(),
        _ => {
            world.deliver();
        }
    }
}
