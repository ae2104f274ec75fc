//! One address, one owner: who keeps it, who waits for it, who is told, and who may not have it at all.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Lists, Mesh, mesh, pod, service};

const ENTRY: &str = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: w}\nspec: {address: 10.1.0.1}\n---\n";

fn named(name: &str, more: &str) -> String {
    service(name, more, "clusterIP: 10.1.0.1, ports: [{port: 80}]")
}

fn at(name: &str) -> String {
    pod(name, "", "", "podIP: 10.1.0.1")
}

/// Who has 10.1.0.1.
fn owners(lists: &Lists) -> Vec<String> {
    let address = "10.1.0.1".parse().unwrap();
    let services = lists.services.iter().filter(|service| {
        let mut addresses = service.addresses.iter();
        addresses.any(|own| own.address == address)
    });
    let services = services.map(|service| format!("Service {}", service.short_name));
    let workloads = lists.workloads.iter();
    let workloads = workloads.filter(|workload| workload.addresses.contains(&address));
    let workloads = workloads.map(|workload| format!("workload {}", workload.name));
    services.chain(workloads).collect()
}

/// `object: message` of all findings.
fn told(lists: &Lists) -> Vec<String> {
    let findings = lists.findings.iter();
    findings
        .map(|finding| format!("{}: {}", finding.object, finding.message))
        .collect()
}

#[test]
fn a_service_that_has_an_address_keeps_it_and_the_other_is_told_and_takes_over() {
    let mut memory = Mesh::default();
    memory.turn_into(&named("z", ""));
    let lists = memory.turn_into(&(named("a", "") + &named("z", "")));
    assert_eq!(owners(&lists), ["Service z"]);
    assert_eq!(
        told(&lists),
        [
            "Service default/a: address 10.1.0.1 is used by Service default/z, which has it first; give one of the two another address"
        ]
    );
    assert_eq!(lists.services.len(), 2, "the rest of the service stays");
    // Whatever else of the holder changes.
    let lists = memory.turn_into(&(named("a", "") + &named("z", "labels: {x: z}")));
    assert_eq!(owners(&lists), ["Service z"]);
    let elsewhere = service("z", "", "clusterIP: 10.1.0.2");
    let lists = memory.turn_into(&(named("a", "") + &elsewhere));
    assert_eq!(
        (owners(&lists), told(&lists)),
        (vec!["Service a".to_owned()], vec![])
    );
    // It is the holder now.
    let lists = memory.turn_into(&(named("a", "") + &named("z", "")));
    assert_eq!(owners(&lists), ["Service a"]);
    assert_eq!(owners(&memory.turn_into(&named("z", ""))), ["Service z"]);
}

#[test]
fn at_a_cold_start_the_oldest_service_has_it_then_the_first_by_name() {
    let created = |day: u8| format!("creationTimestamp: '2026-01-0{day}T00:00:00Z'");
    let both = named("a", &created(2)) + &named("b", &created(1));
    assert_eq!(owners(&mesh(&both)), ["Service b"]);
    let both = named("a", &created(1)) + &named("b", &created(1));
    assert_eq!(owners(&mesh(&both)), ["Service a"]);
}

#[test]
fn an_address_that_was_given_is_nobody_elses() {
    let mut memory = Mesh::default();
    let given = service("z", "", "ports: [{port: 80}]");
    let address = memory.turn_into(&given).services[0].addresses[0].address;
    let thief = service("a", "", &format!("clusterIP: {address}"));
    let lists = memory.turn_into(&(thief.clone() + &given));
    assert!(lists.services[0].addresses.is_empty());
    assert_eq!(lists.services[1].addresses[0].address, address);
    assert!(told(&lists)[0].contains("is used by Service default/z"));
    // A pod is no better.
    let lists = memory.turn_into(&(pod("p", "", "", &format!("podIP: {address}")) + &given));
    assert!(lists.workloads[0].addresses.is_empty());
    assert_eq!(lists.services[0].addresses[0].address, address);
    // Its owner may come to name it: it stays where it is.
    let explicit = service("z", "", &format!("clusterIP: {address}"));
    let lists = memory.turn_into(&(thief + &explicit));
    assert!(lists.services[0].addresses.is_empty());
    assert_eq!(lists.services[1].addresses[0].address, address);
}

