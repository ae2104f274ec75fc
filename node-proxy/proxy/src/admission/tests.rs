//! Decisions as tables: who arrives how, under which configuration, and what becomes of it.

use std::sync::Arc;

use tokio::sync::mpsc;
use weft_config::{PolicyEntry, Snapshot, SnapshotBuilder};
use weft_types::policy::{Clause, Match};
use weft_types::{
    Action, GatewayAddress, GatewayDestination, PolicyName, Rule, StringMatch, TunnelProtocol,
    Workload,
};

use super::{Arrival, Decision, Via, decide, may_be_behind};
use crate::failure::Denial;
use crate::pods::Pods;
use crate::testing::{at, behind, fake_pod, id, ip, policy, service, service_name, workload};

const CLIENT: &str = "10.0.0.1";
const SERVER: &str = "10.0.0.2";
const WAYPOINT: &str = "10.0.0.3";

fn tunnel(account: &str, peer: &str) -> Via {
    Via::Tunnel {
        identity: id(account),
        peer: ip(peer),
    }
}

fn plaintext(peer: &str) -> Via {
    Via::Plaintext { peer: ip(peer) }
}

fn node(account: &str, address: &str) -> Via {
    Via::Node {
        identity: id(account),
        address: ip(address),
    }
}

/// Judges an arrival at port 8080 of the pod `server`.
fn judge(snapshot: &Snapshot, via: Via) -> Decision {
    let pods = Pods::new(mpsc::unbounded_channel().0);
    let pod = fake_pod(&pods, "server", &[SERVER]);
    let destination = format!("{SERVER}:8080").parse().unwrap();
    decide(
        snapshot,
        &Arrival {
            pod,
            via,
            destination,
        },
    )
}

fn denial(decision: &Decision) -> Option<&Denial> {
    match decision {
        Decision::Deny(denial) => Some(denial),
        _ => None,
    }
}

fn config(server: Workload) -> SnapshotBuilder {
    let mut config = SnapshotBuilder::new();
    config
        .put_workload(workload("client", CLIENT))
        .put_workload(workload("waypoint", WAYPOINT))
        .put_workload(server);
    config
}

fn only(principal: &str) -> Rule {
    Rule {
        clauses: vec![Clause {
            matches: vec![Match {
                principals: vec![StringMatch::Exact(id(principal).principal())],
                ..Match::default()
            }],
        }],
    }
}

#[test]
fn without_policies_everyone_whose_certificate_fits_the_address_is_admitted() {
    let snapshot = config(workload("server", SERVER)).build();
    for via in [
        tunnel("client", CLIENT),
        tunnel("anyone", "10.9.9.9"),
        node("client", CLIENT),
        plaintext(CLIENT),
        plaintext("10.9.9.9"),
    ] {
        let decision = judge(&snapshot, via.clone());
        assert!(
            matches!(decision, Decision::Admit(_)),
            "{via:?}: {decision:?}"
        );
    }
}

#[test]
fn a_recycled_address_does_not_lend_its_former_identity() {
    let snapshot = config(workload("server", SERVER)).build();
    let decision = judge(&snapshot, tunnel("former", CLIENT));
    let Decision::Hold(Denial::WrongIdentity { expected, got, .. }) = &decision else {
        panic!("{decision:?}");
    };
    assert_eq!((expected, got), (&id("client").to_string(), &id("former")));
}

#[test]
fn a_pod_that_configuration_does_not_know_is_never_open() {
    let snapshot = SnapshotBuilder::new().build();
    let decision = judge(&snapshot, tunnel("client", CLIENT));
    assert!(matches!(
        decision,
        Decision::Hold(Denial::UnknownWorkload(_))
    ));

    let mut foreign = workload("server", SERVER);
    foreign.service_account = "other".into();
    let decision = judge(&config(foreign).build(), tunnel("client", CLIENT));
    assert!(matches!(
        decision,
        Decision::Hold(Denial::ForeignWorkload(_))
    ));
}

