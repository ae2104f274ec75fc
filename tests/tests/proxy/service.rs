//! Services: every ready endpoint is used, and one that does not answer costs nobody a connection.

use std::net::SocketAddr;

use weft_testkit::netns::has_ipv6;
use weft_testkit::peer::{Behaviour, Server};

use super::{four_pods, reaches};

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.9.9, clusterIPs: [10.96.9.9, 'fd00:10:96::99'], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: PreferDualStack, selector: {tier: web}, ports: [{port: 80, targetPort: 8080}]}
";

const CALLS: usize = 40;

pub(super) fn any_8080() -> SocketAddr {
    let any = if has_ipv6() {
        "[::]:8080"
    } else {
        "0.0.0.0:8080"
    };
    any.parse().unwrap()
}

#[test]
fn a_service_spreads_calls_over_its_endpoints_and_survives_one_that_does_not_answer() {
    if !weft_tests::is_root() {
        return;
    }
    let web = |entry: &mut weft_testkit::lab::file::PodEntry| {
        entry.labels.insert("tier".to_owned(), "web".to_owned());
    };
    let lab = four_pods()
        .pod_with("w1", "n1", web)
        .pod_with("w2", "n2", web)
        .pod_with("w3", "n2", web)
        .resource(WEB)
        .up()
        .unwrap();
    // w3 is said to be ready, but nobody listens there.
    let one = Server::start(&lab.netns("w1"), any_8080(), Behaviour::Echo).unwrap();
    let two = Server::start(&lab.netns("w2"), any_8080(), Behaviour::Echo).unwrap();
    let mut vips = vec!["10.96.9.9:80"];
    if has_ipv6() {
        vips.push("[fd00:10:96::99]:80");
    }
    for vip in vips {
        let (before_one, before_two) = (one.seen().len(), two.seen().len());
        let vip: SocketAddr = vip.parse().unwrap();
        for call in 0..CALLS {
            assert!(reaches(&lab, "a", vip), "call {call} to {vip}");
        }
        // All in one place has a chance of 2 in 2^40.
        assert!(
            one.seen().len() > before_one,
            "w1 got none of {CALLS} calls to {vip}"
        );
        assert!(
            two.seen().len() > before_two,
            "w2 got none of {CALLS} calls to {vip}"
        );
    }
    // A port that the service does not have.
    assert!(!reaches(&lab, "a", "10.96.9.9:81".parse().unwrap()));
}
