//! A member of the mesh that lies, talks nonsense or floods: one whose certificate is good, on a node of somebody else's.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use weft_hbone::{Authority as Target, ClientLimits, ConnectRequest, OpenError, handshake};
use weft_identity::{
    Authority, AuthorityOptions, CaClient, CaOptions, CertificateSource as _, Credentials,
    PrivateKey,
};
use weft_runtime::{Shutdown, SystemClock, spawn};
use weft_testkit::load::Churn;
use weft_testkit::netns::runtime;
use weft_testkit::peer::{Behaviour, Server};
use weft_testkit::{lab::report, load};
use weft_tests::lab::{Builder, TestLab};
use weft_types::{SpiffeId, TrustDomain};

use super::{frames, logged, program};

/// Connections that show that a mesh works.
const STEADY: u64 = 50;
/// Streams after which a flood counts as not stopped; it takes a few hundred.
const FLOOD_MAX: u32 = 200_000;
/// Handshakes that one neighbour begins: more than a pod has places for.
const STALLED: usize = 300;
/// Streams written at once.
const BATCH: u32 = 50;

/// Pods a on n1 and b on n2, and the hostile x on a node where no Weft runs. An echo server in b.
fn lab() -> (TestLab, Server, SocketAddr) {
    let lab = Builder::two_nodes()
        .external_node("e1")
        .pod("a", "n1")
        .pod("b", "n2")
        .pod("x", "e1")
        .up()
        .unwrap();
    let (server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    (lab, server, to)
}

fn id(domain: &str, account: &str) -> SpiffeId {
    format!("spiffe://{domain}/ns/default/sa/{account}")
        .parse()
        .unwrap()
}

fn from_response(identity: SpiffeId, key: PrivateKey, chain: &[String]) -> Credentials {
    Credentials::from_response(identity, key, chain, SystemTime::now()).unwrap()
}

/// The credentials of x, asked for with the token of its node.
fn of_x(lab: &TestLab) -> Credentials {
    let identity = id("cluster.local", "x");
    let key = PrivateKey::generate().unwrap();
    let csr = key.request(&identity).unwrap();
    let report = report::describe(lab.lab());
    let client = CaClient::new(CaOptions {
        address: report["controller"]["address"].as_str().unwrap().to_owned(),
        root_cert: report["controller"]["rootCert"].as_str().unwrap().into(),
        token: lab.lab().place().token("e1"),
        cluster: String::new(),
    });
    let asked = identity.clone();
    let chain = lab
        .lab()
        .topology()
        .node("e1")
        .enter(move || Ok(runtime()?.block_on(client.sign(&asked, csr, Duration::ZERO))?));
    from_response(identity, key, &chain.unwrap())
}

/// A connection from the pod x to the tunnel port of b.
fn dial(lab: &TestLab) -> std::net::TcpStream {
    let to = SocketAddr::new(lab.v4("b"), 15008);
    load::connect(&lab.netns("x"), to).unwrap()
}

async fn secured(
    stream: std::net::TcpStream,
    credentials: &Credentials,
) -> anyhow::Result<weft_identity::TlsStream<TcpStream>> {
    stream.set_nonblocking(true)?;
    let stream = TcpStream::from_std(stream)?;
    let expected = [id("cluster.local", "b")];
    Ok(weft_identity::connect(credentials, &expected, stream).await?)
}

/// What a CONNECT is answered, on a connection of its own.
fn ask(lab: &TestLab, credentials: &Credentials, authority: &str) -> anyhow::Result<u16> {
    let stream = dial(lab);
    let target: Target = authority.parse()?;
    runtime()?.block_on(async {
        let stream = secured(stream, credentials).await?;
        let (connection, driver) = handshake(stream, ClientLimits::default()).await?;
        let background = Shutdown::new();
        spawn(&background, "driver", driver);
        match connection.open(&ConnectRequest::new(target)).await {
            Ok(_tunnel) => Ok(200),
            Err(OpenError::Refused(refusal)) => Ok(refusal.status.as_u16()),
            Err(other) => Err(other.into()),
        }
    })
}

#[test]
fn a_connect_to_anything_but_the_pod_itself_is_a_bad_request() {
    if !weft_tests::is_root() {
        return;
    }
    let (lab, server, to) = lab();
    let proxy = program(&lab, "n2", "weft-proxy");
    let x = of_x(&lab);
    assert_eq!(ask(&lab, &x, &to.to_string()).unwrap(), 200, "the control");
    let port = server.port();
    let node = lab.lab().record().plan.nodes[1].addresses[0];
    let others = [
        format!("{}:{port}", lab.v4("a")),
        format!("{node}:15021"),
        format!("127.0.0.1:{port}"),
        format!("[::1]:{port}"),
        "169.254.169.254:80".to_owned(),
        format!("{}:15008", lab.v4("b")),
        "b.default.svc.cluster.local:80".to_owned(),
    ];
    for authority in &others {
        assert_eq!(ask(&lab, &x, authority).unwrap(), 400, "{authority}");
        logged(&lab, "n2", &[authority, "inbound"]);
    }
    // What is no TLS, and no HTTP/2 inside TLS, ends without an answer.
    let mut plain = dial(&lab);
    plain
        .write_all(b"CONNECT b:80 HTTP/1.1\r\nhost: b\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    let stream = dial(&lab);
    runtime().unwrap().block_on(async {
        let mut stream = secured(stream, &x).await.unwrap();
        stream.write_all(&[0xff; 1000]).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.len() < 200, "{answer:?}");
    });
    load::echo(&lab.netns("a"), to, 10_000).unwrap();
    assert_eq!(
        program(&lab, "n2", "weft-proxy"),
        proxy,
        "it never restarted"
    );
}

#[test]
fn a_certificate_of_another_trust_domain_is_refused_though_the_authority_is_ours() {
    if !weft_tests::is_root() {
        return;
    }
    let (lab, _server, to) = lab();
    let place = lab.lab().place().clone();
    let evil = TrustDomain::new("evil.example").unwrap();
    let options = AuthorityOptions::default();
    let authority =
        Authority::load_or_create(&place.controller(), evil, options, Arc::new(SystemClock));
    let identity = id("evil.example", "x");
    let key = PrivateKey::generate().unwrap();
    let csr = key.request(&identity).unwrap();
    let hour = Duration::from_hours(1);
    let chain = authority.unwrap().sign(&csr, &identity, hour).unwrap();
    // The stranger believes in our domain; we must not believe in its.
    let ours = TrustDomain::new("cluster.local").unwrap();
    let stranger = from_response(identity, key, &chain).with_aliases(&[ours]);
    let refused = ask(&lab, &stranger, &to.to_string());
    assert!(refused.is_err(), "{refused:?}");
    logged(
        &lab,
        "n2",
        &[
            "spiffe://evil.example/ns/default/sa/x belongs to a foreign trust domain",
            "TLS_FAILURE",
        ],
    );
    assert_eq!(ask(&lab, &of_x(&lab), &to.to_string()).unwrap(), 200);
}

#[test]
fn a_peer_that_floods_streams_is_cut_off_and_nobody_else_notices() {
    if !weft_tests::is_root() {
        return;
    }
    let (lab, _server, to) = lab();
    let proxy = program(&lab, "n2", "weft-proxy");
    let churn = Churn::new(&lab.netns("a"), to).start().unwrap();
    churn.wait_for(STEADY).unwrap();
    let x = of_x(&lab);
    for _ in 0..3 {
        let stream = dial(&lab);
        let opened = runtime().unwrap().block_on(flood(stream, &x, to));
        assert!(opened < FLOOD_MAX, "the flood was not stopped");
    }
    churn.wait_for(STEADY).unwrap();
    churn.stop().unwrap().verdict().unwrap();
    assert_eq!(
        program(&lab, "n2", "weft-proxy"),
        proxy,
        "it never restarted"
    );
    // Cut off is the connection, not the workload.
    assert_eq!(ask(&lab, &x, &to.to_string()).unwrap(), 200);
}

#[test]
fn a_neighbour_that_finishes_no_handshake_takes_nobody_elses_place() {
    if !weft_tests::is_root() {
        return;
    }
    let (lab, _server, to) = lab();
    let tunnel = SocketAddr::new(lab.v4("b"), 15008);
    // Those that are too many may be reset before `connect` has returned.
    let mut stalled: Vec<_> = (0..STALLED)
        .filter_map(|_| load::connect(&lab.netns("x"), tunnel).ok())
        .collect();
    for stream in &mut stalled {
        let _ = stream.write_all(b"\x16");
    }
    logged(
        &lab,
        "n2",
        &["from one address, are still in their handshake"],
    );
    load::echo(&lab.netns("a"), to, 10_000).unwrap();
}

/// Opens streams and cancels them at once until the connection ends; how many there were.
async fn flood(stream: std::net::TcpStream, x: &Credentials, to: SocketAddr) -> u32 {
    let stream = secured(stream, x).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    writer.write_all(&frames::preface()).await.unwrap();
    let authority = to.to_string();
    let mut opened = 0;
    let writing = async {
        while opened < FLOOD_MAX {
            let streams = (opened..opened + BATCH).map(|number| 2 * number + 1);
            let batch: Vec<u8> = streams
                .flat_map(|id| [frames::connect(id, &authority), frames::cancel(id)].concat())
                .collect();
            if writer.write_all(&batch).await.is_err() || writer.flush().await.is_err() {
                return;
            }
            opened += BATCH;
        }
    };
    let reading = async {
        let mut answer = [0; 4096];
        while reader
            .read(&mut answer)
            .await
            .is_ok_and(|length| length > 0)
        {}
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
    }
    opened
}