#[test]
fn a_policy_that_is_only_tried_out_refuses_nobody_and_says_whom_it_would() {
    let tried = |name: &str, action, rules| {
        let mut policy = policy(name, action, rules);
        policy.dry_run = true;
        PolicyEntry::Good(Arc::new(policy))
    };
    let check = |entries: Vec<PolicyEntry>, account: &str, want: Option<Option<&str>>| {
        let mut config = config(workload("server", SERVER));
        for entry in entries {
            config.put_policy(entry);
        }
        let decision = judge(&config.build(), tunnel(account, "10.9.9.9"));
        let Decision::Admit(admission) = &decision else {
            panic!("{decision:?}");
        };
        let told = admission.dry_run.as_ref().map(|tried| {
            let policy = tried.policy.as_ref();
            policy.map(|policy| policy.name.to_string())
        });
        let want = want.map(|policy| policy.map(str::to_owned));
        assert_eq!(told, want, "{account}");
    };
    let deny = || tried("deny", Action::Deny, vec![only("evil")]);
    check(vec![deny()], "client", None);
    check(vec![deny()], "evil", Some(Some("deny")));
    let allow = || tried("allow", Action::Allow, vec![only("client")]);
    check(vec![allow()], "client", None);
    check(vec![allow()], "evil", Some(None));
    // Tried out beside one that is enforced.
    let enforced = || {
        let allow = policy("enforced", Action::Allow, vec![only("evil")]);
        PolicyEntry::Good(Arc::new(allow))
    };
    check(vec![enforced(), deny()], "evil", Some(Some("deny")));
    check(vec![enforced(), allow()], "evil", None);
}

#[test]
fn allow_policies_admit_the_identity_they_name_and_no_plaintext() {
    let mut config = config(workload("server", SERVER));
    let allow = policy("allow", Action::Allow, vec![only("client")]);
    config.put_policy(PolicyEntry::Good(Arc::new(allow)));
    let snapshot = config.build();
    let check = |via: Via, want: bool| {
        let decision = judge(&snapshot, via.clone());
        assert_eq!(
            matches!(decision, Decision::Admit(_)),
            want,
            "{via:?}: {decision:?}"
        );
    };
    check(tunnel("client", CLIENT), true);
    check(node("client", CLIENT), true);
    check(tunnel("other", "10.9.9.9"), false);
    check(node("other", "10.9.9.9"), false);
    check(plaintext(CLIENT), false);
}

#[test]
fn deny_names_its_policy_and_strict_refuses_plaintext_alone() {
    let mut config = config(workload("server", SERVER));
    let strict = Rule {
        clauses: vec![Clause {
            matches: vec![Match {
                not_principals: vec![StringMatch::Presence],
                ..Match::default()
            }],
        }],
    };
    let strict = policy("strict", Action::Deny, vec![strict]);
    config.put_policy(PolicyEntry::Good(Arc::new(strict)));
    let snapshot = config.build();
    let refused = judge(&snapshot, plaintext(CLIENT));
    let by = Denial::ByPolicy(PolicyName::new("default", "strict"));
    assert_eq!(denial(&refused), Some(&by));
    let admitted = judge(&snapshot, tunnel("client", CLIENT));
    assert!(matches!(admitted, Decision::Admit(_)));
}

#[test]
fn a_pod_that_leaves_the_mesh_is_open_to_plaintext_and_one_that_joins_is_not() {
    let allow = policy("allow", Action::Allow, vec![only("client")]);
    let mut out = workload("server", SERVER);
    out.tunnel = TunnelProtocol::None;
    let snapshot = |server: &Workload| {
        let mut config = config(server.clone());
        config.put_policy(PolicyEntry::Good(Arc::new(allow.clone())));
        config.build()
    };
    let pods = Pods::new(mpsc::unbounded_channel().0);
    let pod = fake_pod(&pods, "server", &[SERVER]);
    let check = |server: &Workload, via: Via, want: Option<bool>| {
        let arrival = Arrival {
            pod: Arc::clone(&pod),
            via,
            destination: format!("{SERVER}:8080").parse().unwrap(),
        };
        let outside = match decide(&snapshot(server), &arrival) {
            Decision::Admit(admission) => Some(admission.outside),
            _ => None,
        };
        assert_eq!(outside, want, "{:?}", arrival.via);
    };
    // It was never in by the configuration that is here, which is behind its agent's.
    pod.notice(&out);
    check(&out, plaintext(CLIENT), None);
    let joined = workload("server", SERVER);
    pod.notice(&joined);
    check(&joined, plaintext(CLIENT), None);
    check(&out, plaintext(CLIENT), Some(true));
    // Who says who it is, is judged by it for as long as it can.
    check(&out, tunnel("client", CLIENT), Some(false));
    check(&out, tunnel("other", "10.9.9.9"), None);
    check(&out, node("other", "10.9.9.9"), None);
    let mut foreign = out.clone();
    foreign.service_account = "other".into();
    check(&foreign, plaintext(CLIENT), None);
    check(&joined, plaintext(CLIENT), None);
}

