//! Istio's own node proxy on a node without Weft, against real node proxies: both sides of a tunnel, as it speaks.
//!
//! Method: a lab with an external node. Its pod is published as part of the mesh and served by a peer that says on the wire
//! what that proxy says (`interop/ambient.rs`), with a certificate that the controller gave to that node's token. What it asks
//! is carried, judged and answered as it expects; what ours ask of it has the form that it reads.

#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::{Method, StatusCode};
use weft_testkit::ads::ambient::{Ambient, AmbientOptions};
use weft_testkit::load;
use weft_testkit::netns::runtime;
use weft_testkit::peer::Behaviour;
use weft_testkit::wait;
use weft_tests::lab::{Builder, TestLab};

#[path = "interop/ambient.rs"]
mod ambient;

use ambient::{Book, Client, Identity};

const BULK: usize = 10 << 20;
const HBONE_PORT: u16 = 15008;
const A: &str = "spiffe://cluster.local/ns/default/sa/a";
const Z: &str = "spiffe://cluster.local/ns/default/sa/z";

/// Pods a on n1, b on n2, and z on a node of the foreign proxy.
fn lab() -> Builder {
    let builder = Builder::two_nodes().external_node("e1");
    builder.pod("a", "n1").pod("b", "n2").pod("z", "e1")
}

/// Runs in the namespace of z with its certificate. The control plane is asked from the node, as there.
fn identity(lab: &TestLab) -> Identity {
    let report = weft_testkit::lab::report::describe(lab.lab());
    let file = |path: &str| std::fs::read_to_string(path).unwrap();
    let options = AmbientOptions {
        address: report["controller"]["address"].as_str().unwrap().to_owned(),
        root_pem: file(report["controller"]["rootCert"].as_str().unwrap()),
        token: file(lab.lab().place().token("e1").to_str().unwrap()),
        node: "e1".to_owned(),
        on_demand: false,
    };
    let node = lab.lab().topology().node("e1");
    let asked = node.spawn("control", move || {
        runtime()?.block_on(async { Ambient::connect(options).await?.certificate(Z).await })
    });
    Identity::new(&asked.unwrap().join().unwrap().unwrap())
}

/// Runs a conversation as the proxy of z.
fn as_proxy<F>(lab: &TestLab, talk: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    let thread = lab.netns("z").spawn("foreign", move || {
        runtime()?.block_on(talk());
        Ok(())
    });
    thread.unwrap().join().unwrap().unwrap();
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

#[test]
fn a_foreign_node_proxy_reaches_our_pods() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = lab().up().unwrap();
    let (_echo, echo) = lab.serve("a", Behaviour::Echo).unwrap();
    let (_count, count) = lab.serve("a", Behaviour::Count).unwrap();
    let greeting = "first\n";
    let (_greet, greet) = lab
        .serve("a", Behaviour::Greet(greeting.to_owned()))
        .unwrap();
    let elsewhere = lab.v4("b");
    let identity = identity(&lab);
    as_proxy(&lab, move || async move {
        let hbone = SocketAddr::new(echo.ip(), HBONE_PORT);
        let mut client = Client::connect(&identity, A, hbone).await;
        client.ping().await;
        let tunnel = client.open(&echo.to_string()).await.unwrap();
        let baggage = tunnel.answer["baggage"].to_str().unwrap().to_owned();
        for word in [
            "k8s.cluster.name=Kubernetes",
            "k8s.namespace.name=default",
            "k8s.pod.name=a",
        ] {
            let mut words = baggage.split(',');
            assert!(words.any(|have| have == word), "{word} in {baggage}");
        }
        let sent = pattern(BULK);
        assert!(
            tunnel.exchange(sent.clone()).await == sent,
            "all of it comes back"
        );
        // An application that answers only after the end of what it was sent.
        let tunnel = client.open(&count.to_string()).await.unwrap();
        let counted = tunnel.exchange(sent).await;
        assert!(String::from_utf8_lossy(&counted).contains(&BULK.to_string()));
        // One that speaks first.
        let mut tunnel = client.open(&greet.to_string()).await.unwrap();
        assert_eq!(tunnel.first().await, greeting);
        assert_eq!(tunnel.exchange(b"then me".to_vec()).await, b"then me");
        // As many streams at once as it opens on one connection.
        let mut open = Vec::new();
        for _ in 0..100 {
            open.push(client.open(&echo.to_string()).await.unwrap());
        }
        for (number, tunnel) in open.into_iter().enumerate() {
            let word = format!("stream {number}").into_bytes();
            assert_eq!(tunnel.exchange(word.clone()).await, word);
        }
        // And what it may not have, in the statuses that it reports.
        let refused = async |authority: String| client.open(&authority).await.err();
        let another = format!("{elsewhere}:{}", echo.port());
        assert_eq!(refused(another).await, Some(StatusCode::BAD_REQUEST));
        let named = format!("a.default.svc.cluster.local:{}", echo.port());
        assert_eq!(refused(named).await, Some(StatusCode::BAD_REQUEST));
        let closed = SocketAddr::new(echo.ip(), 9);
        let nobody = refused(closed.to_string()).await;
        assert_eq!(nobody, Some(StatusCode::SERVICE_UNAVAILABLE));
        let page = client.ask(Method::GET, &format!("https://{echo}/")).await;
        assert_eq!(page.err(), Some(StatusCode::BAD_REQUEST));
        client.ping().await;
    });
}

