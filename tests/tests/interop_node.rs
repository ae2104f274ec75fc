//! Envoy on a node without Weft, against real node proxies: as the proxy of a pod, and as the waypoint of a service.
//!
//! Method: a lab with an external node. Its pod is published as part of the mesh; Envoy serves it with a certificate that
//! the controller gives to that node's token, configured as Istio configures its waypoint. Real connections of applications
//! that know nothing of all this, ten megabytes each way, with the leak oracle watching.

#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use weft_identity::{CaClient, CaOptions, CertificateSource as _};
use weft_proto::resource::ADDRESS;
use weft_proto::wire::workload::{
    Address, GatewayAddress, NetworkAddress, address, gateway_address,
};
use weft_testkit::ads::Configuration;
use weft_testkit::envoy::{self, Certificates, Envoy, Role};
use weft_testkit::load;
use weft_testkit::netns::runtime;
use weft_testkit::peer::{Behaviour, Server};
use weft_testkit::wait;
use weft_tests::lab::{Builder, TestLab};
use weft_types::SpiffeId;

#[path = "common/stand_in.rs"]
mod stand_in;

const BULK: usize = 10 << 20;

/// Ports inside namespaces of our own are free.
const HBONE: &str = "0.0.0.0:15008";
const PLAIN: &str = "127.0.0.1:7000";
const SERVICE_PORT: u16 = 8080;

fn program() -> Option<PathBuf> {
    if !weft_tests::is_root() {
        return None;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    match envoy::install(root) {
        Ok(program) => Some(program),
        Err(error) => {
            weft_tests::skip(&format!("Envoy cannot be installed: {error:#}"));
            None
        }
    }
}

/// A certificate of the lab's authority for a pod of the external node, asked for with that node's token.
fn certificates(lab: &TestLab, name: &str) -> Certificates {
    let identity: SpiffeId = format!("spiffe://cluster.local/ns/default/sa/{name}")
        .parse()
        .unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into().unwrap())];
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let report = weft_testkit::lab::report::describe(lab.lab());
    let client = CaClient::new(CaOptions {
        address: report["controller"]["address"].as_str().unwrap().to_owned(),
        root_cert: report["controller"]["rootCert"].as_str().unwrap().into(),
        token: lab.lab().place().token("e1"),
        cluster: String::new(),
    });
    let node = lab.lab().topology().node("e1");
    let mut chain = node
        .spawn("ca-client", move || {
            let asked = runtime()?.block_on(client.sign(&identity, csr, Duration::ZERO));
            Ok(asked?)
        })
        .unwrap()
        .join()
        .unwrap()
        .unwrap();
    let roots = chain.pop().unwrap();
    Certificates {
        chain: chain.concat(),
        key: key.serialize_pem(),
        roots,
        peers: "spiffe://cluster.local/".to_owned(),
    }
}

/// Pods a on n1, b on n2, and one on the external node, by its name.
fn lab(external: &str) -> Builder {
    let builder = Builder::two_nodes().external_node("e1");
    builder.pod("a", "n1").pod("b", "n2").pod(external, "e1")
}

fn echoes(lab: &TestLab, from: &str, to: SocketAddr) {
    wait::until("the path to carry bytes", wait::LONG, || {
        load::echo(&lab.netns(from), to, 10)
    })
    .unwrap();
    load::echo(&lab.netns(from), to, BULK).unwrap();
}

#[test]
fn pods_of_a_foreign_proxy_reach_ours_and_ours_reach_them() {
    let Some(program) = program() else { return };
    let lab = lab("peer").up().unwrap();
    let ours = Server::on_any(&lab.netns("a"), Behaviour::Echo).unwrap();
    let theirs = Server::on_any(&lab.netns("peer"), Behaviour::Echo).unwrap();
    let envoy = Envoy::start(
        &program,
        Some(&lab.netns("peer")),
        &Role {
            certificates: certificates(&lab, "peer"),
            terminate: Some(HBONE.parse().unwrap()),
            plain: Some((PLAIN.parse().unwrap(), ours.at(lab.v4("a")))),
            originate: None,
            services: Vec::new(),
        },
    )
    .unwrap();
    let recorder = lab.record().unwrap();
    echoes(&lab, "a", theirs.at(lab.v4("peer")));
    assert!(
        envoy
            .stat("listener.0.0.0.0_15008.downstream_cx_total")
            .unwrap()
            > 0
    );
    echoes(&lab, "peer", PLAIN.parse().unwrap());
    recorder.stop().unwrap().verdict().unwrap();
}