#[test]
fn only_plaintext_of_a_caller_in_the_mesh_may_be_ahead_of_us() {
    let mut config = config(workload("server", SERVER));
    let mut outside = workload("outside", "10.9.9.8");
    outside.tunnel = TunnelProtocol::None;
    config.put_workload(outside);
    let snapshot = config.build();
    let pods = Pods::new(mpsc::unbounded_channel().0);
    for (via, want) in [
        (plaintext(CLIENT), true),
        (plaintext("10.9.9.8"), false),
        (plaintext("10.9.9.9"), false),
        (tunnel("client", CLIENT), false),
        (node("client", CLIENT), false),
    ] {
        let arrival = Arrival {
            pod: fake_pod(&pods, "server", &[SERVER]),
            via,
            destination: format!("{SERVER}:8080").parse().unwrap(),
        };
        assert_eq!(
            may_be_behind(&snapshot, &arrival),
            want,
            "{:?}",
            arrival.via
        );
    }
}

#[test]
fn a_named_policy_that_has_not_arrived_holds() {
    let mut server = workload("server", SERVER);
    server.authorization_policies = vec![PolicyName::new("default", "late")];
    let decision = judge(&config(server).build(), tunnel("client", CLIENT));
    assert!(
        matches!(decision, Decision::Hold(Denial::MissingPolicy(_))),
        "{decision:?}"
    );
}

/// The server's pod behind a service whose waypoint is `waypoint`, and a policy that denies everyone.
fn behind_waypoint(requires: bool, gateway: GatewayDestination) -> Snapshot {
    let mut config = config(behind(workload("server", SERVER), "web", 80, 8080));
    let mut web = service("web", "10.96.0.10");
    web.waypoint = Some(GatewayAddress {
        destination: gateway,
        hbone_port: 15008,
    });
    web.requires_waypoint = requires;
    let waypoint = behind(workload("waypoint", WAYPOINT), "waypoint", 15008, 15008);
    let deny = policy("deny-all", Action::Deny, vec![Rule::default()]);
    config
        .put_service(web)
        .put_service(service("waypoint", "10.96.0.99"))
        .put_workload(waypoint)
        .put_policy(PolicyEntry::Good(Arc::new(deny)));
    config.build()
}

#[test]
fn the_bound_waypoint_is_admitted_in_the_client_s_place_and_nobody_else() {
    for gateway in [
        GatewayDestination::Hostname(service_name("waypoint")),
        GatewayDestination::Address(at("10.96.0.99")),
        GatewayDestination::Address(at(WAYPOINT)),
    ] {
        let snapshot = behind_waypoint(false, gateway.clone());
        let admitted = judge(&snapshot, tunnel("waypoint", WAYPOINT));
        assert!(
            matches!(admitted, Decision::Admit(_)),
            "{gateway:?}: {admitted:?}"
        );
        for via in [
            tunnel("client", CLIENT),
            // The waypoint's identity from elsewhere, and its address without its identity.
            tunnel("waypoint", "10.9.9.9"),
            tunnel("client", WAYPOINT),
            plaintext(WAYPOINT),
        ] {
            let decision = judge(&snapshot, via.clone());
            assert!(
                !matches!(decision, Decision::Admit(_)),
                "{via:?}: {decision:?}"
            );
        }
    }
}

#[test]
fn a_service_that_requires_its_waypoint_refuses_whoever_went_past_it() {
    let gateway = GatewayDestination::Hostname(service_name("waypoint"));
    let snapshot = behind_waypoint(true, gateway);
    let past = Denial::PastWaypoint(service_name("web"));
    for via in [
        tunnel("client", CLIENT),
        node("client", CLIENT),
        plaintext(CLIENT),
    ] {
        assert_eq!(denial(&judge(&snapshot, via)), Some(&past));
    }
    let through = judge(&snapshot, tunnel("waypoint", WAYPOINT));
    assert!(matches!(through, Decision::Admit(_)), "{through:?}");
}
