//! What a tunnel peer is answered, with real TLS over loopback. Delivery itself needs the hooks: see the system tests.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use weft_config::{PolicyEntry, SnapshotBuilder};
use weft_hbone::{ClientLimits, ConnectRequest, OpenError};
use weft_runtime::spawn;
use weft_types::{Action, Rule};

use super::terminate;
use crate::testing::{Ca, Node, id, ip, policy, run, workload};

const SERVER: &str = "127.0.0.1";
/// An address that configuration does not know: the certificate alone says who it is.
const CLIENT: &str = "127.0.0.7";

fn config() -> SnapshotBuilder {
    let mut config = SnapshotBuilder::new();
    config.put_workload(workload("server", SERVER));
    config
}

/// Serves one tunnel connection of a pod at 127.0.0.1; the other end belongs to whoever `client` says.
async fn against<T>(node: &Node, client: impl AsyncFnOnce(TcpStream) -> T) -> T {
    Box::pin(against_boxed(node, client)).await
}

async fn against_boxed<T>(node: &Node, client: impl AsyncFnOnce(TcpStream) -> T) -> T {
    let listener = TcpListener::bind((SERVER, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let test = async {
        let worker = node.worker();
        let pod = node.pod("server", &[SERVER]);
        let serve = async {
            let (stream, peer) = listener.accept().await.unwrap();
            terminate(worker, pod, stream, peer).await;
        };
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(ip(CLIENT), 0)).unwrap();
        let stream = socket.connect(address).await.unwrap();
        tokio::join!(serve, client(stream)).1
    };
    run(test).await
}

/// The status that a request gets.
async fn status(node: &Node, ca: &Ca, authority: &str) -> u16 {
    against(node, async |stream: TcpStream| {
        let credentials = ca.credentials(&id("client"));
        let stream = weft_identity::connect(&credentials, &[id("server")], stream)
            .await
            .unwrap();
        let (connection, driver) = weft_hbone::handshake(stream, ClientLimits::default())
            .await
            .unwrap();
        let driver = spawn(&node.shared.background, "driver", driver);
        let authority: weft_hbone::Authority = authority.parse().unwrap();
        let answer = connection.open(&ConnectRequest::new(authority)).await;
        drop(connection);
        let status = match answer {
            Err(OpenError::Refused(refusal)) => refusal.status.as_u16(),
            Ok(_) => 200,
            Err(other) => panic!("{other}"),
        };
        driver.await.unwrap().unwrap();
        status
    })
    .await
}

#[tokio::test]
async fn a_request_for_another_address_or_a_name_is_a_bad_request() {
    let node = Node::new(config().build());
    for authority in [
        "127.0.0.2:80",
        "169.254.169.254:80",
        "[::1]:80",
        "127.0.0.1:15008",
        "web.default.svc.cluster.local:80",
    ] {
        assert_eq!(status(&node, &node.ca, authority).await, 400, "{authority}");
    }
    let records = node.records();
    assert_eq!(records.len(), 5, "{records:?}");
    assert!(
        records[0].contains("127.0.0.2:80 at 127.0.0.1:"),
        "{}",
        records[0]
    );
}

#[tokio::test]
async fn a_request_that_policy_denies_is_unauthorized_and_the_record_names_the_policy() {
    let mut config = config();
    let deny = policy("deny-all", Action::Deny, vec![Rule::default()]);
    config.put_policy(PolicyEntry::Good(Arc::new(deny)));
    let node = Node::new(config.build());
    assert_eq!(status(&node, &node.ca, "127.0.0.1:80").await, 401);
    let record = &node.records()[0];
    for field in [
        "response_flags=\"DENY\"",
        "policy default/deny-all denies it",
        "src.identity=\"spiffe://cluster.local/ns/default/sa/client\"",
        "dst.workload=\"server\"",
        "direction=\"inbound\"",
    ] {
        assert!(record.contains(field), "{field} in {record}");
    }
}

#[tokio::test]
async fn what_cannot_be_delivered_truthfully_is_not_delivered() {
    // Allowed by policy, but nobody can tell the application who is calling: no map of socket storage.
    let node = Node::new(config().build());
    assert_eq!(status(&node, &node.ca, "127.0.0.1:80").await, 503);
    assert!(node.records()[0].contains("the client's address was not taken over"));
}

#[tokio::test]
async fn a_peer_of_another_authority_gets_nowhere() {
    let node = Node::new(config().build());
    let foreign = Ca::new();
    let refused = against(&node, async |stream: TcpStream| {
        let credentials = foreign.credentials(&id("client"));
        weft_identity::connect(&credentials, &[id("server")], stream)
            .await
            .is_err()
    })
    .await;
    assert!(refused);
    let record = &node.records()[0];
    assert!(
        record.contains("response_flags=\"TLS_FAILURE\""),
        "{record}"
    );
}

#[tokio::test]
async fn a_peer_that_speaks_no_tls_leaves_one_record() {
    let node = Node::new(config().build());
    let peer: SocketAddr = against(&node, async |mut stream: TcpStream| {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP"));
        stream.local_addr().unwrap()
    })
    .await;
    let records = node.records();
    assert_eq!(records.len(), 1);
    assert!(
        records[0].contains(&format!("src.addr={peer}")),
        "{}",
        records[0]
    );
}