#[test]
fn policy_judges_a_foreign_proxy_by_its_certificate() {
    let Some(program) = program() else { return };
    let policy = |account: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: only, namespace: default}}\n\
             spec:\n  selector: {{matchLabels: {{app: a}}}}\n  action: ALLOW\n  rules:\n  - from:\n    - source:\n        \
             principals: [\"cluster.local/ns/default/sa/{account}\"]\n"
        )
    };
    let mut lab = lab("peer").resource(&policy("peer")).up().unwrap();
    let ours = Server::on_any(&lab.netns("a"), Behaviour::Echo).unwrap();
    let _envoy = Envoy::start(
        &program,
        Some(&lab.netns("peer")),
        &Role {
            certificates: certificates(&lab, "peer"),
            terminate: None,
            plain: Some((PLAIN.parse().unwrap(), ours.at(lab.v4("a")))),
            originate: None,
            services: Vec::new(),
        },
    )
    .unwrap();
    let plain: SocketAddr = PLAIN.parse().unwrap();
    echoes(&lab, "peer", plain);
    lab.set_resource(0, &policy("somebody-else")).unwrap();
    wait::until(
        "the changed policy to refuse",
        wait::LONG,
        || match load::echo(&lab.netns("peer"), plain, 10) {
            Ok(()) => anyhow::bail!("it is still let through"),
            Err(_) => Ok(()),
        },
    )
    .unwrap();
    lab.set_resource(0, &policy("peer")).unwrap();
    echoes(&lab, "peer", plain);
}

fn service(name: &str, address: &str, port: u16, labels: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default, labels: {{{labels}}}}}\n\
         spec:\n  clusterIP: {address}\n  selector: {{app: {name}}}\n  ports: [{{name: tcp, port: {port}}}]\n"
    )
}

#[test]
fn a_service_is_reached_through_envoy_as_its_waypoint() {
    let Some(program) = program() else { return };
    let lab = lab("waypoint")
        .resource(&service("waypoint", "10.96.0.10", 15008, ""))
        .resource(&service(
            "b",
            "10.96.0.11",
            SERVICE_PORT,
            "weft.dev/use-waypoint: waypoint",
        ))
        .up()
        .unwrap();
    let listen = SocketAddr::new(lab.v4("b"), SERVICE_PORT);
    let server = Server::start(&lab.netns("b"), listen, Behaviour::Echo).unwrap();
    let address = SocketAddr::new([10, 96, 0, 11].into(), SERVICE_PORT);
    let envoy = Envoy::start(
        &program,
        Some(&lab.netns("waypoint")),
        &Role {
            certificates: certificates(&lab, "waypoint"),
            terminate: Some(HBONE.parse().unwrap()),
            plain: None,
            originate: Some(15008),
            services: vec![(address, listen)],
        },
    )
    .unwrap();
    let recorder = lab.record().unwrap();
    echoes(&lab, "a", address);
    assert!(
        envoy
            .stat("listener.0.0.0.0_15008.downstream_cx_total")
            .unwrap()
            > 0,
        "it passed the waypoint"
    );
    let clients = server.seen();
    assert!(
        clients
            .iter()
            .all(|client| client.ip() == lab.v4("waypoint")),
        "{clients:?}"
    );
    recorder.stop().unwrap().verdict().unwrap();
}

/// The testkit's control plane takes the place of the controller, at its address and with its root, and serves what the
/// controller served; then by hand: a waypoint that is named by its address, as no resource of this version can.
#[test]
fn a_waypoint_that_is_named_by_address_is_honoured_from_one_connection_to_the_next() {
    let Some(program) = program() else { return };
    let lab = lab("waypoint")
        .resource(&service("b", "10.96.0.11", SERVICE_PORT, ""))
        .up()
        .unwrap();
    let listen = SocketAddr::new(lab.v4("b"), SERVICE_PORT);
    let server = Server::start(&lab.netns("b"), listen, Behaviour::Echo).unwrap();
    let address = SocketAddr::new([10, 96, 0, 11].into(), SERVICE_PORT);
    let role = Role {
        certificates: certificates(&lab, "waypoint"),
        terminate: Some(HBONE.parse().unwrap()),
        plain: None,
        originate: Some(15008),
        services: vec![(address, listen)],
    };
    let _envoy = Envoy::start(&program, Some(&lab.netns("waypoint")), &role).unwrap();
    let control = stand_in::take_over(&lab);
    let recorder = lab.record().unwrap();
    echoes(&lab, "a", address);
    assert_eq!(
        server.seen().last().unwrap().ip(),
        lab.v4("a"),
        "no waypoint yet"
    );

    for (waypoint, client) in [(Some("waypoint"), "waypoint"), (None, "a")] {
        control
            .change(|configuration| name_waypoint(configuration, waypoint.map(|pod| lab.v4(pod))));
        wait::until("the next connection to take the way", wait::LONG, || {
            load::echo(&lab.netns("a"), address, 10)?;
            let seen = server.seen().last().map(SocketAddr::ip);
            anyhow::ensure!(seen == Some(lab.v4(client)), "it came from {seen:?}");
            Ok(())
        })
        .unwrap();
        echoes(&lab, "a", address);
    }
    recorder.stop().unwrap().verdict().unwrap();
    control.stop().unwrap();
}

fn name_waypoint(configuration: &mut Configuration, waypoint: Option<IpAddr>) {
    let gateway = |address: IpAddr| GatewayAddress {
        destination: Some(gateway_address::Destination::Address(NetworkAddress {
            address: match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            },
            ..NetworkAddress::default()
        })),
        hbone_mtls_port: 15008,
    };
    let name = "default/b.default.svc.cluster.local";
    let everyone = &mut configuration.everyone;
    everyone
        .edit(ADDRESS, name, |address: &mut Address| {
            let Some(address::Type::Service(service)) = &mut address.r#type else {
                panic!("{name} is no service");
            };
            service.waypoint = waypoint.map(gateway);
        })
        .unwrap();
}