fn only(action: &str, account: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: default}}\n\
         spec:\n  selector: {{matchLabels: {{app: a}}}}\n  action: {action}\n  rules:\n  - from:\n    - source:\n        \
         principals: [\"cluster.local/ns/default/sa/{account}\"]\n"
    )
}

#[test]
fn a_foreign_node_proxy_is_judged_by_its_certificate_and_cut_off_when_the_policy_changes() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = lab().resource(&only("ALLOW", "z")).up().unwrap();
    let (_echo, echo) = lab.serve("a", Behaviour::Echo).unwrap();
    let identity = identity(&lab);
    let hbone = SocketAddr::new(echo.ip(), HBONE_PORT);
    let (opened, is_open) = std::sync::mpsc::channel();
    let holder = identity.clone();
    let holding = lab.netns("z").spawn("holder", move || {
        runtime()?.block_on(async {
            let client = Client::connect(&holder, A, hbone).await;
            let tunnel = client.open(&echo.to_string()).await.unwrap();
            opened.send(()).unwrap();
            tunnel.reset().await;
        });
        Ok(())
    });
    is_open.recv().unwrap();
    lab.set_resource(0, &only("DENY", "z")).unwrap();
    holding.unwrap().join().unwrap().unwrap();
    as_proxy(&lab, move || async move {
        let client = Client::connect(&identity, A, hbone).await;
        let denied = client.open(&echo.to_string()).await.err();
        assert_eq!(denied, Some(StatusCode::UNAUTHORIZED));
    });
}

#[test]
fn our_pods_reach_those_behind_a_foreign_node_proxy() {
    if !weft_tests::is_root() {
        return;
    }
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: z, namespace: default}\n\
                   spec:\n  clusterIP: 10.96.0.90\n  selector: {app: z}\n  ports: [{name: tcp, port: 9000, targetPort: 7000}]\n";
    let lab = lab().resource(service).up().unwrap();
    let book = Arc::new(Mutex::new(Book::default()));
    let server = serve(&lab, book.clone());
    let (from, source) = (lab.netns("a"), lab.v4("a"));
    let direct = SocketAddr::new(lab.v4("z"), 7000);
    let through_service = SocketAddr::new([10, 96, 0, 90].into(), 9000);
    wait::until("the service to lead there", wait::LONG, || {
        load::echo(&from, through_service, 10)
    })
    .unwrap();
    load::echo(&from, direct, BULK).unwrap();
    let asked = book.lock().unwrap().asked.clone();
    let (first, last) = (asked.first().unwrap(), asked.last().unwrap());
    for asked in [first, last] {
        assert!(asked.proven, "the certificate names {A}");
        assert_eq!(asked.peer.ip(), source, "the pod's own address");
        assert_eq!(asked.server_name, None);
        assert_eq!(asked.method, Method::CONNECT);
        // The destination's address and port, also where a service was dialled; no scheme, no path.
        assert_eq!(asked.uri.authority().unwrap().as_str(), direct.to_string());
        assert_eq!(
            (asked.uri.scheme(), asked.uri.path_and_query()),
            (None, None)
        );
        let header = |name: &str| asked.headers[name].to_str().unwrap().to_owned();
        let baggage = header("baggage");
        assert!(baggage.contains("k8s.namespace.name=default"), "{baggage}");
        assert!(baggage.contains("k8s.pod.name=a"), "{baggage}");
        let traceparent = header("traceparent");
        assert_eq!(traceparent.len(), 55, "{traceparent}");
        assert!(traceparent.starts_with("00-"), "{traceparent}");
        let forwarded = header("forwarded");
        assert!(
            forwarded.starts_with(&format!("for=\"{source}:")),
            "{forwarded}"
        );
    }
    let forwarded =
        |asked: &ambient::Asked| asked.headers["forwarded"].to_str().unwrap().to_owned();
    assert!(forwarded(first).ends_with(";host=z.default.svc.cluster.local"));
    assert!(book.lock().unwrap().answered > 0, "its PING is answered");
    // It drains a connection: what runs ends well, what comes next goes over others.
    book.lock().unwrap().leaving = true;
    load::echo(&from, direct, BULK).unwrap();
    let before = book.lock().unwrap().asked.len();
    for _ in 0..8 {
        load::echo(&from, direct, 10).unwrap();
    }
    let asked = book.lock().unwrap().asked.clone();
    let drained = asked[before - 1].connection;
    assert!(asked.len() > before);
    assert!(
        asked[before..]
            .iter()
            .all(|later| later.connection != drained)
    );
    // It refuses.
    book.lock().unwrap().refusing = true;
    let refused = load::exchange(&from, direct, b"x").unwrap_err();
    assert!(
        matches!(
            refused.kind(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        ),
        "{refused}"
    );
    book.lock().unwrap().refusing = false;
    load::echo(&from, direct, 10).unwrap();
    drop(server);
}

/// The foreign proxy of z; ends when the sender is dropped.
fn serve(lab: &TestLab, book: Arc<Mutex<Book>>) -> tokio::sync::oneshot::Sender<()> {
    let identity = identity(lab);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (listening, is_listening) = std::sync::mpsc::channel();
    let thread = lab.netns("z").spawn("foreign", move || {
        runtime()?.block_on(async move {
            let listener = tokio::net::TcpListener::bind(("0.0.0.0", HBONE_PORT)).await?;
            listening.send(()).unwrap();
            tokio::select! {
                () = ambient::serve(identity, A.to_owned(), listener, book) => {}
                _ = stopped => {}
            }
            Ok(())
        })
    });
    drop(thread.unwrap());
    is_listening.recv().unwrap();
    stop
}
