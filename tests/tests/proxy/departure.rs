//! An endpoint on the client's own node that goes away while a connection to it is under way: another one serves.
//!
//! Method: the moment is made as long as it takes. The controller is replaced by one that a test edits by hand, which holds
//! back the policy of the near endpoint: the proxy holds the connection for it, five seconds at most. Meanwhile the endpoint's
//! namespace is deleted. Then the policy comes, allows the connection, and there is no pod left to open a socket in.

use std::io::{Read as _, Write as _};

use weft_proto::resource::AUTHORIZATION;
use weft_testkit::peer::{Behaviour, Server};
use weft_testkit::wait::{LONG, until};
use weft_testkit::{admin, load};
use weft_tests::lab::TestLab;

use super::service::any_8080;
use super::{ask, four_pods, live, reaches, record, stand_in};

/// The endpoint of the client's node takes every call as long as it can.
const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.9.9, trafficDistribution: PreferSameNode, selector: {tier: web}, ports: [{port: 80, targetPort: 8080}]}
";

/// At the near endpoint; the far one has no policy.
const NEAR_SERVES_A: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: near-serves-a, namespace: default}
spec:
  selector: {matchLabels: {app: near}}
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/a]}}]}]
";

const POLICY: &str = "default/near-serves-a";

/// Waits until the proxy of n1 shows something under a key, or no longer does.
fn until_shown(lab: &TestLab, list: &str, key: &str, value: &str, want: bool) {
    until(&format!("{value} in {list}: {want}"), LONG, || {
        let dump = ask(lab, "n1", "/config_dump")?;
        let mut all = dump[list].as_array().into_iter().flatten();
        anyhow::ensure!(all.any(|one| one[key] == value) == want, "not yet");
        Ok(())
    })
    .unwrap();
}

#[test]
fn an_endpoint_of_the_same_node_that_goes_away_is_replaced_and_one_that_refuses_is_not() {
    if !weft_tests::is_root() {
        return;
    }
    let web = |entry: &mut weft_testkit::lab::file::PodEntry| {
        entry.labels.insert("tier".to_owned(), "web".to_owned());
    };
    let lab = four_pods()
        .pod_with("near", "n1", web)
        .pod_with("far", "n2", web)
        .resource(WEB)
        .resource(NEAR_SERVES_A)
        .up()
        .unwrap();
    let vip = "10.96.9.9:80".parse().unwrap();
    let near = Server::start(&lab.netns("near"), any_8080(), Behaviour::Echo).unwrap();
    let far = Server::start(&lab.netns("far"), any_8080(), Behaviour::Echo).unwrap();
    until_shown(&lab, "policies", "name", POLICY, true);
    assert!(reaches(&lab, "a", vip));
    assert!(!reaches(&lab, "c", vip), "what near refuses, far may serve");
    record(&lab, "n1", &["inbound", "DENY", "no ALLOW policy matches"]);
    assert_eq!((near.seen().len(), far.seen().len()), (1, 0));
    // Its sockets would keep the namespace.
    drop(near);

    let socket = lab.lab().place().admin("n1", "proxy");
    admin::get(&socket, "/logging?level=weft_proxy%3Ddebug%2Cinfo").unwrap();
    let control = stand_in::take_over(&lab);
    let key = (AUTHORIZATION.to_owned(), POLICY.to_owned());
    let mut held_back = None;
    control.change(|configuration| held_back = configuration.everyone.0.remove(&key));
    until_shown(&lab, "policies", "name", POLICY, false);
    let mut stream = load::connect(&lab.netns("a"), vip).unwrap();
    stream.write_all(b"x").unwrap();
    let mine = stream.local_addr().unwrap().to_string();
    until("the connection to be held", LONG, || {
        let at_near = live(&lab, "n1", "inbound");
        let held = at_near.iter().any(|one| one["source"] == mine);
        anyhow::ensure!(held, "{at_near:?}");
        Ok(())
    })
    .unwrap();
    lab.netns("near").delete().unwrap();
    until_shown(
        &lab,
        "pods",
        "workload",
        "Kubernetes//Pod/default/near",
        false,
    );
    control.change(|configuration| configuration.everyone.put(POLICY, held_back.unwrap()));
    let mut answer = [0; 1];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!((&answer, far.seen().len()), (b"x", 1));

    record(&lab, "n1", &[&mine, "inbound", "CONNECT", "left the mesh"]);
    record(&lab, "n1", &["endpoint set aside", "Pod/default/near"]);
    control.stop().unwrap();
}
