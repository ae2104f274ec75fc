//! What a pick promises, over random services.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use weft_types::{
    Health, LoadBalancing, Locality, NetworkAddress, NetworkMode, RoutingScope, Service,
    ServiceName, ServicePort, TrustDomain, TunnelProtocol, Workload, WorkloadKind,
};

use crate::{Affinity, Ask, Candidates, Choice, Endpoint, EndpointId, NoEndpoint, SetAside};

const PORT: u16 = 80;
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9));

fn workload(name: &str) -> Workload {
    Workload {
        uid: name.into(),
        name: name.into(),
        namespace: "default".into(),
        addresses: vec![Ipv4Addr::new(10, 0, 0, 1).into()],
        hostname: "".into(),
        network: "".into(),
        tunnel: TunnelProtocol::Hbone,
        trust_domain: TrustDomain::new("cluster.local").unwrap(),
        service_account: "default".into(),
        waypoint: None,
        node: "n1".into(),
        canonical_name: "".into(),
        canonical_revision: "".into(),
        kind: WorkloadKind::Pod,
        workload_name: "".into(),
        native_tunnel: false,
        application_tunnel: None,
        authorization_policies: Vec::new(),
        health: Health::Healthy,
        cluster: "Kubernetes".into(),
        network_gateway: None,
        services: Arc::new(BTreeMap::new()),
        locality: Locality::default(),
        network_mode: NetworkMode::Standard,
        capacity: 1,
    }
}

fn service(load_balancing: LoadBalancing) -> Service {
    Service {
        name: ServiceName::new("default", "web.default.svc.cluster.local"),
        short_name: "web".into(),
        addresses: vec![NetworkAddress {
            network: "".into(),
            address: Ipv4Addr::new(10, 96, 0, 1).into(),
        }],
        address_ranges: Vec::new(),
        ports: vec![ServicePort {
            service_port: PORT,
            target_port: 8080,
        }],
        subject_alt_names: Vec::new(),
        waypoint: None,
        weighted_waypoints: Vec::new(),
        load_balancing,
        requires_waypoint: false,
    }
}

fn many(count: usize, change: impl Fn(usize, &mut Workload)) -> Vec<Arc<Workload>> {
    let one = |index: usize| {
        let mut made = workload(&format!("w{index}"));
        change(index, &mut made);
        Arc::new(made)
    };
    (0..count).map(one).collect()
}

fn compile(balancing: LoadBalancing, workloads: &[Arc<Workload>]) -> Candidates {
    let endpoints = workloads.iter().map(|workload| (workload, 8080));
    Candidates::compile(&service(balancing), PORT, endpoints, &workload("client"))
}

fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// Picks with nothing in flight, nothing set aside and no affinity.
fn pick<'c>(candidates: &'c Candidates, rng: &mut StdRng) -> Result<Choice<'c>, NoEndpoint> {
    let set_aside = SetAside::default();
    candidates.pick(ask(&set_aside, Instant::now(), |_| 0), rng)
}

fn ask<L: Fn(&Endpoint) -> u32>(set_aside: &SetAside, now: Instant, in_flight: L) -> Ask<'_, L> {
    Ask {
        client: CLIENT,
        now,
        tried: &[],
        in_flight,
        set_aside,
        affinity: None,
    }
}

fn name<'c>(choice: &Result<Choice<'c>, NoEndpoint>) -> &'c str {
    match choice {
        Ok(Choice::Endpoint(endpoint)) => endpoint.workload.uid.as_str(),
        other => panic!("no endpoint was picked: {other:?}"),
    }
}

/// Counts picks while every connection stays open.
fn fill(candidates: &Candidates, picks: u32) -> HashMap<EndpointId, u32> {
    let mut counts: HashMap<EndpointId, u32> = HashMap::new();
    let (set_aside, mut rng) = (SetAside::default(), rng(1));
    for _ in 0..picks {
        let load = |endpoint: &Endpoint| counts.get(&endpoint.id()).copied().unwrap_or(0);
        let choice = candidates.pick(ask(&set_aside, Instant::now(), load), &mut rng);
        let Ok(Choice::Endpoint(endpoint)) = choice else {
            panic!("no endpoint was picked");
        };
        *counts.entry(endpoint.id()).or_default() += 1;
    }
    counts
}

