//! Where connections go, as tables.

use std::sync::Arc;

use weft_config::{Snapshot, SnapshotBuilder};
use weft_types::{
    GatewayAddress, GatewayDestination, MeshSettings, OrigDst, OutboundMode, WeightedWaypoint,
};

use super::{Route, Target, Waypoint, route};
use crate::failure::Failure;
use crate::testing::{at, behind, service, service_name, workload};

fn plan(snapshot: &Snapshot, dialled: &str) -> Result<Route, Failure> {
    let source = workload("client", "10.0.0.1");
    let dialled = OrigDst(dialled.parse().unwrap());
    route(snapshot, &source, dialled, &mut rand::rng())
}

fn gateway(destination: GatewayDestination) -> GatewayAddress {
    GatewayAddress {
        destination,
        hbone_port: 15008,
    }
}

fn config() -> SnapshotBuilder {
    let mut config = SnapshotBuilder::new();
    config
        .put_service(service("web", "10.96.0.10"))
        .put_service(service("waypoint", "10.96.0.99"))
        .put_workload(behind(workload("server", "10.0.0.2"), "web", 80, 8080));
    config
}

#[test]
fn a_service_address_leads_to_its_endpoints_by_the_port_dialled() {
    let plan = plan(&config().build(), "10.96.0.10:80").unwrap();
    assert!(matches!(&plan.target, Target::Service(s, 80) if *s.short_name == *"web"));
    assert_eq!(*plan.service.unwrap().short_name, *"web");
}

#[test]
fn a_port_that_the_service_does_not_have_is_refused() {
    let failure = plan(&config().build(), "10.96.0.10:81").unwrap_err();
    assert!(matches!(failure, Failure::NoPort { port: 81, .. }));
}

#[test]
fn a_workload_address_leads_to_the_workload_and_is_recorded_under_its_only_service() {
    let snapshot = config().build();
    let to_service_port = plan(&snapshot, "10.0.0.2:8080").unwrap();
    assert!(matches!(&to_service_port.target, Target::Workload(w) if *w.name == *"server"));
    assert_eq!(*to_service_port.service.unwrap().short_name, *"web");
    let to_another_port = plan(&snapshot, "10.0.0.2:22").unwrap();
    assert!(matches!(to_another_port.target, Target::Workload(_)));
    assert!(to_another_port.service.is_none());
}

#[test]
fn unknown_addresses_pass_or_are_refused_by_the_mesh_s_setting() {
    let mut config = config();
    let open = plan(&config.build(), "93.184.216.34:443").unwrap();
    assert!(matches!(open.target, Target::Unknown));
    config.set_settings(Some(MeshSettings {
        outbound: OutboundMode::RegistryOnly,
        ..MeshSettings::default()
    }));
    let refused = plan(&config.build(), "93.184.216.34:443").unwrap_err();
    assert!(matches!(refused, Failure::RegistryOnly(_)));
}

#[test]
fn a_service_with_a_waypoint_is_never_reached_past_it() {
    for destination in [
        GatewayDestination::Hostname(service_name("waypoint")),
        GatewayDestination::Address(at("10.96.0.99")),
    ] {
        let mut config = config();
        let mut web = service("web", "10.96.0.10");
        web.waypoint = Some(gateway(destination));
        config.put_service(web);
        let plan = plan(&config.build(), "10.96.0.10:80").unwrap();
        let Target::Waypoint(Waypoint::Service(waypoint, 15008)) = plan.target else {
            panic!("{plan:?}");
        };
        assert_eq!(*waypoint.short_name, *"waypoint");
    }
    let mut config = config();
    let mut web = service("web", "10.96.0.10");
    web.waypoint = Some(gateway(GatewayDestination::Hostname(service_name("gone"))));
    config.put_service(web);
    let failure = plan(&config.build(), "10.96.0.10:80").unwrap_err();
    assert!(matches!(failure, Failure::NoWaypoint(_)));
}

#[test]
fn a_workload_with_a_waypoint_is_reached_through_it_by_address() {
    let mut config = config();
    let mut server = workload("server", "10.0.0.2");
    server.waypoint = Some(gateway(GatewayDestination::Address(at("10.0.0.3"))));
    config
        .put_workload(server)
        .put_workload(workload("waypoint-pod", "10.0.0.3"));
    let plan = plan(&config.build(), "10.0.0.2:8080").unwrap();
    let Target::Waypoint(Waypoint::Workload(waypoint, address)) = plan.target else {
        panic!("{plan:?}");
    };
    assert_eq!(*waypoint.name, *"waypoint-pod");
    assert_eq!(address.to_string(), "10.0.0.3:15008");
}

#[test]
fn weighted_waypoints_share_by_weight_and_win_over_the_single_one() {
    let mut config = config();
    let to = |name: &str, weight| WeightedWaypoint {
        destination: gateway(GatewayDestination::Hostname(service_name(name))),
        weight,
    };
    let mut web = service("web", "10.96.0.10");
    web.waypoint = Some(gateway(GatewayDestination::Hostname(service_name("gone"))));
    web.weighted_waypoints = vec![to("waypoint", 1), to("canary", 3), to("never", 0)];
    config
        .put_service(web)
        .put_service(service("canary", "10.96.0.98"));
    let snapshot = config.build();
    let mut canary = 0;
    for _ in 0..1000 {
        let plan = plan(&snapshot, "10.96.0.10:80").unwrap();
        let Target::Waypoint(Waypoint::Service(chosen, _)) = plan.target else {
            panic!("{plan:?}");
        };
        canary += usize::from(*chosen.short_name == *"canary");
    }
    // 750 expected; 600 is eleven standard deviations below.
    assert!((600..=900).contains(&canary), "{canary}");
}

#[test]
fn the_address_is_looked_up_in_the_source_s_own_network() {
    let mut config = config();
    let mut far = workload("far", "10.0.0.7");
    far.network = Arc::from("elsewhere");
    config.put_workload(far);
    let plan = plan(&config.build(), "10.0.0.7:80").unwrap();
    assert!(matches!(plan.target, Target::Unknown));
}
