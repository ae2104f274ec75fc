//! Peers that break the protocol or flood it, after they have shown a certificate.
//!
//! Method: a writer of raw frames against [`weft_hbone::serve`], and a reader that takes down what the server says.
//! Each attack must end in a refusal or a closed connection after a bounded number of frames; the server must not
//! hand a broken request on. The control at the top shows that the same writer gets through when it behaves.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a panic is the report, and a test's tasks end with its runtime"
)]

use std::time::Duration;

#[path = "common/frames.rs"]
mod frames;
#[path = "common/link.rs"]
mod link;

use frames::{
    Attack, ENHANCE_YOUR_CALM, PROTOCOL_ERROR, connect, connect_to, continuation, data, frame,
    headers, literal, ping, rst_stream, settings, window_update,
};
use link::soon;
use weft_hbone::{
    ClientLimits, ConnectRequest, ConnectionError, KeepaliveLimits, OpenError, ServerLimits,
    handshake, serve,
};

/// Makes the frames of an attack's step.
type Frames = fn(u32) -> Vec<u8>;

/// No attack here needs more frames than this to be stopped.
const FRAMES_MAX: usize = 200_000;

#[tokio::test]
async fn a_peer_that_behaves_gets_through() {
    let mut attack = Attack::start(ServerLimits::default()).await;
    for stream in [1, 3, 5] {
        attack.send(&connect(stream)).await.unwrap();
        attack.send(&data(stream, b"hello", false)).await.unwrap();
    }
    let seen = soon(attack.finish()).await;
    assert_eq!(seen.requests, 3);
    assert_eq!(seen.statuses, ["200", "200", "200"]);
    assert_eq!(seen.goaway.unwrap_or(0), 0);
}

#[tokio::test]
async fn other_methods_and_bad_authorities_are_refused_with_400() {
    let get = headers(
        1,
        &[
            literal(2, "GET"),
            literal(6, "http"),
            literal(4, "/"),
            literal(1, "a.b:80"),
        ],
        true,
    );
    let cases = [
        get,
        connect_to(1, "10.0.0.1"),
        connect_to(1, "10.0.0.1:0"),
        connect_to(1, "10.0.0.256:80"),
        connect_to(1, "a_very-bad..name:80"),
    ];
    for case in cases {
        let mut attack = Attack::start(ServerLimits::default()).await;
        attack.send(&case).await.unwrap();
        let seen = soon(attack.finish()).await;
        assert_eq!(
            (seen.requests, seen.statuses.as_slice()),
            (0, ["400".to_owned()].as_slice())
        );
    }
}

#[tokio::test]
async fn malformed_requests_never_become_requests() {
    let protocol = (":protocol", "websocket");
    let cases = [
        ("no authority", headers(1, &[literal(2, "CONNECT")], false)),
        ("authority with user", connect_to(1, "user@10.0.0.1:80")),
        ("authority with space", connect_to(1, "10.0.0.1 :80")),
        ("empty authority", connect_to(1, "")),
        ("no method", headers(1, &[literal(1, "10.0.0.1:80")], false)),
        (
            "extended connect",
            headers(
                1,
                &[
                    literal(2, "CONNECT"),
                    frames::named(protocol.0, protocol.1),
                    literal(6, "https"),
                    literal(4, "/"),
                    literal(1, "10.0.0.1:80"),
                ],
                false,
            ),
        ),
        (
            "upper case name",
            headers(
                1,
                &[
                    literal(2, "CONNECT"),
                    literal(1, "10.0.0.1:80"),
                    frames::named("Bad", "1"),
                ],
                false,
            ),
        ),
        (
            "connection header",
            headers(
                1,
                &[
                    literal(2, "CONNECT"),
                    literal(1, "10.0.0.1:80"),
                    frames::named("connection", "close"),
                ],
                false,
            ),
        ),
        (
            "pseudo header after header",
            headers(
                1,
                &[
                    literal(2, "CONNECT"),
                    frames::named("a", "1"),
                    literal(1, "10.0.0.1:80"),
                ],
                false,
            ),
        ),
        (
            "line break in value",
            headers(
                1,
                &[
                    literal(2, "CONNECT"),
                    literal(1, "10.0.0.1:80"),
                    frames::named("a", "1\r\nb: 2"),
                ],
                false,
            ),
        ),
        ("broken compression", frame(0x1, 0x4, 1, &[0xff; 40])),
        ("even stream", connect(2)),
        ("stream zero", connect(0)),
        ("data before headers", data(1, b"x", false)),
        ("push promise", frame(0x5, 0x4, 1, &[0, 0, 0, 2])),
    ];
    for (name, case) in cases {
        let mut attack = Attack::start(ServerLimits::default()).await;
        attack.send(&case).await.unwrap();
        let seen = soon(attack.finish()).await;
        assert_eq!(seen.requests, 0, "{name}");
        let refused = seen.statuses == ["400"] || !seen.resets.is_empty();
        assert!(
            refused || seen.goaway.is_some_and(|code| code != 0),
            "{name}: {seen:?}"
        );
    }
}

