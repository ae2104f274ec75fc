//! The control plane alone: the real program over a directory of YAML, seen by the clients that proxies and agents use.
//!
//! Files are written, edited, broken and removed; what clients hold must follow, and never become wider than what was last good.
//! No root is needed: nothing here enters a namespace.

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::time::{Duration, SystemTime};

use tokio::time::timeout;
use weft_config::{Connection, Enrollments, ProxyConfig};
use weft_identity::{CaClient, CaError, CertificateSource as _, Credentials, PrivateKey};
use weft_runtime::Shutdown;
use weft_testkit::wait::{LONG, until};
use weft_types::{Action, PolicyName, SpiffeId};

#[path = "control/authority.rs"]
mod authority;
#[path = "control/controller.rs"]
mod controller;
#[path = "control/findings.rs"]
mod findings;
#[path = "control/mesh.rs"]
mod mesh;
#[path = "control/scale.rs"]
mod scale;
#[path = "control/subscriber.rs"]
mod subscriber;

use controller::Controller;

const PODS: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
---
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {weft.dev/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata: {name: a, uid: uid-a, labels: {app: web}, annotations: {weft.dev/netns: /run/netns/a}}
spec: {nodeName: n1, serviceAccountName: a}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: b, uid: uid-b, labels: {app: web}}
spec: {nodeName: n2, serviceAccountName: b}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
";

const DENY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p}
spec:
  action: DENY
  rules:
  - from: [{source: {namespaces: [evil]}}]
";

