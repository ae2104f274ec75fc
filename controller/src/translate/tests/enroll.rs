//! Pods: enrolment, health, identity, addresses, locality.

use weft_types::{DataplaneMode, Health, NetworkMode, TunnelProtocol, WorkloadKind};

use super::{Lists, Mesh, findings, mesh, pod};

fn modes(translation: &Lists) -> Vec<(String, DataplaneMode)> {
    let pods = translation.enrollments.iter();
    pods.map(|(_, pod)| (pod.name.to_string(), pod.mode))
        .collect()
}

fn namespace(labels: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: default, labels: {{{labels}}}}}\n---\n"
    )
}

#[test]
fn the_pods_label_wins_over_the_namespaces_and_ours_over_istios() {
    use DataplaneMode::{Ambient, None};
    let check = |of_namespace: &str, of_pod: &str, spec: &str, want: DataplaneMode| {
        let labels = format!("labels: {{{of_pod}}}");
        let text = namespace(of_namespace) + &pod("a", &labels, spec, "");
        let translation = mesh(&text);
        assert_eq!(
            modes(&translation)[0].1,
            want,
            "{of_namespace} / {of_pod} / {spec}"
        );
        let tunnel = translation.workloads[0].tunnel;
        assert_eq!(tunnel == TunnelProtocol::Hbone, want == Ambient);
    };
    check("", "", "", None);
    check("weft.dev/dataplane-mode: ambient", "", "", Ambient);
    check("istio.io/dataplane-mode: ambient", "", "", Ambient);
    check(
        "weft.dev/dataplane-mode: ambient",
        "weft.dev/dataplane-mode: none",
        "",
        None,
    );
    check(
        "weft.dev/dataplane-mode: ambient",
        "istio.io/dataplane-mode: none",
        "",
        None,
    );
    check("", "weft.dev/dataplane-mode: ambient", "", Ambient);
    check(
        "istio.io/dataplane-mode: ambient",
        "weft.dev/dataplane-mode: none",
        "",
        None,
    );
    check(
        "weft.dev/dataplane-mode: none, istio.io/dataplane-mode: ambient",
        "",
        "",
        None,
    );
    check(
        "weft.dev/dataplane-mode: ambient",
        "",
        "hostNetwork: true",
        None,
    );
}

#[test]
fn istios_labels_can_be_switched_off() {
    let settings = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: weft, namespace: weft-system}\ndata: {mesh: 'istioLabels: false'}\n---\n";
    let text = settings.to_owned()
        + &namespace("istio.io/dataplane-mode: ambient")
        + &pod("a", "", "", "");
    assert_eq!(modes(&mesh(&text))[0].1, DataplaneMode::None);
}

#[test]
fn a_pod_is_healthy_unless_its_status_says_otherwise() {
    let check = |metadata: &str, status: &str, want: Health| {
        let translation = mesh(&pod("a", metadata, "", status));
        assert_eq!(translation.workloads[0].health, want, "{metadata} {status}");
    };
    check("", "", Health::Healthy);
    check("", "phase: Running", Health::Healthy);
    check("", "phase: Pending", Health::Unhealthy);
    check(
        "",
        "conditions: [{type: Ready, status: 'True'}]",
        Health::Healthy,
    );
    check(
        "",
        "conditions: [{type: Ready, status: 'False'}]",
        Health::Unhealthy,
    );
    check(
        "",
        "conditions: [{type: Ready, status: Unknown}]",
        Health::Unhealthy,
    );
    check(
        "deletionTimestamp: '2026-01-01T00:00:00Z'",
        "",
        Health::Unhealthy,
    );
}

#[test]
fn a_terminating_pod_stays_enrolled_and_says_so() {
    let text = pod(
        "a",
        "deletionTimestamp: '2026-01-01T00:00:00Z', labels: {weft.dev/dataplane-mode: ambient}",
        "",
        "",
    );
    let translation = mesh(&text);
    let enrollment = &translation.enrollments[0].1;
    assert!(enrollment.terminating && enrollment.mode == DataplaneMode::Ambient);
}

#[test]
fn an_ended_pod_is_gone_but_for_the_authority_to_refuse_it() {
    for phase in ["Succeeded", "Failed"] {
        let text = pod(
            "a",
            "",
            "serviceAccountName: sa",
            &format!("phase: {phase}"),
        );
        let translation = mesh(&text);
        assert!(translation.workloads.is_empty() && translation.enrollments.is_empty());
        let (identity, holders) = translation.identities.get_min().unwrap();
        assert_eq!(identity.to_string(), "default/sa");
        assert!(holders.values().all(|holder| holder.ended));
    }
}

#[test]
fn a_pod_without_a_node_waits() {
    let text = pod("a", "", "", "").replace("nodeName: n1, ", "");
    let translation = mesh(&text);
    assert!(translation.workloads.is_empty() && translation.enrollments.is_empty());
}

#[test]
fn names_accounts_owners_and_places_are_taken_over() {
    let text = "
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z, topology.istio.io/subzone: s}}
---
apiVersion: v1
kind: Pod
metadata:
  name: web-5d4-x
  uid: u-1
  labels: {app: shop, version: v2}
  annotations: {weft.dev/netns: /run/netns/x}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-5d4, uid: o, controller: true}]
