//! What is right is read, and what is wrong is refused with its line, object and field.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::fmt::Write as _;

use weft_k8s_api::pod::Phase;
use weft_k8s_api::{Kind, Object, ParseError, parse};

/// The first error of a text.
fn errors(text: &str) -> Vec<ParseError> {
    parse(text).expect_err("the text was accepted")
}

fn check(text: &str, line: u64, field: &str, word: &str) {
    let errors = errors(text);
    let found = errors
        .iter()
        .any(|e| e.line == line && e.field == field && e.message.contains(word));
    assert!(
        found,
        "wanted line {line} field {field} {word:?}, got {errors:?}"
    );
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: a
  labels: {app: a, weft.dev/dataplane-mode: ambient}
  annotations: {weft.dev/netns: /run/netns/a}
spec:
  nodeName: n1
  serviceAccountName: a
  containers:
  - name: main
    image: x
    ports: [{containerPort: 80, name: http}]
    resources: {requests: {cpu: 1, memory: 1Gi}}
status:
  phase: Running
  podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]
";

#[test]
fn a_pod_is_read_with_its_defaults() {
    let parsed = parse(POD).unwrap();
    assert_eq!(parsed.documents[0].line, 2);
    let Object::Pod(pod) = &parsed.documents[0].object else {
        panic!("not a pod")
    };
    assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
    // `cpu: 1` is a quantity as well, though nobody here reads it.
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(spec.ports.get("http"), Some(&80));
    assert_eq!(pod.status.addresses.len(), 2);
    assert_eq!((pod.status.phase, pod.status.ready), (Phase::Running, None));
}

#[test]
fn every_kind_of_a_file_is_read() {
    let text = "
apiVersion: v1
kind: Namespace
metadata: {name: ns, labels: {istio.io/dataplane-mode: ambient}}
---
# nothing here
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: sa, namespace: ns}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80, targetPort: http}], selector: {app: web}, trafficDistribution: PreferClose}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1]}]
ports: [{port: 80}]
---
apiVersion: networking.istio.io/v1beta1
kind: WorkloadEntry
metadata: {name: vm}
spec: {address: 10.0.0.9, ports: {http: 8080}, serviceAccount: vm}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p}
spec:
  action: DENY
  rules: [{from: [{source: {ipBlocks: [10.0.0.0/8]}}], to: [{operation: {ports: ['80']}}]}]
status: {conditions: []}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: p}
spec: {selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}, portLevelMtls: {80: {mode: PERMISSIVE}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: weft, namespace: weft-system}
data: {mesh: 'trustDomain: example.org'}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: other}}
";
    let parsed = parse(text).unwrap();
    let kinds: Vec<Kind> = parsed.documents.iter().map(|d| d.object.kind()).collect();
    assert_eq!(
        kinds,
        [
            Kind::Namespace,
            Kind::Node,
            Kind::ServiceAccount,
            Kind::Service,
            Kind::EndpointSlice,
            Kind::WorkloadEntry,
            Kind::AuthorizationPolicy,
            Kind::PeerAuthentication,
            Kind::ConfigMap,
            Kind::Namespace
        ]
    );
    assert!(parsed.refused.is_empty());
}

#[test]
fn kinds_that_the_mesh_does_not_read_are_set_aside_with_a_reason() {
    let text = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: w, namespace: ns}
spec: {gatewayClassName: weft-waypoint}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
---
apiVersion: v1
kind: Namespace
metadata: {name: ns}
";
    let parsed = parse(text).unwrap();
    assert_eq!(parsed.documents.len(), 1);
    let refused: Vec<String> = parsed.refused.iter().map(ToString::to_string).collect();
    assert!(
        refused[0].starts_with("line 2: Gateway ns/w: kind: "),
        "{refused:?}"
    );
    assert!(refused[0].contains("runs no gateways"), "{refused:?}");
    assert!(refused[1].contains("Deployment"), "{refused:?}");
}

#[test]
fn an_unknown_field_is_refused_with_its_line_and_nearest_name() {
    let typo = POD.replace("nodeName", "nodName");
    check(&typo, 9, "spec.nodName", "did you mean nodeName?");
    let deep = POD.replace("containerPort: 80", "containerPort: 80, hostport: 1");
    check(
        &deep,
        14,
        "spec.containers[0].ports[0].hostport",
        "hostPort",
    );
    let policy = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: ns}
spec:
  rules:
  - from:
    - source:
        principles: [a]
        namespaces: [x]
";
    check(
        policy,
        9,
        "spec.rules[0].from[0].source.principles",
        "principals",
    );
    assert_eq!(
        errors(policy)[0].object.as_ref().unwrap().to_string(),
        "AuthorizationPolicy ns/p"
    );
}

#[test]
fn values_of_a_wrong_type_or_form_are_refused_with_their_line() {
    check(
        &POD.replace("containerPort: 80", "containerPort: x"),
        14,
        "spec.containers[0].ports[0].containerPort",
        "",
    );
    check(
        &POD.replace("containerPort: 80", "containerPort: 0"),
        14,
        "spec.containers[0].ports[0].containerPort",
        "1 to 65535",
    );
    check(
        &POD.replace("name: a\n  labels", "name: 5\n  labels"),
        5,
        "metadata.name",
        "string",
    );
    check(
        &POD.replace("name: a\n  labels", "name: A_\n  labels"),
        5,
        "metadata.name",
        "not a name",
    );
    check(
        &POD.replace("10.0.0.1", "10.0.0.256"),
        18,
        "status.podIPs[0].ip",
        "not an IP address",
    );
    check(
        &POD.replace("Running", "Runing"),
        17,
        "status.phase",
        "not one of",
    );
    check(
        &POD.replace("dataplane-mode: ambient", "dataplane-mode: sidecar"),
        6,
        "metadata.labels[\"weft.dev/dataplane-mode\"]",
        "ambient",
    );
    check(
        &POD.replace("/run/netns/a", "netns/a"),
        7,
        "metadata.annotations[\"weft.dev/netns\"]",
        "absolute",
    );
    check(
        &POD.replace("kind: Pod", "kind: [Pod]"),
        2,
        "kind",
        "missing",
    );
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p}}\nspec:\n  {spec}\n"
    )
}

