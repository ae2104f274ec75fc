//! A server that leaves the mesh: what its port 15008 takes meanwhile, and from whom.
//!
//! Method: two peers that hear of nothing, with certificates of their own, ask for tunnels to a server that a policy opens to one
//! of them: while it is in the mesh, right after it left, and when its node has let go of it.

use std::net::SocketAddr;

use weft_testkit::load;
use weft_testkit::peer::Behaviour;
use weft_tests::lab::Builder;

use super::mesh::{HBONE, ask, credentials};

const ONLY_FRIEND: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-friend, namespace: default}
spec:
  selector: {matchLabels: {app: server}}
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/friend]}}]}]
";

#[test]
fn tunnels_to_a_server_that_left_are_judged_as_before_and_end_with_its_node_s_hold() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = Builder::two_nodes()
        .plain_pod("friend", "n1")
        .plain_pod("stranger", "n1")
        .pod("server", "n2")
        .resource(ONLY_FRIEND)
        .up()
        .unwrap();
    let (_server, to) = lab.serve("server", Behaviour::Echo).unwrap();
    let certificates = ["friend", "stranger"].map(|pod| credentials(&lab, "n1", pod));
    let answers = |lab: &weft_tests::lab::TestLab, account: &str| {
        let peers = ["friend", "stranger"].into_iter().zip(&certificates);
        let tunnel = SocketAddr::new(to.ip(), HBONE);
        let answers = peers.map(|peer| ask(lab, peer, (tunnel, account), &to.to_string()).ok());
        answers.collect::<Vec<_>>()
    };
    let plainly = load::echo(&lab.netns("friend"), to, 100);
    assert_eq!(answers(&lab, "server"), [Some(200), Some(401)]);
    assert!(plainly.is_err(), "plaintext proves no identity");
    lab.set_mesh("server", false).unwrap();
    assert_eq!(answers(&lab, "server"), [Some(200), Some(401)]);
    // Whoever answers there is the server, and nobody else.
    assert_eq!(answers(&lab, "other"), [None, None]);
    for pod in ["friend", "stranger"] {
        load::echo(&lab.netns(pod), to, 100).unwrap();
    }
    lab.wait_until_let_go("server").unwrap();
    assert_eq!(answers(&lab, "server"), [None, None]);
    load::echo(&lab.netns("stranger"), to, 100).unwrap();
}
