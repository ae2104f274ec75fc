//! Connecting against real peers on loopback: a tunnel server with a certificate, and plain listeners.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use weft_config::SnapshotBuilder;
use weft_hbone::{ConnectRequest, ConnectResponse, Incoming, ServerLimits};
use weft_telemetry::{Direction, ResponseFlag};
use weft_types::{GatewayAddress, GatewayDestination, OrigDst, TunnelProtocol, Workload};

use super::identify::Source;
use super::{connect, relay};
use crate::connections::FirstEnd;
use crate::failure::Failure;
use crate::testing::{Ca, Node, at, behind, id, run, service, workload};
use crate::worker::Worker;

const VIP: &str = "10.96.0.10:80";

fn source(node: &Node, dialled: &str) -> Source {
    let pod = node.pod("client", &["127.0.0.1"]);
    let snapshot = node.shared.config.load();
    Source {
        workload: Arc::clone(snapshot.workload(&pod.workload()).unwrap()),
        identity: pod.identity().unwrap(),
        client: "127.0.0.1:40000".parse().unwrap(),
        dialled: OrigDst(dialled.parse().unwrap()),
        pod,
    }
}

fn begin(worker: &Worker, source: &Source) -> crate::worker::Live {
    worker.connections.begin(
        &source.pod.spec.uid,
        Direction::Outbound,
        FirstEnd::Client,
        Rc::default(),
    )
}

/// Two ends of a connection, as if an application had been accepted.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

/// Serves one tunnel connection as `account`, handing its first request to `answer`, until the test drops it.
async fn tunnel_server(
    ca: Arc<Ca>,
    listener: TcpListener,
    account: &'static str,
    requests: oneshot::Sender<ConnectRequest>,
    answer: impl AsyncFnOnce(Incoming),
) {
    let (stream, _) = listener.accept().await.unwrap();
    let credentials = ca.credentials(&id(account));
    // The client refuses an impostor, and then there is nothing to serve.
    let Ok(stream) = weft_identity::accept(&credentials, stream).await else {
        return std::future::pending().await;
    };
    assert_eq!(*stream.peer_identity(), id("client"));
    let limits = ServerLimits::default();
    let mut server = weft_hbone::serve(stream, limits).await.unwrap();
    let Some(Ok(incoming)) = server.next().await else {
        return std::future::pending().await;
    };
    let _ = requests.send(incoming.request().clone());
    let drive = async { while server.next().await.is_some() {} };
    tokio::join!(answer(incoming), drive);
    std::future::pending::<()>().await;
}

/// How a connect to `to` by a client ends whose pod has just left the mesh.
async fn fails_without_pod(node: &Node, to: &str) -> Failure {
    let test = async {
        let worker = node.worker();
        let source = source(node, to);
        let connection = begin(&worker, &source);
        source.pod.stock.close();
        let reached = connect::connect(&worker, &source, &connection).await;
        reached.err().unwrap()
    };
    run(test).await
}

/// A client whose service has a waypoint that listens where the test says.
async fn waypoint() -> (Node, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut web = service("web", "10.96.0.10");
    web.waypoint = Some(GatewayAddress {
        destination: GatewayDestination::Address(at("127.0.0.1")),
        hbone_port: listener.local_addr().unwrap().port(),
    });
    let mut config = SnapshotBuilder::new();
    config
        .put_service(web)
        .put_workload(workload("client", "127.0.0.9"))
        .put_workload(workload("waypoint", "127.0.0.1"));
    (Node::new(config.build()), listener)
}

#[tokio::test]
async fn a_tunnel_carries_the_bytes_and_says_who_is_calling_whom() {
    let (node, listener) = waypoint().await;
    let test = async {
        let worker = node.worker();
        let source = source(&node, VIP);
        let connection = begin(&worker, &source);
        let echo = async |incoming: Incoming| {
            let mut tunnel = incoming.accept(&ConnectResponse::default()).unwrap();
            let mut text = [0; 5];
            tunnel.read_exact(&mut text).await.unwrap();
            tunnel.write_all(&text).await.unwrap();
            tunnel.shutdown().await.unwrap();
            assert_eq!(tunnel.read(&mut text).await.unwrap(), 0);
        };
        let (sender, request) = oneshot::channel();
        let peer = tunnel_server(Arc::clone(&node.ca), listener, "waypoint", sender, echo);
        let client = async {
            let (mut application, accepted) = pair().await;
            let upstream = connect::connect(&worker, &source, &connection)
                .await
                .unwrap();
            connection.opened();
            let talk = async {
                application.write_all(b"hello").await.unwrap();
                application.shutdown().await.unwrap();
                let mut back = String::new();
                application.read_to_string(&mut back).await.unwrap();
                back
            };
            let (back, end) = tokio::join!(talk, relay::relay(&connection, accepted, upstream));
            connection.end(end);
            back
        };
        let back = tokio::select! {
            back = client => back,
            () = peer => unreachable!("it serves until it is dropped"),
        };
        (request.await.unwrap(), back)
    };
    let (request, back) = run(test).await;
    assert_eq!(back, "hello");
    assert_eq!(request.authority.to_string(), VIP);
    let forwarded = request.forwarded;
    assert_eq!(forwarded.client, Some("127.0.0.1:40000".parse().unwrap()));
    assert_eq!(
        forwarded.host.as_deref(),
        Some("web.default.svc.cluster.local")
    );
    let baggage = request.baggage.read().unwrap();
    assert_eq!(baggage.namespace.as_deref(), Some("default"));
    assert!(request.traceparent.is_some());
    let records = node.records();
    assert_eq!(records.len(), 1, "{records:?}");
    for field in [
        "dst.hbone_addr=10.96.0.10:80",
        "dst.service=\"web.default.svc.cluster.local\"",
        "dst.identity=\"spiffe://cluster.local/ns/default/sa/waypoint\"",
        "direction=\"outbound\"",
        "bytes_sent=5 bytes_recv=5",
    ] {
        assert!(records[0].contains(field), "{field} in {}", records[0]);
    }
}

