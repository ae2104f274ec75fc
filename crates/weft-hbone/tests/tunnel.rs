//! Tunnels and relays as the two applications see them.
//!
//! Method: two applications over loopback TCP, two relays, and a client and a server over an in-memory pipe. Every
//! assertion is on what an application reads, or on how a relay says that it ended.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a panic is the report, and a test's tasks end with its runtime"
)]

#[path = "common/link.rs"]
mod common;

use std::io::ErrorKind;
use std::sync::Arc;

use common::{Applications, link, link_with, soon, tcp_pair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weft_hbone::{
    Baggage, BaggageHeader, ClientLimits, ConnectRequest, ConnectResponse, Counters, Forwarded,
    KeepaliveLimits, OpenError, Outcome, ResetCode, ServerLimits, TraceParent, TunnelError, join,
    relay,
};

fn request() -> ConnectRequest {
    ConnectRequest::new("10.0.0.1:80".parse::<std::net::SocketAddr>().unwrap())
}

#[tokio::test]
async fn the_words_of_request_and_response_arrive() {
    let mut link = link().await;
    let mut request = request();
    request.baggage = BaggageHeader::from(Baggage {
        service: Some("a".into()),
        ..Baggage::default()
    });
    request.forwarded = Forwarded {
        client: Some("[fd00::1]:4000".parse().unwrap()),
        host: Some("b.svc".into()),
    };
    request.traceparent = Some(TraceParent::random());
    request
        .headers
        .insert("x-istio-source", "waypoint".parse().unwrap());
    let response = ConnectResponse::new(Baggage {
        service: Some("b".into()),
        ..Baggage::default()
    });
    let accepting = async {
        let incoming = link.incoming.recv().await.unwrap();
        let seen = incoming.request().clone();
        (seen, incoming.accept(&response).unwrap())
    };
    let (opened, (seen, _far)) =
        soon(async { tokio::join!(link.client.open(&request), accepting) }).await;
    assert_eq!(seen.authority, request.authority);
    assert_eq!(seen.baggage, request.baggage);
    assert_eq!(seen.forwarded, request.forwarded);
    assert_eq!(seen.traceparent, request.traceparent);
    assert_eq!(seen.headers, request.headers);
    assert_eq!(opened.unwrap().response().baggage, response.baggage);
}

#[tokio::test]
async fn a_refusal_carries_its_status_and_leaves_the_connection_usable() {
    let mut link = link().await;
    let request = request();
    let refusing = async {
        link.incoming
            .recv()
            .await
            .unwrap()
            .refuse(http::StatusCode::UNAUTHORIZED);
    };
    let (opened, ()) = soon(async { tokio::join!(link.client.open(&request), refusing) }).await;
    let Err(OpenError::Refused(refusal)) = opened else {
        panic!("refused")
    };
    assert_eq!(refusal.status, 401);
    link.tunnel().await;
    assert_eq!(link.client.load().streams, 0);
}

#[tokio::test]
async fn a_request_dropped_without_answer_resets_the_stream() {
    let mut link = link().await;
    let request = request();
    let dropping = async { drop(link.incoming.recv().await) };
    let (opened, ()) = soon(async { tokio::join!(link.client.open(&request), dropping) }).await;
    assert!(matches!(opened, Err(OpenError::Reset(_))), "{opened:?}");
}

#[tokio::test]
async fn an_open_given_up_tells_the_server() {
    let mut link = link().await;
    let request = request();
    let mut incoming = {
        let opening = link.client.open(&request);
        tokio::pin!(opening);
        soon(async {
            tokio::select! {
                _ = &mut opening => panic!("nobody answered"),
                incoming = link.incoming.recv() => incoming.unwrap(),
            }
        })
        .await
    };
    soon(incoming.cancelled()).await;
}

#[tokio::test]
async fn half_close_passes_in_both_orders() {
    for client_first in [true, false] {
        let mut link = link().await;
        let Applications {
            client,
            server,
            near,
            far,
        } = link.applications().await;
        let (mut first, mut second) = if client_first {
            (client, server)
        } else {
            (server, client)
        };
        soon(async {
            first.write_all(b"question").await.unwrap();
            first.shutdown().await.unwrap();
            let mut text = String::new();
            second.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "question");
            // The first one is half closed by now: the answer still gets through.
            second.write_all(b"answer").await.unwrap();
            second.shutdown().await.unwrap();
            text.clear();
            first.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "answer");
            assert!(near.await.unwrap().outcome.is_finished());
            assert!(far.await.unwrap().outcome.is_finished());
        })
        .await;
    }
}

#[tokio::test]
async fn a_connection_without_a_byte_ends_cleanly() {
    let mut link = link().await;
    let Applications {
        mut client,
        mut server,
        near,
        far,
    } = link.applications().await;
    soon(async {
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        let end = near.await.unwrap();
        assert_eq!((end.forward, end.backward), (0, 0));
        assert!(far.await.unwrap().outcome.is_finished());
    })
    .await;
    assert_eq!(link.client.load().streams, 0);
}

