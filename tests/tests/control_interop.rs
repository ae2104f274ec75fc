//! The real controller, seen by Istio's own node proxy on a node without Weft.
//!
//! Method: the controller over a directory of YAML; a subscriber that says what that proxy says (`weft_testkit::ads::ambient`);
//! every field that the proxy acts upon, as it wants it. No root is needed: nothing here enters a namespace.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

use weft_proto::resource::ADDRESS;
use weft_proto::wire::security::{Action, Scope};
use weft_proto::wire::workload::{NetworkMode, TunnelProtocol, WorkloadStatus, WorkloadType};
use weft_testkit::ads::ambient::{Ambient, AmbientOptions};

#[path = "control/controller.rs"]
#[allow(dead_code, reason = "parts of it are for other tests")]
mod controller;

use controller::Controller;

const A: &str = "Kubernetes//Pod/default/a";
const Z: &str = "Kubernetes//Pod/default/z";
const WEB: &str = "default/web.default.svc.cluster.local";

const PODS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {weft.dev/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: Node
metadata: {name: e1}
---
apiVersion: v1
kind: Pod
metadata: {name: a, uid: uid-a, labels: {app: web}}
spec: {nodeName: n1, serviceAccountName: a}
status: {podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: z, uid: uid-z, labels: {app: z}}
spec: {nodeName: e1, serviceAccountName: z}
status: {podIP: 10.0.0.9}
---
apiVersion: v1
kind: Pod
metadata: {name: plain, uid: uid-plain, labels: {weft.dev/dataplane-mode: none}}
spec: {nodeName: n1, serviceAccountName: plain}
status: {podIP: 10.0.0.5}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.80, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
";

const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-a}
spec:
  selector: {matchLabels: {app: z}}
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/a]}}], to: [{operation: {ports: ['9000']}}]}]
";

const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
";