#[test]
fn between_a_service_and_a_workload_whoever_came_first_keeps_it() {
    for (workload, name, field) in [
        (at("p"), "Pod default/p", "workload p"),
        (ENTRY.to_owned(), "WorkloadEntry default/w", "workload w"),
    ] {
        let both = named("a", "") + &workload;
        let mut memory = Mesh::default();
        memory.turn_into(&named("a", ""));
        let lists = memory.turn_into(&both);
        assert_eq!(owners(&lists), ["Service a"]);
        assert_eq!(
            told(&lists),
            [format!(
                "{name}: address 10.1.0.1 belongs to Service default/a; give one of the two another address"
            )]
        );
        // When the service goes, the workload takes over, and keeps it when the service comes back.
        assert_eq!(owners(&memory.turn_into(&workload)), [field]);
        let lists = memory.turn_into(&both);
        assert_eq!(owners(&lists), [field]);
        assert_eq!(
            told(&lists),
            [format!(
                "Service default/a: address 10.1.0.1 is used by {name}, which has it first; give one of the two another address"
            )]
        );
        assert_eq!(owners(&memory.turn_into(&named("a", ""))), ["Service a"]);
        // The network knows where a workload is: at a cold start a mere text does not take it away.
        assert_eq!(owners(&mesh(&both)), [field]);
    }
}

#[test]
fn the_address_of_a_host_is_no_services() {
    let host = pod("h", "", "hostNetwork: true", "podIP: 10.1.0.1");
    let mut memory = Mesh::default();
    memory.turn_into(&named("a", ""));
    let lists = memory.turn_into(&(named("a", "") + &host));
    assert_eq!(owners(&lists), ["workload h"]);
    assert!(told(&lists)[0].contains("used by Pod default/h"));
    assert_eq!(owners(&memory.turn_into(&named("a", ""))), ["Service a"]);
}

#[test]
fn the_address_of_a_node_is_no_services_and_the_finding_names_the_node() {
    let node = |name: &str, kind: &str, address: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nstatus: {{addresses: [{{type: {kind}, address: '{address}'}}]}}\n---\n"
        )
    };
    let refused = |name: &str| {
        format!(
            "Service default/a: address 10.1.0.1 is used by Node {name}, and a host's address can be no Service's; write another one, or none to be given one"
        )
    };
    let two = service(
        "a",
        "",
        "clusterIPs: [10.1.0.1, 10.1.0.2], ports: [{port: 80}]",
    );
    let mut memory = Mesh::default();
    assert_eq!(owners(&memory.turn_into(&two)), ["Service a"]);
    for kind in ["InternalIP", "ExternalIP"] {
        // Not even a service that had it before keeps it; its other address and its ports stay.
        let lists = memory.turn_into(&(two.clone() + &node("n1", kind, "10.1.0.1")));
        assert_eq!(told(&lists), [refused("n1")], "{kind}");
        assert!(owners(&lists).is_empty(), "{kind}");
        let left = &lists.services[0];
        assert_eq!(left.addresses.len(), 1, "{kind}");
        assert_eq!(left.addresses[0].address.to_string(), "10.1.0.2");
        assert_eq!(left.ports.len(), 1, "{kind}");
        // Nor at a cold start, nor when another node has the address.
        let other = node("n2", kind, "::ffff:10.1.0.1");
        assert_eq!(told(&mesh(&(two.clone() + &other))), [refused("n2")]);
        assert_eq!(
            told(&memory.turn_into(&(two.clone() + &other))),
            [refused("n2")]
        );
        // When the node is another's, it is free.
        let moved = node("n2", kind, "10.1.0.9");
        assert_eq!(
            owners(&memory.turn_into(&(two.clone() + &moved))),
            ["Service a"]
        );
    }
    for (kind, text) in [("Hostname", "10.1.0.1"), ("InternalIP", "n1.example.org")] {
        let lists = memory.turn_into(&(two.clone() + &node("n1", kind, text)));
        assert_eq!(
            (owners(&lists), told(&lists)),
            (vec!["Service a".to_owned()], vec![])
        );
    }
    // A given address gives way too.
    let given = service("z", "", "ports: [{port: 80}]");
    let before = memory.turn_into(&given).services[0].addresses.clone();
    let had = before[0].address;
    let node = node("n1", "InternalIP", &had.to_string());
    let lists = memory.turn_into(&(given + &node));
    let now = &lists.services[0].addresses;
    assert_eq!(now.len(), before.len());
    assert!(now.iter().all(|own| own.address != had), "{now:?}");
}

fn pod_ranges(ranges: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: weft, namespace: weft-system}}\ndata: {{mesh: 'podCidrs: [{ranges}]'}}\n---\n"
    )
}