#[tokio::test]
async fn reset_arrives_as_reset_from_either_side() {
    for from_client in [true, false] {
        let mut link = link().await;
        let Applications {
            client,
            server,
            near,
            far,
        } = link.applications().await;
        let (first, mut second) = if from_client {
            (client, server)
        } else {
            (server, client)
        };
        soon(async {
            first.set_zero_linger().unwrap();
            drop(first);
            let error = second.read(&mut [0; 8]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            let (near, far) = (near.await.unwrap().outcome, far.await.unwrap().outcome);
            let (origin, other) = if from_client {
                (near, far)
            } else {
                (far, near)
            };
            assert!(
                matches!(origin, Outcome::FirstFailed(ErrorKind::ConnectionReset)),
                "{origin:?}"
            );
            let reset = TunnelError::Reset(ResetCode::CONNECT_ERROR).to_string();
            assert!(
                matches!(&other, Outcome::TunnelFailed(e) if e.to_string() == reset),
                "{other:?}"
            );
        })
        .await;
    }
}

#[tokio::test]
async fn reset_after_half_close_is_still_a_reset() {
    let mut link = link().await;
    let Applications {
        mut client,
        mut server,
        near: _near,
        far: _far,
    } = link.applications().await;
    soon(async {
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        server.set_zero_linger().unwrap();
        drop(server);
        let error = client.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    })
    .await;
}

#[tokio::test]
async fn a_dead_connection_resets_both_applications() {
    let mut link = link().await;
    let Applications {
        mut client,
        mut server,
        ..
    } = link.applications().await;
    link.server.abort();
    link.driver.abort();
    soon(async {
        assert_eq!(
            client.read(&mut [0; 8]).await.unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
        assert_eq!(
            server.read(&mut [0; 8]).await.unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
    })
    .await;
    assert!(matches!(
        soon(link.client.open(&request())).await,
        Err(OpenError::Closing)
    ));
    assert!(link.client.load().closing);
}

#[tokio::test]
async fn a_relay_that_is_dropped_resets_both_ends() {
    let mut link = link().await;
    let Applications {
        mut client,
        mut server,
        near,
        ..
    } = link.applications().await;
    soon(async {
        // Until a byte has passed, the task may not have run yet and hold nothing but its arguments.
        client.write_all(b"x").await.unwrap();
        server.read_exact(&mut [0; 1]).await.unwrap();
        near.abort();
        assert_eq!(
            client.read(&mut [0; 8]).await.unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
        assert_eq!(
            server.read(&mut [0; 8]).await.unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
    })
    .await;
}

#[tokio::test]
async fn bulk_in_both_directions_arrives_whole() {
    let mut link = link().await;
    let Applications {
        client,
        server,
        near,
        far,
    } = link.applications().await;
    let data: Arc<Vec<u8>> = Arc::new(
        (0..10_u32 << 20)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect(),
    );
    let exchange = |socket: tokio::net::TcpStream| {
        let data = Arc::clone(&data);
        async move {
            let (mut read, mut write) = socket.into_split();
            let mut received = Vec::new();
            let sending = async {
                write.write_all(&data).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let (_, ()) = tokio::join!(read.read_to_end(&mut received), sending);
            assert!(received == *data);
        }
    };
    soon(async { tokio::join!(exchange(client), exchange(server)) }).await;
    let end = soon(near).await.unwrap();
    assert!(end.outcome.is_finished());
    assert_eq!((end.forward, end.backward), (10 << 20, 10 << 20));
    assert!(soon(far).await.unwrap().outcome.is_finished());
}

#[tokio::test]
async fn a_reader_that_stops_slows_its_own_stream_only() {
    let mut link = link().await;
    let stalled = link.applications().await;
    let flowing = link.applications().await;
    let (_unread, mut blocked) = (stalled.server, stalled.client);
    let writer = tokio::spawn(async move {
        let chunk = vec![1; 64 << 10];
        while blocked.write_all(&chunk).await.is_ok() {}
    });
    // More than the connection window passes on the other stream while the first one holds its own window full.
    let total = 64 << 20;
    let mut client = flowing.client;
    let mut server = flowing.server;
    let sending = tokio::spawn(async move {
        client.write_all(&vec![2; total]).await.unwrap();
        client
    });
    let mut received = 0;
    let mut buffer = vec![0; 256 << 10];
    soon(async {
        while received < total {
            received += server.read(&mut buffer).await.unwrap();
        }
    })
    .await;
    assert_eq!(received, total);
    drop(sending.await);
    writer.abort();
}

#[tokio::test]
async fn counters_tell_while_the_relay_runs() {
    let mut link = link().await;
    let (near, mut far) = link.tunnel().await;
    let (mut client, tcp) = tcp_pair().await;
    let counters = Arc::new(Counters::default());
    let running = {
        let counters = Arc::clone(&counters);
        tokio::spawn(async move { relay(tcp, near, &counters).await })
    };
    soon(async {
        client.write_all(b"12345").await.unwrap();
        far.read_exact(&mut [0; 5]).await.unwrap();
        assert_eq!((counters.forward(), counters.backward()), (5, 0));
        far.write_all(b"123").await.unwrap();
        client.read_exact(&mut [0; 3]).await.unwrap();
        assert_eq!((counters.forward(), counters.backward()), (5, 3));
    })
    .await;
    assert!(!running.is_finished());
}

#[tokio::test]
async fn drain_refuses_new_tunnels_and_lets_open_ones_end() {
    let mut link = link().await;
    let (mut near, mut far) = link.tunnel().await;
    link.drain.take().unwrap().send(()).unwrap();
    soon(async {
        // The connection keeps serving until GOAWAY has arrived; from then on every open says that nothing was sent.
        loop {
            let request = request();
            tokio::select! {
                opened = link.client.open(&request) => {
                    assert!(matches!(opened, Err(OpenError::Closing)), "{opened:?}");
                    break;
                }
                raced = link.incoming.recv() => drop(raced),
            }
        }
        near.write_all(b"still").await.unwrap();
        near.shutdown().await.unwrap();
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "still");
        far.shutdown().await.unwrap();
        assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
        drop((near, far));
        link.server.await.unwrap().unwrap();
        link.driver.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_connection_closes_when_nobody_holds_it() {
    let link = link().await;
    drop(link.client);
    soon(link.driver).await.unwrap().unwrap();
    soon(link.server).await.unwrap().unwrap();
}

#[tokio::test]
async fn bulk_shows_in_the_load_and_goes_away() {
    let mut link = link_with(
        ClientLimits {
            keepalive: KeepaliveLimits::default(),
            ..ClientLimits::default()
        },
        ServerLimits::default(),
    )
    .await;
    let Applications {
        mut client,
        mut server,
        near,
        far,
    } = link.applications().await;
    let reading = tokio::spawn(async move {
        let mut sink = vec![0; 64 << 10];
        while server.read(&mut sink).await.unwrap() > 0 {}
        server
    });
    soon(async {
        let chunk = vec![0; 1 << 20];
        while link.client.load().bulk == 0 {
            client.write_all(&chunk).await.unwrap();
        }
        drop(client);
        drop(reading.await.unwrap());
        near.await.unwrap();
        far.await.unwrap();
    })
    .await;
    assert_eq!(
        (link.client.load().bulk, link.client.load().streams),
        (0, 0)
    );
}

#[tokio::test]
async fn join_passes_bytes_half_close_and_reset() {
    let (mut a, first) = tcp_pair().await;
    let (second, mut b) = tcp_pair().await;
    let running = tokio::spawn(async move { join(first, second, &Counters::default()).await });
    soon(async {
        a.write_all(&vec![7; 300_000]).await.unwrap();
        a.shutdown().await.unwrap();
        let mut received = Vec::new();
        b.read_to_end(&mut received).await.unwrap();
        assert_eq!(received.len(), 300_000);
        b.write_all(b"answer").await.unwrap();
        let mut text = [0; 6];
        a.read_exact(&mut text).await.unwrap();
        b.set_zero_linger().unwrap();
        drop(b);
        assert_eq!(
            a.read(&mut [0; 8]).await.unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
        let end = running.await.unwrap();
        assert!(
            matches!(
                end.outcome,
                Outcome::SecondFailed(ErrorKind::ConnectionReset)
            ),
            "{end:?}"
        );
        assert_eq!((end.forward, end.backward), (300_000, 6));
    })
    .await;
}

#[tokio::test]
async fn single_bytes_to_a_reader_that_stops_leave_the_connection_alone() {
    let mut link = link().await;
    let (mut near, far) = link.tunnel().await;
    let (_unread, tcp) = tcp_pair().await;
    let relaying = tokio::spawn(async move { relay(tcp, far, &Counters::default()).await });
    // Enough to fill the sockets and the window by overhead, were each byte kept on its own.
    soon(async {
        for _ in 0..100_000 {
            near.write_all(b"x").await.unwrap();
        }
        let (mut other, mut far) = link.tunnel().await;
        other.write_all(b"hello").await.unwrap();
        far.read_exact(&mut [0; 5]).await.unwrap();
    })
    .await;
    assert!(!relaying.is_finished());
}

#[tokio::test]
async fn reset_after_the_peers_end_of_stream_is_still_a_reset() {
    let mut link = link().await;
    let (near, mut far) = link.tunnel().await;
    let (mut client, tcp) = tcp_pair().await;
    let relaying = tokio::spawn(async move { relay(tcp, near, &Counters::default()).await });
    soon(async {
        far.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        far.reset(ResetCode::CANCEL);
        let end = relaying.await.unwrap();
        assert!(matches!(end.outcome, Outcome::TunnelFailed(_)), "{end:?}");
        // The write fails at once or after the RST has come back.
        while client.write_all(b"x").await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
