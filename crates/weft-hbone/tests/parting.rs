//! What applications see when one end of a relay is gone before the other: data that had arrived is delivered, a reset
//! is noticed wherever the relay happens to wait.
//!
//! Method: a server that writes raw frames, so that their order is exact; a relay; an application over loopback TCP with
//! socket buffers far smaller than what is sent, so that most of it is still with the relay when the stream ends. That
//! the relay has acted on a frame is known from the answer to a PING behind it.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a panic is the report, and a test's tasks end with its runtime"
)]

#[path = "common/frames.rs"]
mod frames;
#[path = "common/link.rs"]
mod link;

use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use frames::{data, frame, headers, ping, settings};
use link::soon;
use rustix::net::sockopt::socket_linger;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use weft_hbone::{
    ClientLimits, ConnectRequest, Connection, Counters, Outcome, RelayEnd, ResetCode, Tunnel,
    TunnelError, handshake, join, relay,
};

/// What an answer is: many times the application's socket buffers.
const ANSWER: usize = 500_000;
/// Size of both socket buffers between relay and application.
const SMALL: u32 = 16 << 10;
/// The only stream of these connections.
const STREAM: u32 = 1;
/// Largest payload that a client takes before it has said otherwise (RFC 9113 section 4.2).
const FRAME: usize = 16 << 10;

/// A server made of raw frames, with one tunnel open.
struct RawServer {
    io: DuplexStream,
    _client: Connection,
    _driver: JoinHandle<()>,
}

impl RawServer {
    async fn open() -> (Self, Tunnel) {
        // Room for everything that either side writes without being read.
        let (near, mut io) = tokio::io::duplex(4 << 20);
        let (client, driver) = handshake(near, ClientLimits::default()).await.unwrap();
        let driver = tokio::spawn(async move { drop(driver.await) });
        io.read_exact(&mut [0; 24]).await.unwrap();
        io.write_all(&settings()).await.unwrap();
        // The client's windows hold from our acknowledgement on.
        io.write_all(&frame(0x4, 0x1, 0, &[])).await.unwrap();
        let request = ConnectRequest::new("10.0.0.1:80".parse::<std::net::SocketAddr>().unwrap());
        let answering = async {
            until_frame(&mut io, 0x1).await;
            let ok = headers(STREAM, &[vec![0x88]], false);
            io.write_all(&ok).await.unwrap();
        };
        let (tunnel, ()) = tokio::join!(client.open(&request), answering);
        let server = Self {
            io,
            _client: client,
            _driver: driver,
        };
        (server, tunnel.unwrap())
    }

    /// Sends frames and waits until the client has read them and its tasks have had their turn.
    async fn send(&mut self, frames: &[Vec<u8>]) {
        self.io.write_all(&frames.concat()).await.unwrap();
        for _ in 0..2 {
            self.io.write_all(&ping()).await.unwrap();
            // PING with ACK: kind 6; the client's own PINGs come only after ten seconds.
            until_frame(&mut self.io, 0x6).await;
        }
    }

    /// The code of the client's reset of the stream.
    async fn reset_of_client(&mut self) -> ResetCode {
        let payload = until_frame(&mut self.io, 0x3).await;
        ResetCode(u32::from_be_bytes(payload[..4].try_into().unwrap()))
    }
}

/// Reads up to the next frame of a kind and returns its payload.
async fn until_frame(io: &mut DuplexStream, kind: u8) -> Vec<u8> {
    loop {
        let mut head = [0; 9];
        io.read_exact(&mut head).await.unwrap();
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        io.read_exact(&mut payload).await.unwrap();
        if head[3] == kind {
            return payload;
        }
    }
}

