//! Envoy, configured as Istio configures its waypoint, against our client and our server, on loopback.
//!
//! Method: certificates of one authority for everybody; applications that know nothing of a mesh; between them our
//! HBONE client or server, with Envoy as the other one, or as a waypoint between both. Every path carries ten megabytes
//! each way and half-closed connections. That refusals bite is shown on the same paths. Needs no root.

#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

use std::path::Path;
use std::sync::Arc;

use weft_hbone::OpenError;
use weft_identity::TlsError;
use weft_testkit::envoy::{self, Envoy, Role};
use weft_testkit::wait;

#[path = "interop/application.rs"]
mod application;
#[path = "interop/hbone.rs"]
mod hbone;
#[path = "interop/mesh.rs"]
mod mesh;

use application::{Application, BULK};
use hbone::{Client, Server};
use mesh::{Mesh, id};

const LOOPBACK: &str = "127.0.0.1:0";

const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";
const SERVER: &str = "spiffe://cluster.local/ns/default/sa/server";
const WAYPOINT: &str = "spiffe://cluster.local/ns/default/sa/waypoint";

/// What a test on this machine runs with; absent when Envoy cannot be had, and then the test is skipped.
struct Bench {
    program: std::path::PathBuf,
    mesh: Arc<Mesh>,
    application: Application,
}

async fn bench() -> Option<Bench> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    match envoy::install(root) {
        Ok(program) => Some(Bench {
            program,
            mesh: Arc::new(Mesh::new()),
            application: Application::start().await,
        }),
        Err(error) => {
            weft_tests::skip(&format!("Envoy cannot be installed: {error:#}"));
            None
        }
    }
}

impl Bench {
    fn start(&self, role: &Role) -> Envoy {
        Envoy::start(&self.program, None, role).unwrap()
    }

    /// Envoy takes HBONE and delivers plainly.
    fn envoy_as_server(&self, mesh: &Mesh) -> Envoy {
        self.start(&Role {
            certificates: mesh.certificates(WAYPOINT),
            terminate: Some(LOOPBACK.parse().unwrap()),
            plain: None,
            originate: None,
            services: Vec::new(),
        })
    }

