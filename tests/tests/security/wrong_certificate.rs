//! A certificate that is good, of a member of the mesh, at an address that belongs to another one.
//!
//! That is what a recycled pod address looks like, and what somebody shows who owns a node and not the pod that is called. Its
//! node has a token and no program of ours, so that the peer may show what it likes.

use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use weft_hbone::{ConnectResponse, Counters, ServerLimits, relay, serve};
use weft_identity::Credentials;
use weft_runtime::{Shutdown, spawn};
use weft_testkit::load;
use weft_testkit::netns::{Netns, has_ipv6, runtime};
use weft_testkit::peer::{Behaviour, Server};
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::{Builder, TestLab};

use crate::mesh::{self, HBONE, ask, credentials};

/// Pods a and b with programs of ours; x and y on a node without.
fn lab() -> TestLab {
    Builder::two_nodes()
        .external_node("e1")
        .pod("a", "n1")
        .pod("b", "n2")
        .pod("x", "e1")
        .pod("y", "e1")
        .up()
        .unwrap()
}

fn addresses(lab: &TestLab, pod: &str) -> Vec<IpAddr> {
    let mut found = vec![lab.v4(pod)];
    if has_ipv6() {
        found.push(lab.v6(pod));
    }
    found
}

#[test]
fn a_caller_with_the_certificate_of_another_workload_is_refused_with_the_reason() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = lab();
    let (server, _) = lab.serve("b", Behaviour::Echo).unwrap();
    let (x, y) = (credentials(&lab, "e1", "x"), credentials(&lab, "e1", "y"));
    for address in addresses(&lab, "b") {
        let (at, to) = (SocketAddr::new(address, HBONE), server.at(address));
        let status = |credentials: &Credentials| {
            ask(&lab, ("x", credentials), (at, "b"), &to.to_string()).unwrap()
        };
        let seen = server.seen().len() + 1;
        assert_eq!(status(&x), 200, "the control: the certificate of x from x");
        until("the application to see it", LONG, || {
            anyhow::ensure!(server.seen().len() == seen, "not yet");
            Ok(())
        })
        .unwrap();
        assert_eq!(status(&y), 401, "the certificate of y from x");
        assert_eq!(server.seen().len(), seen, "nothing reached the application");
        let words = [
            "belongs to spiffe://cluster.local/ns/default/sa/x, but the certificate says spiffe://cluster.local/ns/default/sa/y",
            "direction=\"inbound\"",
            "IDENTITY",
        ];
        mesh::logged(&lab, "n2", &words);
    }
}

#[test]
fn a_server_with_the_certificate_of_another_workload_gets_no_byte() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = lab();
    let application = Server::on_any(&lab.netns("x"), Behaviour::Echo).unwrap();
    for (account, served) in [("x", true), ("y", false)] {
        let impostor = Impostor::start(&lab.netns("x"), credentials(&lab, "e1", account));
        for address in addresses(&lab, "x") {
            let to = application.at(address);
            let seen = application.seen().len();
            if served {
                // The control: the right certificate is taken.
                load::echo(&lab.netns("a"), to, 10_000).unwrap();
                continue;
            }
            let answer = load::exchange(&lab.netns("a"), to, b"secret");
            assert!(answer.is_err(), "{answer:?}");
            assert_eq!(application.seen().len(), seen, "it was let through");
            mesh::logged(
                &lab,
                "n1",
                &["sa/y", "direction=\"outbound\"", "TLS_FAILURE"],
            );
        }
        impostor.stop();
    }
}

/// Terminates tunnels on the tunnel port of a pod, with any certificate.
struct Impostor {
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<anyhow::Result<()>>,
    netns: Netns,
}

impl Impostor {
    fn start(netns: &Netns, credentials: Credentials) -> Self {
        let (stop, stopped) = oneshot::channel();
        let thread = netns.spawn("impostor", move || {
            runtime()?.block_on(async move {
                let any = if has_ipv6() { "[::]" } else { "0.0.0.0" };
                let listener = TcpListener::bind(format!("{any}:{HBONE}")).await?;
                tokio::select! {
                    () = terminate(&listener, &credentials) => Ok(()),
                    _ = stopped => Ok(()),
                }
            })
        });
        let this = Self {
            stop,
            thread: thread.unwrap(),
            netns: netns.clone(),
        };
        let here = SocketAddr::new([127, 0, 0, 1].into(), HBONE);
        until("the impostor to listen", LONG, || {
            Ok(load::connect(&this.netns, here)?)
        })
        .unwrap();
        this
    }

    fn stop(self) {
        let _ = self.stop.send(());
        self.thread.join().unwrap().unwrap();
    }
}

async fn terminate(listener: &TcpListener, credentials: &Credentials) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        // Who does not like what it sees leaves here.
        let Ok(stream) = weft_identity::accept(credentials, stream).await else {
            continue;
        };
        let Ok(mut server) = serve(stream, ServerLimits::default()).await else {
            continue;
        };
        let background = Shutdown::new();
        spawn(&background.clone(), "tunnels", async move {
            while let Some(Ok(incoming)) = server.next().await {
                let to = incoming.request().authority.address().unwrap();
                let upstream = tokio::net::TcpStream::connect(to).await.unwrap();
                let tunnel = incoming.accept(&ConnectResponse::default()).unwrap();
                spawn(&background, "relay", async move {
                    relay(upstream, tunnel, &Counters::default()).await;
                });
            }
        });
    }
}
