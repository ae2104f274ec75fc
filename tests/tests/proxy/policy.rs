//! Policies on real connections: by identity, without one, and while connections live.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use weft_testkit::peer::Behaviour;
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::TestLab;

use super::{alive, established, four_pods, reaches, record};

const ALLOW_A: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-a, namespace: default}
spec:
  selector: {matchLabels: {app: SERVER}}
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/a]}}]}]
";

const DENY_A: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-a, namespace: default}
spec:
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/a]}}]}]
";

const NOTHING: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-a, namespace: default}
spec:
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/nobody]}}]}]
";

const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec: {mtls: {mode: STRICT}}
";

/// Waits until a pod is reached, or is not: a changed policy takes effect at the proxies a moment after the lab has it.
fn becomes(lab: &TestLab, from: &str, to: SocketAddr, want: bool) {
    until(&format!("{from} reaches {to}: {want}"), LONG, || {
        anyhow::ensure!(reaches(lab, from, to) == want, "not yet");
        Ok(())
    })
    .unwrap();
}

#[test]
fn an_allow_policy_admits_the_identity_it_names_on_every_way_in() {
    if !weft_tests::is_root() {
        return;
    }
    // The server on another node than a and c, and on their own: the tunnel and the shortcut.
    for server_node in ["n2", "n1"] {
        let lab = four_pods()
            .pod("s", server_node)
            .resource(&ALLOW_A.replace("SERVER", "s"))
            .up()
            .unwrap();
        let (_server, to) = lab.serve("s", Behaviour::Echo).unwrap();
        becomes(&lab, "c", to, false);
        assert!(
            reaches(&lab, "a", to),
            "a is allowed, server on {server_node}"
        );
        assert!(!reaches(&lab, "c", to), "c is not, server on {server_node}");
        assert!(
            !reaches(&lab, "p", to),
            "plaintext is nobody, server on {server_node}"
        );
        let words = [
            "direction=\"inbound\"",
            "response_flags=\"DENY\"",
            "no ALLOW policy matches",
        ];
        record(&lab, server_node, &words);
    }
}

/// What a server that tells its client's address tells one that is bound to 127.0.0.1.
fn told_from_loopback(lab: &TestLab, from: &str, to: SocketAddr) -> String {
    let call = || -> anyhow::Result<String> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        socket.connect(&to.into())?;
        let mut stream = TcpStream::from(socket);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    lab.netns(from).enter(call).unwrap()
}

#[test]
fn who_is_bound_to_loopback_is_seen_under_the_address_of_its_pod() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = four_pods().pod("d", "n1").up().unwrap();
    let own = lab.lab().pod("a").unwrap().addresses[0].to_string();
    for server in ["b", "d"] {
        let (_server, to) = lab.serve(server, Behaviour::Http(server.into())).unwrap();
        let answer = told_from_loopback(&lab, "a", to);
        assert!(
            answer.contains(&own) && !answer.contains("127.0.0.1"),
            "{server}: {answer}"
        );
    }
}

#[test]
fn a_changed_policy_cuts_the_connections_that_it_denies_and_no_others() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = four_pods().pod("d", "n1").resource(NOTHING).up().unwrap();
    let (_far, to_far) = lab.serve("b", Behaviour::Echo).unwrap();
    let (_near, to_near) = lab.serve("d", Behaviour::Echo).unwrap();
    let mut denied = [to_far, to_near].map(|to| established(&lab, "a", to));
    let mut others = [to_far, to_near].map(|to| established(&lab, "c", to));
    lab.set_resource(0, DENY_A).unwrap();
    for stream in &mut denied {
        until("the connection is cut", LONG, || {
            anyhow::ensure!(!alive(stream), "still alive");
            Ok(())
        })
        .unwrap();
    }
    for to in [to_far, to_near] {
        assert!(!reaches(&lab, "a", to));
    }
    assert!(
        others.iter_mut().all(alive),
        "connections that are still allowed"
    );
    record(&lab, "n2", &["cut: policy default/no-a denies it"]);
    lab.set_resource(0, NOTHING).unwrap();
    becomes(&lab, "a", to_far, true);
    becomes(&lab, "a", to_near, true);
}

#[test]
fn strict_refuses_plaintext_and_nothing_else() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = four_pods().up().unwrap();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    // The negative control: without the policy, plaintext is served.
    assert!(reaches(&lab, "p", to) && reaches(&lab, "a", to));
    lab.set_resource(0, STRICT).unwrap();
    becomes(&lab, "p", to, false);
    assert!(reaches(&lab, "a", to));
    assert!(reaches(&lab, "c", to));
}