    /// Envoy takes plain TCP for the application and wraps it into HBONE for our server.
    fn envoy_as_client(&self, mesh: &Mesh, server: &Server) -> Envoy {
        self.start(&Role {
            certificates: mesh.certificates(WAYPOINT),
            terminate: None,
            plain: Some((LOOPBACK.parse().unwrap(), self.application.address())),
            originate: Some(server.address().port()),
            services: Vec::new(),
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_reaches_an_application_behind_envoy() {
    let Some(bench) = bench().await else { return };
    let envoy = bench.envoy_as_server(&bench.mesh);
    let hbone = envoy.listener("connect_terminate").unwrap();
    let client = Client::connect(&bench.mesh, CLIENT, &[id(WAYPOINT)], hbone)
        .await
        .unwrap();
    application::exercise(|| client.dial(bench.application.address())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_reaches_an_application_behind_our_server() {
    let Some(bench) = bench().await else { return };
    let server = Server::start(&bench.mesh, SERVER).await;
    let envoy = bench.envoy_as_client(&bench.mesh, &server);
    let plain = envoy.listener("plain").unwrap();
    application::exercise(|| application::dial(plain)).await;
    let rest = application::server_ends_first(application::dial(plain).await, BULK).await;
    application::goes_on(rest).await;
    let seen = server.seen();
    assert!(!seen.is_empty());
    for request in seen {
        assert_eq!(request.peer, id(WAYPOINT));
        assert_eq!(request.authority, bench.application.address().to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_as_waypoint_joins_our_client_and_our_server() {
    let Some(bench) = bench().await else { return };
    let server = Server::start(&bench.mesh, SERVER).await;
    let envoy = bench.start(&Role {
        certificates: bench.mesh.certificates(WAYPOINT),
        terminate: Some(LOOPBACK.parse().unwrap()),
        plain: None,
        originate: Some(server.address().port()),
        services: Vec::new(),
    });
    let hbone = envoy.listener("connect_terminate").unwrap();
    let client = Client::connect(&bench.mesh, CLIENT, &[id(WAYPOINT)], hbone)
        .await
        .unwrap();
    application::exercise(|| client.dial(bench.application.address())).await;
    for request in server.seen() {
        assert_eq!(request.peer, id(WAYPOINT), "a waypoint speaks for itself");
        assert_eq!(request.authority, bench.application.address().to_string());
    }
}

/// Envoy resets a CONNECT whose destination ends first once its answer is out, and drops what the client's window has no
/// room for. What arrived before must not suffer from the reset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_behind_envoy_that_ends_first_is_heard_to_its_end() {
    let Some(bench) = bench().await else { return };
    let envoy = bench.envoy_as_server(&bench.mesh);
    let hbone = envoy.listener("connect_terminate").unwrap();
    let client = Client::connect(&bench.mesh, CLIENT, &[id(WAYPOINT)], hbone)
        .await
        .unwrap();
    for length in [0, 1, 100_000] {
        let stream = client.dial(bench.application.address()).await;
        application::server_ends_first(stream, length).await;
    }
}

/// The same when the application reads only after Envoy has reset the stream: most of the answer is still with the relay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_hears_a_server_behind_envoy_to_its_end() {
    const LENGTH: usize = 500_000;
    let Some(bench) = bench().await else { return };
    let envoy = bench.envoy_as_server(&bench.mesh);
    let hbone = envoy.listener("connect_terminate").unwrap();
    let client = Client::connect(&bench.mesh, CLIENT, &[id(WAYPOINT)], hbone)
        .await
        .unwrap();
    let mut stream = client.dial_narrow(bench.application.address()).await;
    application::ask_to_speak(&mut stream, LENGTH).await;
    wait::until("Envoy to reset the stream", wait::LONG, || {
        let resets = envoy.stat("http2.tx_reset")?;
        anyhow::ensure!(resets > 0, "it has not");
        Ok(())
    })
    .unwrap();
    application::is_heard(stream, LENGTH).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_refuses_an_envoy_with_another_identity() {
    let Some(bench) = bench().await else { return };
    let envoy = bench.envoy_as_server(&bench.mesh);
    let hbone = envoy.listener("connect_terminate").unwrap();
    let refused = Client::connect(&bench.mesh, CLIENT, &[id(SERVER)], hbone).await;
    assert!(matches!(
        refused,
        Err(hbone::Failure::Tls(TlsError::Peer(_)))
    ));
    Client::connect(&bench.mesh, CLIENT, &[id(WAYPOINT)], hbone)
        .await
        .expect("control");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_refuses_a_client_of_another_authority() {
    let Some(bench) = bench().await else { return };
    // Envoy trusts another root than our client's certificate comes from; the client trusts Envoy's.
    let other = Mesh::new();
    let envoy = bench.envoy_as_server(&other);
    let hbone = envoy.listener("connect_terminate").unwrap();
    let stranger = bench.mesh.credentials_trusting(CLIENT, &other);
    match Client::with(&stranger, &[id(WAYPOINT)], hbone).await {
        Err(hbone::Failure::Handshake(error)) => println!("refused at once: {error}"),
        Err(failure) => panic!("our own side must not be the one that refuses: {failure:?}"),
        Ok(client) => {
            let opened = client.open(bench.application.address()).await;
            opened.expect_err("a refusal shows at the first read at the latest");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_server_refuses_an_envoy_of_another_authority() {
    let Some(bench) = bench().await else { return };
    let server = Server::start(&bench.mesh, SERVER).await;
    let envoy = bench.envoy_as_client(&Mesh::new(), &server);
    let plain = envoy.listener("plain").unwrap();
    application::is_cut_off(application::dial(plain).await).await;
    assert!(server.seen().is_empty(), "no request of a stranger is read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_our_server_reaches_envoys_client_as_a_cut() {
    let Some(bench) = bench().await else { return };
    let server = Server::start(&bench.mesh, SERVER).await;
    server.refuse_all();
    let envoy = bench.envoy_as_client(&bench.mesh, &server);
    let plain = envoy.listener("plain").unwrap();
    application::is_cut_off(application::dial(plain).await).await;
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_is_not_there_is_never_a_clean_end() {
    let Some(bench) = bench().await else { return };
    let envoy = bench.envoy_as_server(&bench.mesh);
    let hbone = envoy.listener("connect_terminate").unwrap();
    let client = Client::connect(&bench.mesh, CLIENT, &[id(WAYPOINT)], hbone)
        .await
        .unwrap();
    let nowhere = application::closed_port().await;
    // Envoy may answer 200 before it has connected and reset the stream then, or answer 503 at once.
    match client.open(nowhere).await {
        Err(OpenError::Refused(_) | OpenError::Reset(_)) => {}
        Err(error) => panic!("{error}"),
        Ok(tunnel) => application::is_reset(hbone::joined(tunnel).await).await,
    }
}