fn action(config: &ProxyConfig) -> Option<Action> {
    let snapshot = config.snapshot();
    let name = PolicyName::new("default", "p");
    match snapshot.policy(&name)? {
        weft_config::PolicyEntry::Good(policy) => Some(policy.action),
        weft_config::PolicyEntry::Broken(_) => panic!("the policy is broken"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_reaches_proxies_and_what_is_removed_leaves_them() {
    let controller = Controller::with(&[("pods.yaml", PODS)]);
    let shutdown = Shutdown::new();
    let config = ProxyConfig::start(controller.client("n1"), &shutdown).unwrap();
    let services = config.wait_for(LONG, |snapshot| {
        let both = snapshot.workloads().len() == 2;
        let service = snapshot.services().next()?;
        let settings = snapshot.settings_known();
        (both && settings).then(|| {
            (
                snapshot.endpoints(&service.name).map(|e| e.len()),
                service.addresses.len(),
            )
        })
    });
    assert_eq!(services.await, Some((Some(2), 2)));
    assert_eq!(action(&config), None);
    controller.write("policy.yaml", DENY);
    let changed = async |want: Option<Action>| {
        let found = config.wait_for(LONG, |_| (action(&config) == want).then_some(()));
        found
            .await
            .unwrap_or_else(|| panic!("the policy did not become {want:?}"));
    };
    changed(Some(Action::Deny)).await;
    controller.write("policy.yaml", &DENY.replace("DENY", "ALLOW"));
    changed(Some(Action::Allow)).await;
    controller.remove("policy.yaml");
    changed(None).await;
    controller.write("pods.yaml", &PODS.replace("10.0.0.2", "10.0.0.9"));
    let moved = config.wait_for(LONG, |snapshot| {
        let address = "10.0.0.9".parse().unwrap();
        snapshot
            .workload_by_address("", address)
            .map(|w| w.name.to_string())
    });
    assert_eq!(moved.await.as_deref(), Some("b"));
    shutdown.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_told_of_its_own_pods_only() {
    let controller = Controller::with(&[("pods.yaml", PODS)]);
    let shutdown = Shutdown::new();
    let enrollments = Enrollments::start(controller.client("n1"), &shutdown).unwrap();
    let names = || -> Vec<String> {
        enrollments
            .current()
            .iter()
            .map(|pod| pod.name.to_string())
            .collect()
    };
    let mut changes = enrollments.changed();
    let told = async {
        while names().is_empty() {
            changes.changed().await.unwrap();
        }
    };
    timeout(LONG, told).await.expect("the enrolment arrives");
    assert_eq!(names(), ["a"]);
    let current = enrollments.current();
    let netns = current.iter().next().unwrap().netns.clone();
    assert_eq!(netns.unwrap().to_str(), Some("/run/netns/a"));
    shutdown.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_is_told_and_its_last_good_state_stays() {
    let controller = Controller::with(&[("pods.yaml", PODS), ("policy.yaml", DENY)]);
    let shutdown = Shutdown::new();
    let config = ProxyConfig::start(controller.client("n1"), &shutdown).unwrap();
    let arrived = config.wait_for(LONG, |_| action(&config));
    assert_eq!(arrived.await, Some(Action::Deny));
    for (broken, field, line) in [
        (DENY.replace("rules:", "rulez:"), "spec.rulez", 7),
        (DENY.replace("DENY", "DENNY"), "spec.action", 6),
        (String::new(), "", 0),
    ] {
        controller.write("policy.yaml", &broken);
        let problem = controller.problem(field);
        assert_eq!(problem["line"], line, "{problem}");
        assert!(problem["file"].as_str().unwrap().ends_with("policy.yaml"));
        assert_eq!(
            problem["effect"],
            "the last good state of this file's objects stays"
        );
        // What comes after it is proof that the broken state was passed over.
        let ip = format!("10.0.1.{}", line + 1);
        controller.write("pods.yaml", &PODS.replace("10.0.0.2", &ip));
        let later = config.wait_for(LONG, |s| {
            s.workload_by_address("", ip.parse().unwrap()).map(|_| ())
        });
        later.await.expect("later changes arrive");
        assert_eq!(action(&config), Some(Action::Deny));
    }
    controller.write("policy.yaml", DENY);
    controller.no_problems();
    shutdown.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_good_state_and_cluster_ips_survive_a_restart() {
    let controller = Controller::with(&[("pods.yaml", PODS), ("policy.yaml", DENY)]);
    let address = controller.status()["services"][0]["addresses"].clone();
    assert_eq!(address.as_array().map(Vec::len), Some(2));
    controller.write("policy.yaml", "spec: [");
    controller.problem("");
    let controller = controller.restart();
    let shutdown = Shutdown::new();
    let config = ProxyConfig::start(controller.client("n1"), &shutdown).unwrap();
    let arrived = config.wait_for(LONG, |_| action(&config));
    assert_eq!(arrived.await, Some(Action::Deny));
    assert_eq!(controller.status()["services"][0]["addresses"], address);
    shutdown.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_its_token_is_told_nothing_and_one_that_loses_it_is_dismissed() {
    let controller = Controller::with(&[("pods.yaml", PODS)]);
    let shutdown = Shutdown::new();
    let forged = controller.forged_token();
    let mut settings = controller.client("n1");
    settings.token = forged;
    let stranger = ProxyConfig::start(settings, &shutdown).unwrap();
    let refused = || {
        let error = stranger.status().last_error;
        anyhow::ensure!(
            error.as_deref().is_some_and(|e| e.contains("token")),
            "{error:?}"
        );
        Ok(())
    };
    until("the refusal", LONG, refused).unwrap();
    assert_eq!(stranger.snapshot().workloads().len(), 0);

    let config = ProxyConfig::start(controller.client("n2"), &shutdown).unwrap();
    timeout(LONG, config.synced())
        .await
        .expect("a good token works");
    std::fs::remove_file(controller.token("n2")).unwrap();
    let dismissed = || {
        let connection = config.status().connection;
        anyhow::ensure!(connection != Connection::Synced, "{connection:?}");
        Ok(())
    };
    until("the dismissal", LONG, dismissed).unwrap();
    // What it knew, it keeps: it is not the data path that is withdrawn.
    assert_eq!(config.snapshot().workloads().len(), 2);
    shutdown.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_certificates_of_its_own_live_pods_only() {
    let controller = Controller::with(&[("pods.yaml", PODS)]);
    let sign = async |node: &str, account: &str| {
        let identity: SpiffeId = format!("spiffe://cluster.local/ns/default/sa/{account}")
            .parse()
            .unwrap();
        let ca = CaClient::new(controller.ca(node));
        let csr = PrivateKey::generate().unwrap().request(&identity).unwrap();
        ca.sign(&identity, csr, Duration::from_hours(1)).await
    };
    let chain = sign("n1", "a").await.unwrap();
    assert!(chain.len() >= 2 && chain[0].starts_with("-----BEGIN CERTIFICATE-----"));
    for (node, account) in [("n1", "b"), ("n2", "a"), ("n1", "nobody")] {
        let refused = sign(node, account).await.unwrap_err();
        assert!(
            matches!(refused, CaError::Refused { .. }),
            "{node} {account}: {refused}"
        );
    }
    // A pod that has ended has no identity any more.
    controller.write(
        "pods.yaml",
        &PODS.replace("podIP: 10.0.0.1", "podIP: 10.0.0.1, phase: Succeeded"),
    );
    until("the end of the pod", LONG, || {
        let workloads = &controller.status()["counts"]["workloads"];
        anyhow::ensure!(*workloads == 1, "{workloads} workloads");
        Ok(())
    })
    .unwrap();
    let refused = sign("n1", "a").await.unwrap_err();
    assert!(refused.to_string().contains("has ended"), "{refused}");
}

/// Who answers a request for the identity of pod a that leaves the lifetime to the authority.
async fn asked(controller: &Controller) -> Credentials {
    let identity: SpiffeId = "spiffe://cluster.local/ns/default/sa/a".parse().unwrap();
    let key = PrivateKey::generate().unwrap();
    let ca = CaClient::new(controller.ca("n1"));
    let csr = key.request(&identity).unwrap();
    let chain = ca.sign(&identity, csr, Duration::ZERO).await.unwrap();
    Credentials::from_response(identity, key, &chain, SystemTime::now()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lifetime_of_certificates_changes_with_the_settings() {
    let controller = Controller::with(&[("pods.yaml", PODS)]);
    let life = async || {
        let credentials = asked(&controller).await;
        credentials
            .not_after()
            .duration_since(SystemTime::now())
            .unwrap()
    };
    assert!(life().await > Duration::from_hours(23));
    controller.write("settings.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: weft, namespace: weft-system}\ndata: {mesh: 'certificateTtl: 10m'}\n");
    let shutdown = Shutdown::new();
    let config = ProxyConfig::start(controller.client("n1"), &shutdown).unwrap();
    let told = config.wait_for(LONG, |snapshot| {
        let ttl = snapshot.settings().certificate_ttl;
        (ttl == Duration::from_mins(10)).then_some(())
    });
    told.await.expect("the settings arrive");
    assert!(life().await <= Duration::from_mins(10));
    shutdown.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_the_users_own_signs_with_its_chain_and_publishes_its_root() {
    let authority = authority::Plugin::new();
    let folder = authority.folder().to_str().unwrap();
    let controller = Controller::with_flags(&[("pods.yaml", PODS)], &["--ca-dir", folder]);
    // The client trusts what the controller wrote: that it can connect at all says that the server's chain is whole.
    let credentials = asked(&controller).await;
    assert_eq!(credentials.chain().len(), 2, "leaf and intermediate");
    assert_eq!(credentials.roots(), [authority.root()]);
    let published = std::fs::read_to_string(controller.ca("n1").root_cert).unwrap();
    assert_eq!(published, authority.root_pem());
    let cases = [
        (
            "ca-key.pem",
            authority::foreign_key(),
            "another key than ca-key.pem",
        ),
        (
            "root-cert.pem",
            authority::Plugin::new().root_pem(),
            "do not belong together",
        ),
        (
            "ca-cert.pem",
            authority.root_pem(),
            "another key than ca-key.pem",
        ),
        (
            "ca-cert.pem",
            "nothing".to_owned(),
            "ca-cert.pem holds no certificate",
        ),
    ];
    for (file, text, word) in cases {
        let path = authority.folder().join(file);
        let good = std::fs::read(&path).unwrap();
        std::fs::write(&path, text).unwrap();
        let (code, stderr) = controller::refused(&[], &["--ca-dir", folder]);
        assert_eq!(code, Some(64), "{file}: {stderr}");
        assert!(
            stderr.contains("certificate authority") && stderr.contains(word),
            "{file}: {stderr}"
        );
        std::fs::write(&path, good).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_what_became_of_every_policy() {
    let unsupported = DENY.replace(
        "namespaces: [evil]",
        "namespaces: [evil], requestPrincipals: ['*']",
    );
    let controller = Controller::with(&[
        ("pods.yaml", PODS),
        ("good.yaml", DENY),
        ("partly.yaml", &unsupported.replace("name: p", "name: q")),
        (
            "gateway.yaml",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\n",
        ),
    ]);
    let status = controller.status();
    let condition = |name: &str| {
        let policies = status["policies"].as_array().unwrap();
        let policy = policies
            .iter()
            .find(|policy| policy["name"] == name)
            .unwrap();
        policy["conditions"][0].clone()
    };
    assert_eq!(condition("p")["status"], "True");
    assert_eq!(condition("q")["status"], "False");
    let message = condition("q")["message"].to_string();
    assert!(
        message.contains("spec.rules[0].from[0].source.requestPrincipals"),
        "{message}"
    );
    // A policy whose latest text is refused is not accepted, whatever held before; one that was never good is listed as well.
    let broken = DENY.replace("rules:", "rulez:");
    controller.write("good.yaml", &broken);
    controller.write("never.yaml", &broken.replace("name: p", "name: never"));
    let invalid = |name: &str, effect: &str| {
        until("the refusal", LONG, || {
            let status = controller.status();
            let policies = status["policies"].as_array().unwrap();
            let policy = policies.iter().find(|policy| policy["name"] == name);
            let condition = policy.map(|policy| policy["conditions"][0].clone());
            let condition = condition.unwrap_or_default();
            let message = condition["message"].as_str().unwrap_or_default();
            let found = message.contains("spec.rulez") && message.contains(effect);
            anyhow::ensure!(condition["reason"] == "Invalid" && found, "{condition}");
            Ok(())
        })
        .unwrap();
    };
    invalid("p", "the last good state");
    invalid("never", "nothing of this file is used");
    let problem = controller.problem("kind");
    assert!(
        problem["message"].as_str().unwrap().contains("gateways"),
        "{problem}"
    );

    let shutdown = Shutdown::new();
    let config = ProxyConfig::start(controller.client("n1"), &shutdown).unwrap();
    timeout(LONG, config.synced()).await.unwrap();
    let subscribers = controller.admin("/subscribers");
    assert!(subscribers.contains("\"node\": \"n1\""), "{subscribers}");
    let metrics = controller.admin("/metrics");
    for line in [
        "pilot_xds 1",
        "pilot_xds_pushes{type=\"istio.workload.Address\"} 1",
        "weft_workloads 2",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    let dump = controller.admin("/config_dump");
    assert!(
        dump.contains("spiffe://cluster.local/ns/default/sa/a"),
        "{dump}"
    );
    for secret in [controller.token_text("n1").as_str(), "PRIVATE KEY"] {
        assert!(
            ![&dump, &subscribers, &metrics]
                .iter()
                .any(|text| text.contains(secret))
        );
    }
    shutdown.stop();
}

type Files<'a> = &'a [(&'a str, &'a str)];

#[test]
fn a_bad_configuration_ends_with_64_and_one_line() {
    let broken = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: weft, namespace: weft-system}\ndata: {mesh: 'outboundTrafficPolicy: {mode: NONE}'}\n";
    let cases: [(Files<'_>, &[&str], &str); 6] = [
        (&[], &["--no-such-flag"], "--no-such-flag"),
        (&[], &["--source", "/nowhere/at/all"], "--source"),
        (&[], &["--listen", "somewhere"], "--listen"),
        (&[], &["--listen", "192.0.2.1:1"], "--listen"),
        (&[], &["--log", "=bad=filter="], "filter"),
        (&[("settings.yaml", broken)], &[], "data.mesh"),
    ];
    for (files, flags, word) in cases {
        let (code, stderr) = controller::refused(files, flags);
        assert_eq!(code, Some(64), "{flags:?}: {stderr}");
        let lines: Vec<&str> = stderr
            .lines()
            .filter(|line| !line.contains(" WARN "))
            .collect();
        assert_eq!(lines.len(), 1, "{flags:?}: {stderr}");
        assert!(lines[0].contains(word), "{flags:?}: {stderr}");
    }
}

#[test]
fn it_ends_by_itself_when_asked_to() {
    let controller = Controller::with(&[("pods.yaml", PODS)]);
    assert!(controller.stop().success());
}

#[test]
fn tokens_are_made_for_the_nodes_of_the_source() {
    let controller = Controller::with(&[("pods.yaml", PODS)]);
    for node in ["n1", "n2"] {
        assert!(controller.token(node).exists());
    }
    controller.write(
        "more.yaml",
        "apiVersion: v1\nkind: Node\nmetadata: {name: n3}\n",
    );
    until("the token of n3", LONG, || {
        anyhow::ensure!(controller.token("n3").exists(), "none yet");
        Ok(())
    })
    .unwrap();
}
