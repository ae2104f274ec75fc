//! Services: addresses, endpoints, choice of endpoint, waypoints.

use weft_types::{GatewayDestination, RoutingScope, Service};

use super::{Lists, findings, mesh, pod, service};

fn only(text: &str) -> Service {
    mesh(text).services.remove(0)
}

fn addresses(service: &Service) -> Vec<String> {
    service
        .addresses
        .iter()
        .map(|a| a.address.to_string())
        .collect()
}

/// `pod service port->target` of every membership.
fn endpoints(translation: &Lists) -> Vec<String> {
    let mut lines = Vec::new();
    for workload in &translation.workloads {
        for (service, ports) in workload.services.iter() {
            let short = service.hostname.split('.').next().unwrap();
            let ports = ports
                .iter()
                .map(|p| format!("{}->{}", p.service_port, p.target_port));
            let ports: Vec<String> = ports.collect();
            lines.push(format!("{} {short} {}", workload.name, ports.join(",")));
        }
    }
    lines
}

#[test]
fn a_service_gets_an_address_of_each_family_unless_it_says_otherwise() {
    let families = |spec: &str| {
        let spec = format!("ports: [{{port: 80}}], {spec}");
        let service = only(&service("s", "", &spec));
        let family = |text: &String| if text.contains(':') { 'v' } else { '4' };
        addresses(&service).iter().map(family).collect::<String>()
    };
    assert_eq!(families(""), "4v");
    assert_eq!(families("ipFamilyPolicy: SingleStack"), "4");
    assert_eq!(families("ipFamilies: [IPv6]"), "v");
    assert_eq!(families("ipFamilies: [IPv6, IPv4]"), "4v");
    assert_eq!(families("clusterIP: None"), "");
    assert_eq!(families("clusterIP: 10.1.2.3"), "4");
    assert_eq!(
        families("clusterIP: 10.1.2.3, clusterIPs: [10.1.2.3], ipFamilies: [IPv4, IPv6]"),
        "4v"
    );
}

#[test]
fn endpoints_are_derived_from_the_selector() {
    let port = "containers: [{name: c, ports: [{containerPort: 8080, name: http}, {containerPort: 53, name: dns, protocol: UDP}]}]";
    let text = pod("a", "labels: {app: x, more: y1}", port, "podIP: 10.0.0.1")
        + &pod("b", "labels: {app: x}", "", "podIP: 10.0.0.2")
        + &pod("c", "labels: {app: other}", port, "podIP: 10.0.0.3")
        + &pod(
            "d",
            "namespace: far, labels: {app: x}",
            port,
            "podIP: 10.0.0.4",
        )
        + &service(
            "named",
            "",
            "selector: {app: x}, ports: [{port: 80, targetPort: http}]",
        )
        + &service(
            "number",
            "",
            "selector: {app: x}, ports: [{port: 81, targetPort: 9000}, {port: 82, name: b}, {port: 53, protocol: UDP, name: u}]",
        )
        + &service("all", "", "ports: [{port: 1}]")
        + &service(
            "udp",
            "",
            "selector: {app: x}, ports: [{port: 53, protocol: UDP}]",
        );
    let translation = mesh(&text);
    assert_eq!(
        endpoints(&translation),
        [
            "a named 80->8080",
            "a number 81->9000,82->82",
            "b number 81->9000,82->82"
        ]
    );
    let ports = |index: usize| {
        translation.services[index]
            .ports
            .iter()
            .map(|p| (p.service_port, p.target_port))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (ports(1), ports(2)),
        (vec![(80, 0)], vec![(81, 9000), (82, 82)])
    );
}

#[test]
fn explicit_slices_win_over_the_selector() {
    let slice = |endpoints: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s1, labels: {{kubernetes.io/service-name: s}}}}\naddressType: IPv4\nports: [{{port: 9000, name: web}}]\nendpoints: [{endpoints}]\n---\n"
        )
    };
    let base = pod("a", "labels: {app: x}", "", "podIP: 10.0.0.1")
        + &pod("b", "labels: {app: x}", "", "podIP: 10.0.0.2");
    let normal = service(
        "s",
        "",
        "selector: {app: x}, ports: [{port: 80, name: web}]",
    );
    let check = |service: &str, endpoints_of_slice: &str, want: &[&str]| {
        let text = base.clone() + service + &slice(endpoints_of_slice);
        assert_eq!(endpoints(&mesh(&text)), want, "{endpoints_of_slice}");
    };
    check(&normal, "{addresses: [10.0.0.1]}", &["a s 80->9000"]);
    check(
        &normal,
        "{addresses: [10.0.0.1], conditions: {ready: false}}",
        &[],
    );
    check(&normal, "{addresses: [10.9.9.9]}", &["s1 s 80->9000"]);
    check(
        &normal,
        "{addresses: [10.9.9.9], targetRef: {kind: Pod, name: b}}",
        &["b s 80->9000"],
    );
    let all = normal.replace("selector", "publishNotReadyAddresses: true, selector");
    check(
        &all,
        "{addresses: [10.0.0.1], conditions: {ready: false}}",
        &["a s 80->9000"],
    );
    let orphan = base.clone() + &slice("{addresses: [10.0.0.1]}");
    assert_eq!(findings(&mesh(&orphan)).len(), 1);
}