#[test]
fn connections_that_stay_open_spread_evenly() {
    let counts = fill(
        &compile(LoadBalancing::default(), &many(20, |_, _| {})),
        20_000,
    );
    // Two choices keep the fullest within a few of the mean (log log n), where one choice is off by hundreds.
    assert_eq!(counts.len(), 20);
    assert!(
        counts.values().all(|count| (990..=1010).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn connections_spread_in_proportion_to_capacity() {
    let workloads = many(3, |index, workload| workload.capacity = [1, 2, 7][index]);
    let candidates = compile(LoadBalancing::default(), &workloads);
    let open = fill(&candidates, 10_000);
    let mut idle: HashMap<String, u32> = HashMap::new();
    let mut rng = rng(2);
    for _ in 0..10_000 {
        let picked = pick(&candidates, &mut rng);
        *idle.entry(name(&picked).to_owned()).or_default() += 1;
    }
    for workload in &workloads {
        let share = workload.capacity * 1000;
        let id = Endpoint::new(workload.clone(), 8080).id();
        assert!(open[&id].abs_diff(share) < 60, "{open:?}");
        assert!(
            idle[workload.uid.as_str()].abs_diff(share) < 200,
            "{idle:?}"
        );
    }
}

#[test]
fn the_nearest_tier_with_endpoints_takes_all() {
    let place = |index: usize, workload: &mut Workload| {
        workload.node = if index == 0 { "n1" } else { "n2" }.into();
        workload.locality.zone = if index < 3 { "" } else { "far" }.into();
    };
    let prefer = LoadBalancing {
        preference: vec![RoutingScope::Zone, RoutingScope::Node],
        ..LoadBalancing::default()
    };
    let all = many(6, place);
    let mut rng = rng(3);
    for _ in 0..100 {
        assert_eq!(name(&pick(&compile(prefer.clone(), &all), &mut rng)), "w0");
        let zone = compile(prefer.clone(), &all[1..]);
        assert!(["w1", "w2"].contains(&name(&pick(&zone, &mut rng))));
        assert!(pick(&compile(prefer.clone(), &all[3..]), &mut rng).is_ok());
    }
}

#[test]
fn a_match_behind_a_mismatch_does_not_count() {
    // Same node names in another zone: the zone is the more important scope.
    let prefer = LoadBalancing {
        preference: vec![RoutingScope::Zone, RoutingScope::Node],
        strict: true,
        ..LoadBalancing::default()
    };
    let elsewhere = many(2, |_, workload| workload.locality.zone = "far".into());
    let candidates = compile(prefer, &elsewhere);
    let none = pick(&candidates, &mut rng(4));
    assert_eq!(none.unwrap_err(), NoEndpoint::NotLocal);
}

#[test]
fn nothing_to_pick_says_why() {
    let why = |balancing: LoadBalancing, workloads: &[Arc<Workload>]| {
        let candidates = compile(balancing, workloads);
        assert!(candidates.is_empty());
        pick(&candidates, &mut rng(5)).unwrap_err()
    };
    let unready = many(2, |_, workload| workload.health = Health::Unhealthy);
    let resting = many(2, |_, workload| workload.capacity = 0);
    assert_eq!(why(LoadBalancing::default(), &[]), NoEndpoint::None);
    assert_eq!(
        why(LoadBalancing::default(), &unready),
        NoEndpoint::NotReady
    );
    assert_eq!(
        why(LoadBalancing::default(), &resting),
        NoEndpoint::NotReady
    );
    let lenient = LoadBalancing {
        allow_unhealthy: true,
        ..LoadBalancing::default()
    };
    assert!(pick(&compile(lenient, &unready), &mut rng(5)).is_ok());
}

#[test]
fn headless_and_passthrough_services_deliver_to_the_dialled_address() {
    let passthrough = LoadBalancing {
        passthrough: true,
        ..LoadBalancing::default()
    };
    let candidates = compile(passthrough, &many(2, |_, _| {}));
    assert!(matches!(
        pick(&candidates, &mut rng(6)),
        Ok(Choice::AsDialled)
    ));
    let headless = Service {
        addresses: Vec::new(),
        ..service(LoadBalancing::default())
    };
    let candidates = Candidates::compile(&headless, PORT, [], &workload("client"));
    assert!(matches!(
        pick(&candidates, &mut rng(6)),
        Ok(Choice::AsDialled)
    ));
}

#[test]
fn an_endpoint_that_failed_is_left_alone_and_comes_back() {
    let workloads = many(2, |_, _| {});
    let candidates = compile(LoadBalancing::default(), &workloads);
    let bad = Endpoint::new(workloads[0].clone(), 8080).id();
    let (start, mut rng) = (Instant::now(), rng(7));
    let mut set_aside = SetAside::default();
    set_aside.failed(bad, start);
    let mut picked_at = |set_aside: &SetAside, now| {
        let picks = (0..64).map(|_| candidates.pick(ask(set_aside, now, |_| 0), &mut rng));
        picks.filter(|choice| name(choice) == "w0").count()
    };
    assert_eq!(picked_at(&set_aside, start), 0);
    assert!(picked_at(&set_aside, start + Duration::from_secs(2)) > 0);
    // A second failure in a row pauses for longer, a success forgets both.
    let again = start + Duration::from_millis(1100);
    set_aside.failed(bad, again);
    assert_eq!(
        picked_at(&set_aside, again + Duration::from_millis(1500)),
        0
    );
    set_aside.succeeded(bad);
    assert!(picked_at(&set_aside, again) > 0);
}

#[test]
fn when_everything_is_set_aside_it_is_tried_anyway_and_never_twice_for_one_connection() {
    let workloads = many(3, |_, _| {});
    let candidates = compile(LoadBalancing::default(), &workloads);
    let (now, mut rng) = (Instant::now(), rng(8));
    let mut set_aside = SetAside::default();
    for endpoint in candidates.endpoints() {
        set_aside.failed(endpoint.id(), now);
    }
    let mut tried = Vec::new();
    for _ in 0..3 {
        let mut question = ask(&set_aside, now, |_| 0);
        question.tried = &tried;
        let Ok(Choice::Endpoint(endpoint)) = candidates.pick(question, &mut rng) else {
            panic!("an endpoint was left");
        };
        assert!(!tried.contains(&endpoint.id()));
        tried.push(endpoint.id());
    }
    let mut question = ask(&set_aside, now, |_| 0);
    question.tried = &tried;
    let refused = candidates.pick(question, &mut rng);
    assert_eq!(refused.unwrap_err(), NoEndpoint::AllTried);
}

#[test]
fn an_affinity_ends_with_its_timeout_and_with_its_endpoint() {
    let sticky = LoadBalancing {
        client_ip_affinity_secs: 10,
        ..LoadBalancing::default()
    };
    let workloads = many(8, |_, _| {});
    let all = compile(sticky.clone(), &workloads);
    let (set_aside, mut rng, start) = (SetAside::default(), rng(9), Instant::now());
    let mut affinity = Affinity::default();
    let mut pick_at = |candidates: &Candidates, now, affinity: &mut Affinity| {
        let mut question = ask(&set_aside, now, |_| 0);
        question.affinity = Some(affinity);
        let choice = candidates.pick(question, &mut rng);
        name(&choice).to_owned()
    };
    let by_hash = pick_at(&all, start, &mut Affinity::default());
    let without: Vec<_> = workloads
        .iter()
        .filter(|workload| workload.uid.as_str() != by_hash)
        .cloned()
        .collect();
    let without = compile(sticky, &without);
    // A better one that joins does not take a client away.
    let first = pick_at(&without, start, &mut affinity);
    assert_ne!(first, by_hash);
    let mut now = start;
    for _ in 0..5 {
        now += Duration::from_secs(9);
        assert_eq!(pick_at(&all, now, &mut affinity), first);
    }
    assert_eq!(
        pick_at(&all, now + Duration::from_secs(11), &mut affinity),
        by_hash
    );
    let moved = pick_at(&without, now, &mut affinity);
    assert_ne!(moved, by_hash);
}

#[test]
fn an_address_of_the_dialled_family_is_preferred() {
    let mut dual = workload("dual");
    dual.addresses = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    let endpoint = Endpoint::new(Arc::new(dual), 8080);
    let to = |dialled: &str| {
        endpoint
            .address(dialled.parse().unwrap())
            .unwrap()
            .to_string()
    };
    assert_eq!(to("fd00::99"), "[fd00::1]:8080");
    assert_eq!(to("::ffff:10.96.0.1"), "10.0.0.1:8080");
    let mut nameless = workload("nameless");
    nameless.addresses.clear();
    assert!(
        Endpoint::new(Arc::new(nameless), 1)
            .address(CLIENT)
            .is_none()
    );
}

/// Health, zone, node and capacity of an endpoint.
type Shape = (bool, bool, bool, u32);

fn shaped(shapes: &[Shape]) -> Vec<Arc<Workload>> {
    many(shapes.len(), |index, workload| {
        let (healthy, same_zone, same_node, capacity) = shapes[index];
        if !healthy {
            workload.health = Health::Unhealthy;
        }
        workload.locality.zone = if same_zone { "" } else { "far" }.into();
        workload.node = if same_node { "n1" } else { "n2" }.into();
        workload.capacity = capacity;
    })
}

proptest! {
    #[test]
    fn a_pick_is_ready_local_if_it_must_be_and_as_near_as_any(
        shapes in vec((any::<bool>(), any::<bool>(), any::<bool>(), 0u32..4), 0..12),
        strict in any::<bool>(),
        allow_unhealthy in any::<bool>(),
        tried in vec(0usize..12, 0..6),
        aside in vec(0usize..12, 0..6),
        seed in any::<u64>(),
    ) {
        let workloads = shaped(&shapes);
        let balancing = LoadBalancing {
            preference: vec![RoutingScope::Zone, RoutingScope::Node],
            strict,
            allow_unhealthy,
            ..LoadBalancing::default()
        };
        let candidates = compile(balancing, &workloads);
        let now = Instant::now();
        let id = |index: &usize| {
            workloads.get(*index).map(|workload| Endpoint::new(workload.clone(), 8080).id())
        };
        let tried: Vec<EndpointId> = tried.iter().filter_map(id).collect();
        let mut set_aside = SetAside::default();
        for endpoint in aside.iter().filter_map(id) {
            set_aside.failed(endpoint, now);
        }
        let mut question = ask(&set_aside, now, |_| 0);
        question.tried = &tried;
        let choice = candidates.pick(question, &mut rng(seed));

        let near = |workload: &Workload| match (&*workload.locality.zone, workload.node.as_str()) {
            ("", "n1") => 2,
            ("", _) => 1,
            _ => 0,
        };
        let may = |workload: &&Arc<Workload>| {
            (allow_unhealthy || workload.health == Health::Healthy)
                && workload.capacity > 0
                && (!strict || near(workload) == 2)
                && !tried.contains(&Endpoint::new((*workload).clone(), 8080).id())
        };
        let alone = |workload: &&Arc<Workload>| {
            set_aside.contains(Endpoint::new((*workload).clone(), 8080).id(), now)
        };
        match choice {
            Ok(Choice::Endpoint(picked)) => {
                prop_assert!(may(&&picked.workload));
                let better = workloads.iter().filter(may).filter(|one| !alone(one));
                let best = better.map(|one| near(one)).max();
                match best {
                    Some(best) => {
                        prop_assert!(!alone(&&picked.workload));
                        prop_assert_eq!(near(&picked.workload), best);
                    }
                    // Only set-aside ones were left.
                    None => prop_assert!(alone(&&picked.workload)),
                }
            }
            Ok(Choice::AsDialled) => prop_assert!(false, "the service has an address"),
            Err(_) => prop_assert_eq!(workloads.iter().filter(may).count(), 0),
        }
    }

    #[test]
    fn a_sticky_client_moves_only_when_its_endpoint_goes(
        gone in 0usize..8,
        clients in vec(any::<u32>(), 1..50),
    ) {
        let sticky = LoadBalancing { client_ip_affinity_secs: 60, ..LoadBalancing::default() };
        let workloads = many(8, |_, _| {});
        let mut left = workloads.clone();
        left.remove(gone);
        let gone = format!("w{gone}");
        let (all, left) = (compile(sticky.clone(), &workloads), compile(sticky, &left));
        let (set_aside, mut rng, now) = (SetAside::default(), rng(10), Instant::now());
        let mut to = |candidates: &Candidates, client: u32| {
            // A fresh table: what a restarted proxy has.
            let mut affinity = Affinity::default();
            let mut question = ask(&set_aside, now, |_| 0);
            question.client = Ipv4Addr::from(client).into();
            question.affinity = Some(&mut affinity);
            let choice = candidates.pick(question, &mut rng);
            name(&choice).to_owned()
        };
        for client in clients {
            let (before, after) = (to(&all, client), to(&left, client));
            prop_assert!(before == after || before == gone);
        }
    }
}