async fn proxy(controller: &Controller, on_demand: bool) -> Ambient {
    let settings = controller.ca("e1");
    Ambient::connect(AmbientOptions {
        address: settings.address,
        root_pem: std::fs::read_to_string(settings.root_cert).unwrap(),
        token: controller.token_text("e1"),
        node: "e1".to_owned(),
        on_demand,
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads_and_services_have_what_the_proxy_acts_upon() {
    let controller = Controller::with(&[("pods.yaml", PODS)]);
    let mut proxy = proxy(&controller, false).await;
    proxy
        .until("everything", |held| {
            held.workloads.len() == 3 && held.services.len() == 1
        })
        .await
        .unwrap();
    let a = &proxy.held().workloads[A];
    // It finds its own pods by name, namespace and node, and peers by address.
    let names = [&a.name, &a.namespace, &a.node, &a.service_account];
    assert_eq!(names, ["a", "default", "n1", "a"]);
    assert_eq!(a.addresses.len(), 2);
    assert_eq!(a.addresses[0].as_slice(), [10, 0, 0, 1]);
    assert_eq!(a.addresses[1].len(), 16);
    assert_eq!(a.network, "", "the network of a proxy that was told none");
    assert_eq!(a.cluster_id, "Kubernetes");
    // Empty is "cluster.local" to it.
    assert!(["", "cluster.local"].contains(&a.trust_domain.as_str()));
    assert_eq!(a.tunnel_protocol(), TunnelProtocol::Hbone);
    assert_eq!(a.network_mode(), NetworkMode::Standard);
    assert_eq!(a.status(), WorkloadStatus::Healthy);
    // What ends up in `baggage`, under the name of this type.
    assert_eq!(a.workload_type(), WorkloadType::Pod);
    assert!(a.waypoint.is_none() && a.network_gateway.is_none());
    assert!(a.application_tunnel.is_none());
    let ports = &a.services[WEB].ports;
    let ports: Vec<(u32, u32)> = ports
        .iter()
        .map(|port| (port.service_port, port.target_port))
        .collect();
    assert_eq!(ports, [(80, 8080)]);
    let plain = &proxy.held().workloads["Kubernetes//Pod/default/plain"];
    assert_eq!(plain.tunnel_protocol(), TunnelProtocol::None);
    let web = &proxy.held().services[WEB];
    assert_eq!(
        [&web.name, &web.namespace, &web.hostname],
        ["web", "default", "web.default.svc.cluster.local"]
    );
    let addresses: Vec<(&str, &[u8])> = web
        .addresses
        .iter()
        .map(|address| (address.network.as_str(), address.address.as_slice()))
        .collect();
    assert_eq!(addresses, [("", &[10, 96, 0, 80][..])]);
    assert!(web.waypoint.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_there_under_the_names_that_workloads_give_and_change_with_them() {
    let controller = Controller::with(&[("pods.yaml", PODS), ("policy.yaml", POLICY)]);
    let mut proxy = proxy(&controller, false).await;
    proxy
        .until("the policy", |held| {
            held.workloads.contains_key(Z) && held.policies.contains_key("default/only-a")
        })
        .await
        .unwrap();
    let z = &proxy.held().workloads[Z];
    assert_eq!(z.authorization_policies, ["default/only-a"]);
    let policy = &proxy.held().policies["default/only-a"];
    assert_eq!(
        [&policy.name, &policy.namespace],
        ["only-a", "default"],
        "what it is called in its log"
    );
    assert_eq!(policy.scope(), Scope::WorkloadSelector);
    assert_eq!(policy.action(), Action::Allow);
    assert!(!policy.dry_run);
    let clauses: Vec<_> = policy.rules.iter().flat_map(|rule| &rule.clauses).collect();
    assert!(!clauses.is_empty());
    assert!(clauses.iter().all(|clause| !clause.matches.is_empty()));
    controller.write("policy.yaml", STRICT);
    proxy
        .until("strict mTLS in the place of the policy", |held| {
            let policies = &held.workloads[Z].authorization_policies;
            !held.policies.contains_key("default/only-a")
                && policies.len() == 1
                && policies.iter().all(|name| held.policies.contains_key(name))
        })
        .await
        .unwrap();
    let name = &proxy.held().workloads[Z].authorization_policies[0];
    assert_eq!(proxy.held().policies[name].action(), Action::Deny);
    controller.remove("policy.yaml");
    proxy
        .until("no policy", |held| {
            held.policies.is_empty() && held.workloads[Z].authorization_policies.is_empty()
        })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_is_told_only_what_changed_and_rejections_are_shown() {
    let controller = Controller::with(&[("pods.yaml", PODS), ("policy.yaml", POLICY)]);
    let mut proxy = proxy(&controller, false).await;
    proxy
        .until("everything", |held| {
            held.workloads.len() == 3 && held.services.len() == 1 && held.policies.len() == 1
        })
        .await
        .unwrap();
    let told = |responses: &[weft_proto::wire::discovery::DeltaDiscoveryResponse]| {
        let mut told: Vec<String> = responses
            .iter()
            .flat_map(|response| {
                let changed = response.resources.iter().map(|r| format!("+{}", r.name));
                let removed = response.removed_resources.iter().map(|r| format!("-{r}"));
                changed.chain(removed)
            })
            .collect();
        told.sort();
        told
    };
    let first = proxy.reconnect().await.unwrap();
    assert_eq!(told(&first), [""; 0], "both types are answered, emptily");
    controller.write("pods.yaml", &PODS.replace("10.0.0.9", "10.0.0.10"));
    proxy
        .until("the moved pod", |held| {
            held.workloads[Z].addresses == [vec![10, 0, 0, 10]]
        })
        .await
        .unwrap();
    let again = proxy.reconnect().await.unwrap();
    assert_eq!(told(&again), [""; 0]);
    // Rejected: it is not told again before it changes, and the operator is told.
    controller.write("pods.yaml", PODS);
    let rejected = proxy.reject_next("not today").await.unwrap();
    assert_eq!(rejected.type_url, ADDRESS);
    weft_testkit::wait::until("the rejection to show", weft_testkit::wait::LONG, || {
        let subscribers = controller.admin("/subscribers");
        anyhow::ensure!(subscribers.contains("not today"), "{subscribers}");
        anyhow::ensure!(subscribers.contains("ztunnel~"), "{subscribers}");
        Ok(())
    })
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_demand_the_proxy_has_its_own_pods_and_each_answer_under_the_name_it_waits_for() {
    let controller = Controller::with(&[("pods.yaml", PODS), ("policy.yaml", POLICY)]);
    let mut proxy = proxy(&controller, true).await;
    // Its own pod, which it never asks for, and the policies, which are never on demand.
    proxy
        .until("its own pod", |held| {
            held.workloads.contains_key(Z) && held.policies.len() == 1
        })
        .await
        .unwrap();
    assert_eq!(proxy.held().workloads.len(), 1);
    assert!(proxy.demand("/10.0.0.1").await.unwrap());
    proxy
        .until("the pod behind the address", |held| {
            held.workloads.contains_key(A)
        })
        .await
        .unwrap();
    assert!(proxy.demand("/10.96.0.80").await.unwrap());
    proxy
        .until("the service behind the address", |held| {
            held.services.contains_key(WEB)
        })
        .await
        .unwrap();
    assert!(proxy.demand(WEB).await.unwrap());
    assert!(!proxy.demand("/10.0.0.77").await.unwrap(), "nobody has it");
    let back = proxy.reconnect().await.unwrap();
    let told: Vec<&String> = back
        .iter()
        .flat_map(|response| &response.removed_resources)
        .collect();
    assert_eq!(told, [""; 0], "nothing that it holds is taken from it");
    controller.write("pods.yaml", &PODS.replace("10.0.0.1}", "10.0.0.2}"));
    proxy
        .until("news of what it kept", |held| {
            held.workloads[A].addresses[0] == [10, 0, 0, 2]
        })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_given_for_the_pods_of_its_node_and_no_others() {
    let controller = Controller::with(&[("pods.yaml", PODS)]);
    let proxy = proxy(&controller, false).await;
    let issued = proxy
        .certificate("spiffe://cluster.local/ns/default/sa/z")
        .await
        .unwrap();
    assert!(issued.chain.starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(issued.roots.starts_with("-----BEGIN CERTIFICATE-----"));
    let refused = proxy
        .certificate("spiffe://cluster.local/ns/default/sa/a")
        .await
        .unwrap_err();
    assert!(
        format!("{refused:#}").contains("other nodes"),
        "{refused:#}"
    );
}