spec: {nodeName: n1, serviceAccountName: web}
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
";
    let translation = mesh(text);
    let workload = &translation.workloads[0];
    assert_eq!(workload.uid.as_str(), "Kubernetes//Pod/default/web-5d4-x");
    assert_eq!(
        workload.identity().unwrap().to_string(),
        "spiffe://cluster.local/ns/default/sa/web"
    );
    assert_eq!(
        (workload.kind, workload.workload_name.as_ref()),
        (WorkloadKind::Deployment, "web")
    );
    assert_eq!(
        (
            workload.canonical_name.as_ref(),
            workload.canonical_revision.as_ref()
        ),
        ("shop", "v2")
    );
    assert_eq!(workload.addresses.len(), 2);
    assert_eq!(
        (
            &*workload.locality.region,
            &*workload.locality.zone,
            &*workload.locality.subzone
        ),
        ("r", "z", "s")
    );
    let (node, enrollment) = &translation.enrollments[0];
    assert_eq!((node.as_str(), enrollment.uid.as_str()), ("n1", "u-1"));
    assert_eq!(
        enrollment.netns.as_ref().unwrap().to_str(),
        Some("/run/netns/x")
    );
}

#[test]
fn a_pod_without_uid_gets_one_that_lasts() {
    let uid = |name: &str| mesh(&pod(name, "", "", "")).enrollments[0].1.uid.clone();
    assert_eq!(uid("a"), uid("a"));
    assert_ne!(uid("a"), uid("b"));
}

#[test]
fn an_address_belongs_to_one_workload_and_the_other_is_told() {
    let both = pod("a", "", "", "podIP: 10.0.0.1") + &pod("b", "", "", "podIP: 10.0.0.1");
    let translation = mesh(&both);
    assert_eq!(translation.workloads[0].addresses.len(), 1);
    assert!(translation.workloads[1].addresses.is_empty());
    assert_eq!(
        findings(&translation),
        [
            "Pod default/b: status.podIPs: published without this address until the other lets go of it"
        ]
    );
    // Whoever has it keeps it: a newcomer takes nothing away, whatever its name.
    let mut memory = Mesh::default();
    memory.turn_into(&pod("b", "", "", "podIP: 10.0.0.1"));
    let translation = memory.turn_into(&both);
    assert!(translation.workloads[0].addresses.is_empty());
    assert_eq!(translation.workloads[1].addresses.len(), 1);
    // Unless it is on its way out.
    let leaving = pod("a", "", "", "podIP: 10.0.0.1")
        + &pod(
            "b",
            "deletionTimestamp: '2026-01-01T00:00:00Z'",
            "",
            "podIP: 10.0.0.1",
        );
    let translation = memory.turn_into(&leaving);
    assert_eq!(translation.workloads[0].addresses.len(), 1);
    // An ended pod has no address.
    let ended = pod("a", "", "", "podIP: 10.0.0.1, phase: Succeeded")
        + &pod("b", "", "", "podIP: 10.0.0.1");
    assert!(mesh(&ended).findings.is_empty());
}

#[test]
fn pods_of_the_host_network_share_its_address_without_conflict() {
    let text = pod("a", "", "hostNetwork: true", "podIP: 10.0.0.1")
        + &pod("b", "", "hostNetwork: true", "podIP: 10.0.0.1");
    let translation = mesh(&text);
    assert!(translation.findings.is_empty());
    for workload in &translation.workloads {
        assert_eq!(
            (workload.network_mode, workload.addresses.len()),
            (NetworkMode::HostNetwork, 1)
        );
    }
}

#[test]
fn a_namespace_that_does_not_exist_is_told_and_takes_nothing_away() {
    let text = pod(
        "a",
        "namespace: nowhere, labels: {weft.dev/dataplane-mode: ambient}",
        "",
        "podIP: 10.0.0.1",
    );
    let translation = mesh(&text);
    assert_eq!(
        modes(&translation),
        [("a".to_owned(), DataplaneMode::Ambient)]
    );
    assert_eq!(
        findings(&translation),
        ["Pod nowhere/a: metadata.namespace: treated as a namespace without labels; create it"]
    );
}

#[test]
fn a_workload_entry_is_a_workload() {
    let text = "
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm, labels: {app: db}}
spec: {address: 10.0.0.9, labels: {tier: x}, serviceAccount: vm, locality: r/z, weight: 3, network: far}
";
    let workload = &mesh(text).workloads[0];
    assert_eq!(
        workload.uid.as_str(),
        "Kubernetes/networking.istio.io/WorkloadEntry/default/vm"
    );
    assert_eq!(
        (
            workload.capacity,
            &*workload.network,
            &*workload.locality.zone
        ),
        (3, "far", "z")
    );
    assert_eq!(workload.tunnel, TunnelProtocol::None);
}

#[test]
fn the_trust_domain_holds_until_a_restart() {
    let settings = |domain: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: weft, namespace: weft-system}}\ndata: {{mesh: 'trustDomain: {domain}'}}\n"
        )
    };
    let mut memory = Mesh::default();
    memory.turn_into(&settings("one.org"));
    let translation = memory.turn_into(&settings("two.org"));
    assert_eq!(translation.settings.trust_domain.as_str(), "one.org");
    assert_eq!(translation.findings.len(), 1);
}