#[tokio::test]
async fn garbage_instead_of_a_preface_closes() {
    let (mut near, far) = tokio::io::duplex(1 << 16);
    let serving = tokio::spawn(serve(far, ServerLimits::default()));
    tokio::io::AsyncWriteExt::write_all(&mut near, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    assert!(soon(serving).await.unwrap().is_err());
}

#[tokio::test]
async fn rapid_reset_closes_the_connection() {
    let mut attack = Attack::start_without_accepting(ServerLimits::default()).await;
    let sent = attack
        .flood(FRAMES_MAX, |i| {
            [connect(2 * i + 1), rst_stream(2 * i + 1)].concat()
        })
        .await;
    let seen = soon(attack.finish()).await;
    assert!(sent < 10_000, "{sent} streams");
    assert_eq!(seen.goaway, Some(ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn resets_that_we_are_driven_to_close_the_connection() {
    let triggers: [(&str, Frames); 3] = [
        ("window update of zero", |id| window_update(id, 0)),
        ("window overflow", |id| window_update(id, 0x7fff_ffff)),
        ("data after end", |id| {
            [data(id, b"", true), data(id, b"x", false)].concat()
        }),
    ];
    for (name, trigger) in triggers {
        let mut attack = Attack::start(ServerLimits::default()).await;
        let sent = attack
            .flood(FRAMES_MAX, |i| {
                [connect(2 * i + 1), trigger(2 * i + 1)].concat()
            })
            .await;
        let seen = soon(attack.finish()).await;
        assert!(sent < 10_000, "{name}: {sent} streams");
        assert!(
            seen.goaway.is_some_and(|code| code != 0),
            "{name}: {seen:?}"
        );
    }
}

#[tokio::test]
async fn endless_continuation_closes_the_connection() {
    let mut attack = Attack::start(ServerLimits::default()).await;
    attack
        .send(&frame(0x1, 0, 1, &literal(2, "CONNECT")))
        .await
        .unwrap();
    let sent = attack
        .flood(FRAMES_MAX, |_| continuation(1, &frames::named("a", "b")))
        .await;
    let seen = soon(attack.finish()).await;
    assert!(sent < 20_000, "{sent} frames");
    assert_eq!(seen.requests, 0);
    assert!(seen.goaway.is_some_and(|code| code != 0), "{seen:?}");
}

#[tokio::test]
async fn a_header_list_over_the_limit_is_refused() {
    let mut attack = Attack::start(ServerLimits::default()).await;
    let big = frames::named("a", &"b".repeat(16_000));
    attack
        .send(&frame(
            0x1,
            0,
            1,
            &[literal(2, "CONNECT"), literal(1, "10.0.0.1:80")].concat(),
        ))
        .await
        .unwrap();
    for _ in 0..5 {
        if attack.send(&continuation(1, &big)).await.is_err() {
            break;
        }
    }
    let _closed = attack.send(&frame(0x9, 0x4, 1, &[])).await;
    let seen = soon(attack.finish()).await;
    assert_eq!(seen.requests, 0, "{seen:?}");
    assert!(
        seen.statuses == ["431"]
            || seen.goaway.is_some_and(|code| code != 0)
            || !seen.resets.is_empty()
    );
}

#[tokio::test]
async fn frames_that_move_nothing_close_the_connection() {
    let floods: [(&str, Frames); 5] = [
        ("ping", |_| ping()),
        ("settings", |_| settings()),
        ("priority", |_| frame(0x2, 0, 1, &[0, 0, 0, 0, 7])),
        ("unknown type", |_| frame(0x7f, 0, 0, b"x")),
        ("empty data", |_| data(1, b"", false)),
    ];
    for (name, make) in floods {
        let mut attack = Attack::start(ServerLimits::default()).await;
        attack.send(&connect(1)).await.unwrap();
        let sent = attack.flood(FRAMES_MAX, make).await;
        let _seen = soon(attack.finish()).await;
        assert!(sent < 20_000, "{name}: {sent} frames");
    }
}

#[tokio::test]
async fn more_streams_than_admitted_are_refused_unprocessed() {
    let limits = ServerLimits {
        streams_max: 10,
        ..ServerLimits::default()
    };
    let mut attack = Attack::start(limits).await;
    for i in 0..15 {
        attack.send(&connect(2 * i + 1)).await.unwrap();
    }
    let seen = soon(attack.finish()).await;
    assert_eq!(seen.requests, 10);
    assert!(
        seen.resets
            .iter()
            .all(|code| *code == frames::REFUSED_STREAM),
        "{seen:?}"
    );
    assert_eq!(seen.resets.len(), 5);
}

#[tokio::test]
async fn data_beyond_the_window_resets_the_stream() {
    let limits = ServerLimits {
        stream_window: 65_535,
        ..ServerLimits::default()
    };
    let mut attack = Attack::start(limits).await;
    attack.send(&connect(1)).await.unwrap();
    for _ in 0..5 {
        attack.send(&data(1, &[0; 16_384], false)).await.unwrap();
    }
    let seen = soon(attack.finish()).await;
    assert_eq!(seen.resets, [frames::FLOW_CONTROL_ERROR]);
}

#[tokio::test]
async fn data_beyond_the_connection_window_closes_the_connection() {
    let mut attack = Attack::start(ServerLimits::default()).await;
    for i in 0..5 {
        attack.send(&connect(2 * i + 1)).await.unwrap();
    }
    let chunk = vec![0; 16_384];
    let sent = attack
        .flood(FRAMES_MAX, |i| data(2 * (i % 5) + 1, &chunk, false))
        .await;
    let seen = soon(attack.finish()).await;
    assert!(sent < 1100, "{sent} frames of 16 KiB into 16 MiB");
    assert_eq!(seen.goaway, Some(frames::FLOW_CONTROL_ERROR));
}

#[tokio::test]
async fn a_server_that_floods_is_left_by_the_client() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let flooding = tokio::spawn(frames::flood_as_server(far));
    let (client, driver) = soon(handshake(near, ClientLimits::default()))
        .await
        .unwrap();
    let request = ConnectRequest::new("10.0.0.1:80".parse::<std::net::SocketAddr>().unwrap());
    let (end, opened) = soon(async { tokio::join!(driver, client.open(&request)) }).await;
    assert!(end.is_err());
    assert!(
        matches!(opened, Err(OpenError::Closing | OpenError::Connection(_))),
        "{opened:?}"
    );
    assert!(soon(flooding).await.unwrap() < 20_000);
}

#[tokio::test]
async fn protocol_errors_carry_their_code() {
    let mut attack = Attack::start(ServerLimits::default()).await;
    attack.send(&frame(0x6, 0, 1, &[0; 8])).await.unwrap();
    assert_eq!(soon(attack.finish()).await.goaway, Some(PROTOCOL_ERROR));
}

const QUICK: KeepaliveLimits = KeepaliveLimits {
    interval: Duration::from_millis(10),
    timeout: Duration::from_millis(50),
};

#[tokio::test]
async fn a_server_that_never_answers_is_found_by_ping() {
    let (near, _far) = tokio::io::duplex(1 << 20);
    let limits = ClientLimits {
        keepalive: QUICK,
        ..ClientLimits::default()
    };
    let (client, driver) = handshake(near, limits).await.unwrap();
    let request = ConnectRequest::new("10.0.0.1:80".parse::<std::net::SocketAddr>().unwrap());
    let (end, opened) = soon(async { tokio::join!(driver, client.open(&request)) }).await;
    assert!(matches!(end, Err(ConnectionError::Keepalive)));
    assert!(
        matches!(opened, Err(OpenError::Connection(_))),
        "{opened:?}"
    );
    assert!(client.load().closing);
}

#[tokio::test]
async fn a_client_is_kept_while_it_answers_pings_and_closed_when_it_stops() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let limits = ServerLimits {
        keepalive: QUICK,
        ..ServerLimits::default()
    };
    let serving = tokio::spawn(async move { serve(far, limits).await.unwrap().next().await });
    let answered = soon(frames::answer_pings(near, 20)).await;
    assert_eq!(answered, 20);
    let end = soon(serving).await.unwrap();
    assert!(matches!(end, Some(Err(ConnectionError::Keepalive))));
}