#[test]
fn an_address_that_a_pod_to_come_may_get_is_no_services_and_the_setting_judges_anew() {
    let text = service(
        "a",
        "",
        "clusterIPs: [10.1.0.1, 10.2.0.1], ports: [{port: 80}], externalIPs: [10.1.0.7]",
    ) + &service("h", "", "clusterIP: None, ports: [{port: 80}]");
    let refused = "Service default/a: 10.1.0.1 is within podCidrs, where a pod to come may get it; write one outside of the pods' ranges, or none to be given one";
    let about_range = |lists: &Lists| -> Vec<String> {
        let told = told(lists).into_iter();
        told.filter(|line| line.contains("podCidrs")).collect()
    };
    let mut memory = Mesh::default();
    for _ in 0..2 {
        let lists = memory.turn_into(&text);
        assert_eq!(
            (owners(&lists), about_range(&lists)),
            (vec!["Service a".to_owned()], vec![])
        );
        let ranges = pod_ranges("10.1.0.0/16, \"fd00:1::/64\"");
        let lists = memory.turn_into(&(text.clone() + &ranges));
        assert!(owners(&lists).is_empty());
        assert_eq!(about_range(&lists), [refused]);
        assert_eq!(lists.services[0].addresses.len(), 1, "the rest stays");
        // The pod that comes gets it, whole.
        let lists = memory.turn_into(&(text.clone() + &ranges + &at("p")));
        assert_eq!(owners(&lists), ["workload p"]);
        assert_eq!(about_range(&lists), [refused]);
    }
}

#[test]
fn no_service_is_given_an_address_that_a_pod_to_come_may_get() {
    let all: String = (0..20)
        .map(|index| service(&format!("s{index}"), "", "ports: [{port: 80}]"))
        .collect();
    let mut memory = Mesh::default();
    let addresses = |lists: &Lists| -> Vec<IpAddr> {
        let all = lists.services.iter().flat_map(|service| &service.addresses);
        all.map(|own| own.address).collect()
    };
    let before = addresses(&memory.turn_into(&all));
    let within = before[0];
    let range: IpNet = format!("{within}/17").parse().unwrap();
    let lists = memory.turn_into(&(all.clone() + &pod_ranges(&range.trunc().to_string())));
    let now = addresses(&lists);
    assert_eq!(now.len(), before.len());
    assert!(
        now.iter().all(|address| !range.contains(address)),
        "{now:?}"
    );
    let stayed = |(before, now): (&IpAddr, &IpAddr)| range.contains(before) || before == now;
    assert!(
        before.iter().zip(&now).all(stayed),
        "the others keep theirs"
    );
    // Nothing is left where pods may get all of it, and this is said.
    let lists = memory.turn_into(&(all + &pod_ranges("10.0.0.0/8")));
    assert!(told(&lists)[0].contains("has no address left outside of podCidrs"));
}

#[test]
fn an_address_in_another_network_is_another_address() {
    let far = ENTRY.replace("address:", "network: far, address:");
    let lists = mesh(&(named("a", "") + &far));
    assert_eq!(owners(&lists), ["Service a", "workload w"]);
    assert!(told(&lists).is_empty());
}

#[test]
fn a_services_address_is_no_endpoint_of_another() {
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: e, labels: {kubernetes.io/service-name: b}}\naddressType: IPv4\nports: [{port: 80, name: web}]\nendpoints: [{addresses: [10.1.0.1]}]\n---\n";
    let other = service("b", "", "ports: [{port: 80, name: web}]");
    let mut memory = Mesh::default();
    let lists = memory.turn_into(&(other.clone() + slice));
    assert_eq!(owners(&lists), ["workload e"]);
    let lists = memory.turn_into(&(named("a", "") + &other + slice));
    assert_eq!(owners(&lists), ["Service a"]);
    assert_eq!(
        told(&lists),
        [
            "EndpointSlice default/e: address 10.1.0.1 belongs to Service default/a; name pods instead"
        ]
    );
}

#[test]
fn what_is_no_address_of_a_service_is_refused_and_the_rest_stays() {
    let cases = [
        ("127.0.0.1", "a loopback address"),
        ("127.9.9.9", "a loopback address"),
        ("'::1'", "a loopback address"),
        ("'::ffff:127.0.0.1'", "a loopback address"),
        ("0.0.0.0", "the unspecified address"),
        ("'::'", "the unspecified address"),
        ("224.0.0.1", "a multicast address"),
        ("ff02::1", "a multicast address"),
        ("169.254.169.254", "a link-local address"),
        ("fe80::1", "a link-local address"),
        ("255.255.255.255", "the broadcast address"),
        ("192.0.2.1", "the controller's own address"),
    ];
    for (address, words) in cases {
        let text = service(
            "a",
            "",
            &format!(
                "clusterIP: {address}, clusterIPs: [{address}, 10.1.0.1], ports: [{{port: 80}}]"
            ),
        );
        let lists = Mesh::of_controller(&["192.0.2.1"]).turn_into(&text);
        assert_eq!(owners(&lists), ["Service a"], "{address}");
        assert_eq!(lists.services[0].addresses.len(), 1, "{address}");
        assert_eq!(lists.services[0].ports.len(), 1, "{address}");
        let told = told(&lists);
        assert_eq!(told.len(), 1, "{address}: {told:?}");
        assert!(told[0].contains(words), "{address}: {told:?}");
    }
}