#[test]
fn a_policy_that_says_nothing_or_too_much_is_refused() {
    check(&policy("action: LOG"), 5, "spec.action", "unknown variant");
    check(&policy("action: CUSTOM"), 4, "spec.provider", "missing");
    check(
        &policy("rules: [{from: [{}]}]"),
        5,
        "spec.rules[0].from[0]",
        "source",
    );
    check(
        &policy("rules: [{from: [{source: {}}]}]"),
        5,
        "spec.rules[0].from[0].source",
        "empty",
    );
    check(
        &policy("rules: [{to: [{operation: {}}]}]"),
        5,
        "spec.rules[0].to[0].operation",
        "empty",
    );
    check(
        &policy("rules: [{to: [{operation: {ports: ['0']}}]}]"),
        5,
        "spec.rules[0].to[0].operation.ports[0]",
        "1 to 65535",
    );
    check(
        &policy("rules: [{to: [{operation: {ports: [80]}}]}]"),
        5,
        "spec.rules[0].to[0].operation.ports[0]",
        "",
    );
    check(
        &policy("rules: [{from: [{source: {ipBlocks: [10.0.0.0/40]}}]}]"),
        5,
        "spec.rules[0].from[0].source.ipBlocks[0]",
        "address block",
    );
    check(
        &policy("rules: [{from: [{source: {principals: ['']}}]}]"),
        5,
        "spec.rules[0].from[0].source.principals[0]",
        "empty",
    );
    check(
        &policy("rules: [{from: [{source: {serviceAccounts: ['a/*']}}]}]"),
        5,
        "spec.rules[0].from[0].source.serviceAccounts[0]",
        "without *",
    );
    check(
        &policy("rules: [{when: [{key: source.ips, values: [a]}]}]"),
        5,
        "spec.rules[0].when[0].key",
        "source.ip?",
    );
    check(
        &policy("rules: [{when: [{key: source.ip}]}]"),
        5,
        "spec.rules[0].when[0]",
        "needs values",
    );
    check(
        &policy("rules: [{when: [{key: destination.port, values: [http]}]}]"),
        5,
        "spec.rules[0].when[0]",
        "1 to 65535",
    );
    check(
        &policy("{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: s}]}"),
        5,
        "spec.targetRefs",
        "exclude",
    );
}

#[test]
fn services_and_the_rest_are_checked_too() {
    let service = |spec: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {spec}\n")
    };
    check(
        &service("{ports: [{port: 70000}]}"),
        4,
        "spec.ports[0].port",
        "65535",
    );
    check(
        &service("{ports: [{port: 80}, {port: 80}]}"),
        4,
        "spec.ports[1].port",
        "twice",
    );
    check(&service("{clusterIP: x}"), 4, "spec.clusterIP", "not an IP");
    check(
        &service("{ports: [{port: 80, targetPort: '8080'}]}"),
        4,
        "spec.ports[0].targetPort",
        "without quotes",
    );
    check(
        &service("{trafficDistribution: Near}"),
        4,
        "spec.trafficDistribution",
        "PreferClose",
    );
    check(
        &service("{sessionAffinity: Cookie}"),
        4,
        "spec.sessionAffinity",
        "ClientIP",
    );
    check(
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n",
        1,
        "spec",
        "missing",
    );
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s}\naddressType: IPv6\nendpoints:\n- addresses: [10.0.0.1]\n";
    check(slice, 6, "endpoints[0].addresses[0]", "family");
    check(
        slice,
        3,
        "metadata.labels[\"kubernetes.io/service-name\"]",
        "missing",
    );
    let entry = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: s}\nspec: {address: vm.example.org}\n";
    check(entry, 4, "spec.address", "address");
    let peer = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: s}\nspec: {portLevelMtls: {0: {mode: STRICT}}}\n";
    check(peer, 4, "spec.portLevelMtls.0", "1 to 65535");
    let peer = peer.replace("0: {mode: STRICT}", "80: {mode: STRICT}");
    check(&peer, 4, "spec.portLevelMtls", "needs a selector");
    let settings = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: weft}\ndata:\n  mesh: |\n    trustDoman: x\n";
    check(settings, 5, "data.mesh", "did you mean trustDomain?");
}

#[test]
fn text_that_is_not_yaml_is_refused_with_its_line() {
    check("apiVersion: v1\nkind: [", 2, "", "not YAML");
    check("apiVersion: v1\nkind: Pod\nkind: Pod\n", 3, "", "not YAML");
    check("just text", 1, "", "object");
}

#[test]
fn one_bad_document_holds_the_whole_file_back_and_all_errors_are_told() {
    let text = format!(
        "{POD}---\n{}---\n{}",
        policy("action: LOG"),
        policy("rulez: []")
    );
    assert_eq!(errors(&text).len(), 2);
}

#[test]
fn a_bomb_of_aliases_is_refused() {
    let mut text = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (from, to) in ('a'..'j').zip('b'..'k') {
        let many = format!("*{from}, ").repeat(9);
        writeln!(text, "{to}: &{to} [{many}]").unwrap();
    }
    assert!(errors(&text)[0].message.contains("not YAML"));
}