/// The failure of connecting through a waypoint whose listener behaves as given.
async fn fails_with(account: &'static str, status: u16) -> Failure {
    let (node, listener) = waypoint().await;
    let test = async {
        let worker = node.worker();
        let source = source(&node, VIP);
        let connection = begin(&worker, &source);
        let refuse = async |incoming: Incoming| {
            incoming.refuse(http::StatusCode::from_u16(status).unwrap());
        };
        let (sender, _request) = oneshot::channel();
        let peer = tunnel_server(Arc::clone(&node.ca), listener, account, sender, refuse);
        tokio::select! {
            reached = connect::connect(&worker, &source, &connection) => reached.err().unwrap(),
            () = peer => unreachable!("it serves until it is dropped"),
        }
    };
    run(test).await
}

#[tokio::test]
async fn a_peer_with_another_identity_gets_no_byte() {
    let failure = fails_with("impostor", 200).await;
    assert_eq!(failure.flag(), ResponseFlag::TlsFailure, "{failure}");
    assert!(failure.to_string().contains("impostor"), "{failure}");
}

#[tokio::test]
async fn a_refusal_by_policy_is_final_and_an_absent_application_is_not() {
    let denied = fails_with("waypoint", 401).await;
    assert_eq!(denied.flag(), ResponseFlag::Deny);
    assert!(!denied.is_retryable(), "{denied}");
    let absent = fails_with("waypoint", 503).await;
    assert_eq!(absent.flag(), ResponseFlag::Connect);
    assert!(absent.is_retryable(), "{absent}");
}

#[tokio::test]
async fn a_client_that_has_left_is_no_fault_of_the_node_or_of_the_destination() {
    let (node, listener) = waypoint().await;
    let unknown = listener.local_addr().unwrap().to_string();
    for to in [VIP, &unknown] {
        let failure = fails_without_pod(&node, to).await;
        assert_eq!(failure.flag(), ResponseFlag::Connect, "{failure}");
        assert!(failure.to_string().contains("left the mesh"), "{failure}");
        assert!(!failure.is_retryable(), "{failure}");
    }
}

fn plain(name: &str, address: &str, port: u16) -> Workload {
    let mut workload = behind(workload(name, address), "web", 80, port);
    workload.tunnel = TunnelProtocol::None;
    workload
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_replaced_and_left_alone() {
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut config = SnapshotBuilder::new();
    config
        .put_service(service("web", "10.96.0.10"))
        .put_workload(workload("client", "127.0.0.9"))
        .put_workload(plain("alive", "127.0.0.2", port));
    for dead in 3..5 {
        // Nobody listens there: the port was given to us alone, at another address.
        let address = format!("127.0.0.{dead}");
        config.put_workload(plain(&format!("dead-{dead}"), &address, port));
    }
    let node = Node::new(config.build());
    let test = async {
        let worker = node.worker();
        let source = source(&node, VIP);
        for _ in 0..8 {
            let connection = begin(&worker, &source);
            let reached = connect::connect(&worker, &source, &connection).await;
            assert!(reached.is_ok(), "{:?}", reached.err());
            let to: SocketAddr = connection.facts().destination.address.unwrap();
            assert_eq!(to.ip().to_string(), "127.0.0.2");
            connection.end(Ok(()));
        }
    };
    run(test).await;
}

#[tokio::test]
async fn without_any_ready_endpoint_the_record_says_why() {
    let mut config = SnapshotBuilder::new();
    let mut sick = plain("sick", "127.0.0.2", 8080);
    sick.health = weft_types::Health::Unhealthy;
    config
        .put_service(service("web", "10.96.0.10"))
        .put_workload(workload("client", "127.0.0.9"))
        .put_workload(sick);
    let node = Node::new(config.build());
    let worker = node.worker();
    let source = source(&node, VIP);
    let connection = begin(&worker, &source);
    let failure = connect::connect(&worker, &source, &connection)
        .await
        .err()
        .unwrap();
    connection.end(Err(failure));
    let records = node.records();
    assert!(
        records[0].contains("response_flags=\"NO_ROUTE\""),
        "{}",
        records[0]
    );
    assert!(
        records[0].contains("none of its workloads is ready"),
        "{}",
        records[0]
    );
}

#[tokio::test]
async fn a_connection_costs_little_memory_while_it_is_relayed() {
    let node = Node::new(SnapshotBuilder::new().build());
    let worker = node.worker();
    let pod = node.pod("client", &["127.0.0.1"]);
    let (_, accepted) = pair().await;
    let client = "127.0.0.1:40000".parse().unwrap();
    let future = super::serve(worker, pod, accepted, client);
    // 10 000 idle connections within 24 KiB each leave room for buffers; the future itself is the smaller part.
    assert!(
        size_of_val(&future) <= 4096,
        "{} bytes",
        size_of_val(&future)
    );
}