#[test]
fn how_an_endpoint_is_chosen_is_taken_over() {
    use RoutingScope::{Network, Node, Region, Zone};
    let balancing = |spec: &str| only(&service("s", "", spec)).load_balancing;
    assert_eq!(balancing("").preference, []);
    let local = balancing("internalTrafficPolicy: Local, trafficDistribution: PreferClose");
    assert!(local.strict && local.preference == [Node]);
    for word in ["PreferClose", "PreferSameZone"] {
        let near = balancing(&format!("trafficDistribution: {word}"));
        assert!(!near.strict && near.preference == [Network, Region, Zone]);
    }
    assert_eq!(
        balancing("trafficDistribution: PreferSameNode").preference,
        [Network, Region, Zone, Node]
    );
    assert_eq!(
        balancing("sessionAffinity: ClientIP").client_ip_affinity_secs,
        10_800
    );
    let timed = "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 9}}";
    assert_eq!(balancing(timed).client_ip_affinity_secs, 9);
    assert!(balancing("publishNotReadyAddresses: true").allow_unhealthy);
}

#[test]
fn what_the_mesh_does_not_serve_is_told() {
    let translation = mesh(&service(
        "s",
        "",
        "type: ExternalName, externalName: example.org",
    ));
    assert!(translation.services.is_empty());
    assert_eq!(
        findings(&translation),
        ["Service default/s: spec.type: this service is not published"]
    );
    let translation = mesh(&service("s", "", "externalIPs: [1.2.3.4]"));
    assert_eq!(
        (translation.services.len(), translation.findings.len()),
        (1, 1)
    );
}

#[test]
fn a_waypoint_is_known_by_its_service_or_reported() {
    let waypoint = service("w", "", "ports: [{port: 15008}]");
    let user = service(
        "s",
        "labels: {weft.dev/use-waypoint: w}",
        "ports: [{port: 80}]",
    );
    let translation = mesh(&(waypoint.clone() + &user));
    let gateway = translation.services[0].waypoint.as_ref().unwrap();
    let GatewayDestination::Hostname(name) = &gateway.destination else {
        panic!("by address")
    };
    assert_eq!(name.to_string(), "default/w.default.svc.cluster.local");
    assert_eq!(
        findings(&mesh(&user)),
        [
            "Service default/s: metadata.labels[\"weft.dev/use-waypoint\"]: traffic goes directly; policies for a waypoint still refuse it"
        ]
    );
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio.io/use-waypoint: w}}\n---\n";
    let plain = service("s", "", "ports: [{port: 80}]");
    let translation = mesh(&(namespace.to_owned() + &waypoint + &plain));
    assert!(translation.services[0].waypoint.is_some());
    assert!(
        translation.services[1].waypoint.is_none(),
        "the waypoint itself goes directly"
    );
    let none = service(
        "s",
        "labels: {weft.dev/use-waypoint: none}",
        "ports: [{port: 80}]",
    );
    let translation = mesh(&(namespace.to_owned() + &waypoint + &none));
    assert!(translation.services[0].waypoint.is_none() && translation.findings.is_empty());
}

#[test]
fn a_policy_of_a_service_makes_it_need_its_waypoint() {
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: {targetRefs: [{kind: Service, name: s}]}\n---\n";
    let translation = mesh(&(policy.to_owned() + &service("s", "", "")));
    assert!(translation.services[0].requires_waypoint && translation.policies.is_empty());
    assert_eq!(translation.statuses[0].conditions[0].status, "False");
    let direct = service("s", "annotations: {weft.dev/allow-direct: 'true'}", "");
    assert!(!mesh(&(policy.to_owned() + &direct)).services[0].requires_waypoint);
}
