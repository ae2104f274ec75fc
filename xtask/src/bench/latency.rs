//! Round trips of one connection: 64 bytes there, 64 bytes back, one after the other.
//!
//! In: where the client runs and what it dials. Out: how long each took. Not here: throughput
//! (there is never more than one message under way) and percentiles (`report`).

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use weft_testkit::load;
use weft_testkit::netns::Netns;

/// Bytes of a message.
const MESSAGE: usize = 64;
/// Share of the time that is not measured: connections, caches and windows warm up.
const WARM_UP: u32 = 5;

/// Listens inside a pod for as long as this process lives; a thread for each connection.
pub(crate) fn start_echo(netns: &Netns, listen: SocketAddr) -> Result<()> {
    let listener = netns.enter(|| TcpListener::bind(listen).context("cannot listen for echo"))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || echo(stream));
        }
    });
    Ok(())
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE];
    loop {
        stream.read_exact(&mut message)?;
        stream.write_all(&message)?;
    }
}

/// Sends and waits for `length`, over a connection of its own; returns every time in nanoseconds.
pub(crate) fn measure(netns: &Netns, to: SocketAddr, length: Duration) -> Result<Vec<u32>> {
    let mut stream = load::connect(netns, to)?;
    let mut message = [0x5a; MESSAGE];
    let warm = Instant::now() + length / WARM_UP;
    let end = Instant::now() + length;
    let mut times = Vec::with_capacity(1 << 16);
    loop {
        let started = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        let now = Instant::now();
        if started >= warm {
            let nanoseconds = (now - started).as_nanos();
            times.push(u32::try_from(nanoseconds).unwrap_or(u32::MAX));
        }
        if now >= end {
            break;
        }
    }
    ensure!(!times.is_empty(), "no round trip within {length:?}");
    Ok(times)
}