fn answer(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// DATA frames with an answer.
fn answer_frames(length: usize, end: bool) -> Vec<Vec<u8>> {
    let answer = answer(length);
    let mut frames: Vec<_> = answer
        .chunks(FRAME)
        .map(|chunk| data(STREAM, chunk, false))
        .collect();
    if end {
        frames.push(data(STREAM, &[], true));
    }
    frames
}

fn reset(code: ResetCode) -> Vec<u8> {
    frame(0x3, 0, STREAM, &code.0.to_be_bytes())
}

/// An application, and the relay's socket to it, between which little fits.
async fn narrow_pair() -> (TcpStream, TcpStream) {
    let listener = TcpSocket::new_v4().unwrap();
    listener.set_send_buffer_size(SMALL).unwrap();
    listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = listener.listen(1).unwrap();
    let application = TcpSocket::new_v4().unwrap();
    application.set_recv_buffer_size(SMALL).unwrap();
    let to = listener.local_addr().unwrap();
    let (application, relayed) = tokio::join!(application.connect(to), listener.accept());
    (application.unwrap(), relayed.unwrap().0)
}

fn relaying(tcp: TcpStream, tunnel: Tunnel) -> JoinHandle<RelayEnd> {
    tokio::spawn(async move { relay(tcp, tunnel, &Counters::default()).await })
}

/// Reads to the end of an answer that is whole.
async fn reads_all(application: &mut TcpStream, length: usize) {
    let mut received = Vec::new();
    application.read_to_end(&mut received).await.unwrap();
    assert!(received == answer(length), "{} came", received.len());
}

/// Reads to the reset and returns what came before it.
async fn reads_until_reset(application: &mut TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    let error = application.read_to_end(&mut received).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    received
}

/// Writes until that fails, which it does at once or after the RST has come back.
async fn cannot_write(application: &mut TcpStream) {
    while application.write_all(b"x").await.is_ok() {
        tokio::task::yield_now().await;
    }
}

fn code_of(end: &RelayEnd) -> Option<ResetCode> {
    match &end.outcome {
        Outcome::TunnelFailed(TunnelError::Reset(code)) => Some(*code),
        _ => None,
    }
}

#[tokio::test]
async fn a_slow_reader_gets_a_whole_answer_when_its_server_wants_no_more_of_the_question() {
    for code in [ResetCode::NO_ERROR, ResetCode::CANCEL] {
        for length in [0, 1, ANSWER] {
            soon(async {
                let (mut server, tunnel) = RawServer::open().await;
                let (mut application, tcp) = narrow_pair().await;
                let relaying = relaying(tcp, tunnel);
                let mut frames = answer_frames(length, true);
                frames.push(reset(code));
                server.send(&frames).await;
                reads_all(&mut application, length).await;
                let end = relaying.await.unwrap();
                assert_eq!(end.backward, length as u64);
                if code == ResetCode::NO_ERROR {
                    assert!(end.outcome.is_finished(), "{end:?}");
                } else {
                    assert_eq!(code_of(&end), Some(code), "{end:?}");
                }
                // Nobody is there for what comes now, and the application hears of it.
                cannot_write(&mut application).await;
            })
            .await;
        }
    }
}

#[tokio::test]
async fn what_a_slow_reader_sends_meanwhile_costs_it_nothing_of_its_answer() {
    soon(async {
        let (mut server, tunnel) = RawServer::open().await;
        let (mut application, tcp) = narrow_pair().await;
        let relaying = relaying(tcp, tunnel);
        let mut frames = answer_frames(ANSWER, true);
        frames.push(reset(ResetCode::NO_ERROR));
        server.send(&frames).await;
        application.write_all(b"the rest of it").await.unwrap();
        reads_all(&mut application, ANSWER).await;
        // Its bytes went nowhere: that is no clean end.
        let end = relaying.await.unwrap();
        assert_eq!(code_of(&end), Some(ResetCode::NO_ERROR), "{end:?}");
        cannot_write(&mut application).await;
    })
    .await;
}

#[tokio::test]
async fn an_application_that_is_done_as_well_may_leave_while_the_relay_still_writes() {
    soon(async {
        let (mut server, tunnel) = RawServer::open().await;
        let (mut application, tcp) = narrow_pair().await;
        let relaying = relaying(tcp, tunnel);
        let mut frames = answer_frames(ANSWER, true);
        frames.push(reset(ResetCode::NO_ERROR));
        server.send(&frames).await;
        application.shutdown().await.unwrap();
        reads_all(&mut application, ANSWER).await;
        let end = relaying.await.unwrap();
        assert!(end.outcome.is_finished(), "{end:?}");
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_delivered_as_far_as_it_came_and_then_reset() {
    for code in [
        ResetCode::NO_ERROR,
        ResetCode::CANCEL,
        ResetCode::CONNECT_ERROR,
    ] {
        for length in [0, 1, ANSWER] {
            soon(async {
                let (mut server, tunnel) = RawServer::open().await;
                let (mut application, tcp) = narrow_pair().await;
                let relaying = relaying(tcp, tunnel);
                let mut frames = answer_frames(length, false);
                frames.push(reset(code));
                server.send(&frames).await;
                let received = reads_until_reset(&mut application).await;
                assert!(received == answer(length), "{} came", received.len());
                let end = relaying.await.unwrap();
                assert_eq!(code_of(&end), Some(code), "{end:?}");
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_whole_answer_of_a_server_that_then_failed_is_delivered_and_then_reset() {
    soon(async {
        let (mut server, tunnel) = RawServer::open().await;
        let (mut application, tcp) = narrow_pair().await;
        let relaying = relaying(tcp, tunnel);
        let mut frames = answer_frames(ANSWER, true);
        frames.push(reset(ResetCode::CONNECT_ERROR));
        server.send(&frames).await;
        reads_all(&mut application, ANSWER).await;
        let end = relaying.await.unwrap();
        assert_eq!(code_of(&end), Some(ResetCode::CONNECT_ERROR), "{end:?}");
        // The reset came by itself, before any write.
        let ready = application.ready(tokio::io::Interest::ERROR).await;
        assert!(ready.unwrap().is_error());
    })
    .await;
}

#[tokio::test]
async fn an_application_that_does_not_read_keeps_no_broken_connection_for_ever() {
    soon(async {
        let (mut server, tunnel) = RawServer::open().await;
        let (mut application, tcp) = narrow_pair().await;
        let relaying = relaying(tcp, tunnel);
        let mut frames = answer_frames(ANSWER, false);
        frames.push(reset(ResetCode::CONNECT_ERROR));
        server.send(&frames).await;
        let end = relaying.await.unwrap();
        assert_eq!(code_of(&end), Some(ResetCode::CONNECT_ERROR), "{end:?}");
        let received = reads_until_reset(&mut application).await;
        assert!(received.len() < ANSWER);
    })
    .await;
}

#[tokio::test]
async fn a_reset_by_an_application_that_had_ended_its_side_is_passed_on_at_once() {
    soon(async {
        let (mut server, tunnel) = RawServer::open().await;
        let (mut application, tcp) = narrow_pair().await;
        let relaying = relaying(tcp, tunnel);
        application.write_all(b"question").await.unwrap();
        application.shutdown().await.unwrap();
        while until_frame(&mut server.io, 0x0).await != b"" {}
        // From here on neither side sends anything more.
        application.set_zero_linger().unwrap();
        drop(application);
        assert_eq!(server.reset_of_client().await, ResetCode::CONNECT_ERROR);
        let end = relaying.await.unwrap();
        let reset = ErrorKind::ConnectionReset;
        assert!(matches!(&end.outcome, Outcome::FirstFailed(kind) if *kind == reset));
    })
    .await;
}

#[tokio::test]
async fn a_reset_by_an_application_is_passed_on_while_its_bytes_wait_for_the_peers_window() {
    soon(async {
        let (mut server, tunnel) = RawServer::open().await;
        let (mut application, tcp) = narrow_pair().await;
        let relaying = relaying(tcp, tunnel);
        // More than the window of 65 535 bytes, which this server never opens again.
        application.write_all(&vec![7; 100_000]).await.unwrap();
        let mut received = 0;
        while received < 65_535 {
            received += until_frame(&mut server.io, 0x0).await.len();
        }
        application.set_zero_linger().unwrap();
        drop(application);
        assert_eq!(server.reset_of_client().await, ResetCode::CONNECT_ERROR);
        assert!(matches!(
            relaying.await.unwrap().outcome,
            Outcome::FirstFailed(ErrorKind::ConnectionReset)
        ));
    })
    .await;
}

#[tokio::test]
async fn what_an_application_says_right_before_its_reset_is_passed_on() {
    soon(async {
        // One answer that fits everywhere, and one that has to wait for the connection's writer.
        for length in [1, 60_000] {
            let (mut server, tunnel) = RawServer::open().await;
            let (application, tcp) = link::tcp_pair().await;
            // Both are there before the relay looks.
            assert_eq!(application.try_write(&answer(length)).unwrap(), length);
            application.set_zero_linger().unwrap();
            drop(application);
            let relaying = relaying(tcp, tunnel);
            let mut received = Vec::new();
            while received.len() < length {
                received.extend(until_frame(&mut server.io, 0x0).await);
            }
            assert!(received == answer(length));
            assert_eq!(server.reset_of_client().await, ResetCode::CONNECT_ERROR);
            assert!(matches!(
                relaying.await.unwrap().outcome,
                Outcome::FirstFailed(ErrorKind::ConnectionReset)
            ));
        }
    })
    .await;
}

/// Writes until nothing more fits between it and a reader that does not read.
async fn fill(application: &mut TcpStream) {
    let full = |application: &TcpStream| application.try_write(&[7; 4096]).is_err();
    loop {
        while !full(application) {}
        // The relay has had its turn, and the driver has looked at the sockets in between.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        if full(application) {
            return;
        }
    }
}

/// Two applications joined without a tunnel.
struct Joined {
    first: TcpStream,
    second: TcpStream,
    counters: Arc<Counters>,
    running: JoinHandle<RelayEnd>,
}

async fn joined() -> Joined {
    let (first, near) = narrow_pair().await;
    let (second, far) = narrow_pair().await;
    let counters = Arc::new(Counters::default());
    let counted = Arc::clone(&counters);
    let running = tokio::spawn(async move { join(near, far, &counted).await });
    Joined {
        first,
        second,
        counters,
        running,
    }
}

#[tokio::test]
async fn without_a_tunnel_a_reset_after_the_end_of_a_side_is_passed_on_at_once() {
    soon(async {
        for from_first in [true, false] {
            let mut pair = joined().await;
            if !from_first {
                std::mem::swap(&mut pair.first, &mut pair.second);
            }
            pair.first.shutdown().await.unwrap();
            assert_eq!(pair.second.read(&mut [0; 1]).await.unwrap(), 0);
            pair.first.set_zero_linger().unwrap();
            drop(pair.first);
            let end = pair.running.await.unwrap();
            let failed = match end.outcome {
                Outcome::FirstFailed(_) => true,
                Outcome::SecondFailed(_) => false,
                other => panic!("{other:?}"),
            };
            assert_eq!(failed, from_first);
            cannot_write(&mut pair.second).await;
        }
    })
    .await;
}

#[tokio::test]
async fn without_a_tunnel_a_reset_is_passed_on_while_bytes_wait_for_a_reader() {
    soon(async {
        let Joined {
            mut first,
            mut second,
            running,
            ..
        } = joined().await;
        // Its reader takes nothing, so the relay waits for that one's socket and does not read.
        fill(&mut first).await;
        first.set_zero_linger().unwrap();
        drop(first);
        let end = running.await.unwrap();
        assert!(
            matches!(
                end.outcome,
                Outcome::FirstFailed(ErrorKind::ConnectionReset)
            ),
            "{end:?}"
        );
        reads_until_reset(&mut second).await;
    })
    .await;
}

#[tokio::test]
async fn without_a_tunnel_a_slow_reader_gets_what_had_arrived_before_the_reset() {
    soon(async {
        let Joined {
            mut first,
            mut second,
            counters,
            running,
        } = joined().await;
        // As much as goes into the sockets and the relay's first buffers, so that the sender is rid of it.
        let length = 20_000;
        second.write_all(&answer(length)).await.unwrap();
        while counters.backward() < length as u64 {
            tokio::task::yield_now().await;
        }
        second.set_zero_linger().unwrap();
        drop(second);
        let received = reads_until_reset(&mut first).await;
        assert!(received == answer(length), "{} came", received.len());
        let end = running.await.unwrap();
        assert!(matches!(end.outcome, Outcome::SecondFailed(_)), "{end:?}");
    })
    .await;
}

#[tokio::test]
async fn only_the_end_that_was_passed_on_takes_the_zero_linger_away() {
    soon(async {
        let (mut server, tunnel) = RawServer::open().await;
        let (mut application, tcp) = narrow_pair().await;
        tcp.set_zero_linger().unwrap();
        let same = tcp.as_fd().try_clone_to_owned().unwrap();
        let lingers = || socket_linger(&same).unwrap().is_some();
        let relaying = relaying(tcp, tunnel);
        application.write_all(b"question").await.unwrap();
        until_frame(&mut server.io, 0x0).await;
        server.send(&[data(STREAM, b"answ", false)]).await;
        application.read_exact(&mut [0; 4]).await.unwrap();
        assert!(lingers(), "a process killed now must reset");
        server.send(&[data(STREAM, b"er", true)]).await;
        assert_eq!(application.read(&mut [0; 4]).await.unwrap(), 2);
        assert_eq!(application.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(!lingers(), "the answer is whole");
        application.shutdown().await.unwrap();
        let end = relaying.await.unwrap();
        assert!(end.outcome.is_finished(), "{end:?}");
    })
    .await;
}
