//! A writer and reader of raw HTTP/2 frames that knows no rules (RFC 9113 section 6, RFC 7541 section 6.2).
//!
//! In: whatever bytes a test wants to send. Out: what the server answered.
//! Deliberately not here: Huffman codes and the dynamic table; a hostile peer needs neither.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test binary uses its part"
)]

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use weft_hbone::{ConnectResponse, ServerLimits, Tunnel, serve};

pub const PROTOCOL_ERROR: u32 = 0x1;
pub const FLOW_CONTROL_ERROR: u32 = 0x3;
pub const REFUSED_STREAM: u32 = 0x7;
pub const ENHANCE_YOUR_CALM: u32 = 0xb;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = vec![length[1], length[2], length[3], kind, flags];
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// A literal without indexing whose name is in the static table (1 authority, 2 method, 4 path, 6 scheme).
pub fn literal(index: u8, value: &str) -> Vec<u8> {
    let mut out = vec![index];
    string(&mut out, value);
    out
}

/// A literal without indexing with a name of its own.
pub fn named(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0];
    string(&mut out, name);
    string(&mut out, value);
    out
}

/// A string without Huffman coding; its length is a 7-bit prefix integer (RFC 7541 section 5.1).
fn string(out: &mut Vec<u8>, text: &str) {
    if text.len() < 127 {
        out.push(text.len() as u8);
    } else {
        out.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            out.push((rest % 128 + 128) as u8);
            rest /= 128;
        }
        out.push(rest as u8);
    }
    out.extend(text.as_bytes());
}

pub fn headers(stream: u32, fields: &[Vec<u8>], end: bool) -> Vec<u8> {
    frame(0x1, 0x4 | u8::from(end), stream, &fields.concat())
}

pub fn connect(stream: u32) -> Vec<u8> {
    connect_to(stream, "10.0.0.1:80")
}

pub fn connect_to(stream: u32, authority: &str) -> Vec<u8> {
    headers(
        stream,
        &[literal(2, "CONNECT"), literal(1, authority)],
        false,
    )
}

pub fn continuation(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(0x9, 0, stream, block)
}

pub fn data(stream: u32, payload: &[u8], end: bool) -> Vec<u8> {
    frame(0x0, u8::from(end), stream, payload)
}

pub fn rst_stream(stream: u32) -> Vec<u8> {
    frame(0x3, 0, stream, &8_u32.to_be_bytes())
}

pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(0x8, 0, stream, &increment.to_be_bytes())
}

pub fn ping() -> Vec<u8> {
    frame(0x6, 0, 0, &[0; 8])
}

pub fn settings() -> Vec<u8> {
    frame(0x4, 0, 0, &[])
}

/// What the server did.
#[derive(Debug, Default)]
pub struct Seen {
    /// Requests that reached the proxy.
    pub requests: usize,
    pub statuses: Vec<String>,
    pub resets: Vec<u32>,
    /// The code of the last GOAWAY.
    pub goaway: Option<u32>,
}

/// A hostile client and the server that it talks to.
pub struct Attack {
    write: WriteHalf<DuplexStream>,
    reading: JoinHandle<Seen>,
    pongs: watch::Receiver<usize>,
    serving: JoinHandle<()>,
    requests: Arc<Mutex<Vec<Tunnel>>>,
}

impl Attack {
    /// The server accepts every request at once and keeps the tunnel.
    pub async fn start(limits: ServerLimits) -> Self {
        Self::start_with(limits, true).await
    }

    /// The server's owner is slow to look at requests.
    pub async fn start_without_accepting(limits: ServerLimits) -> Self {
        Self::start_with(limits, false).await
    }

    async fn start_with(limits: ServerLimits, accept: bool) -> Self {
        let (near, far) = tokio::io::duplex(1 << 16);
        let requests: Arc<Mutex<Vec<Tunnel>>> = Arc::default();
        let tunnels = Arc::clone(&requests);
        let serving = tokio::spawn(async move {
            let Ok(mut server) = serve(far, limits).await else {
                return;
            };
            let mut waiting = Vec::new();
            while let Some(Ok(incoming)) = server.next().await {
                if !accept {
                    waiting.push(incoming);
                } else if let Ok(tunnel) = incoming.accept(&ConnectResponse::default()) {
                    tunnels.lock().unwrap().push(tunnel);
                }
            }
        });
        let (mut read, mut write) = tokio::io::split(near);
        write.write_all(PREFACE).await.unwrap();
        write.write_all(&settings()).await.unwrap();
        // The server's windows hold from our acknowledgement on.
        let mut head = [0; 9];
        read.read_exact(&mut head).await.unwrap();
        assert_eq!(head[3], 0x4);
        read.read_exact(&mut vec![0; usize::from(head[2])])
            .await
            .unwrap();
        write.write_all(&frame(0x4, 0x1, 0, &[])).await.unwrap();
        let (answered, pongs) = watch::channel(0);
        Self {
            write,
            reading: tokio::spawn(take_down(read, answered)),
            pongs,
            serving,
            requests,
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.write.write_all(bytes).await
    }

    /// Sends until the server closes; returns how many were sent.
    pub async fn flood(&mut self, max: usize, make: impl Fn(u32) -> Vec<u8>) -> usize {
        for i in 0..max {
            if self.send(&make(u32::try_from(i).unwrap())).await.is_err() {
                return i;
            }
        }
        max
    }

    /// Lets the server finish with what it has read, closes our side and waits for the server to end the connection.
    pub async fn finish(mut self) -> Seen {
        // The first PING's answer shows that everything before it was read, the second that it was acted upon.
        for _ in 0..2 {
            let before = *self.pongs.borrow_and_update();
            if self.send(&ping()).await.is_err() {
                break;
            }
            if self.pongs.wait_for(|count| *count > before).await.is_err() {
                break;
            }
        }
        let _closed = self.write.shutdown().await;
        self.serving.await.unwrap();
        let requests = self.requests.lock().unwrap().drain(..).count();
        let mut seen = self.reading.await.unwrap();
        seen.requests = requests;
        seen
    }
}

async fn take_down(mut read: ReadHalf<DuplexStream>, pongs: watch::Sender<usize>) -> Seen {
    let mut seen = Seen::default();
    loop {
        let mut head = [0; 9];
        if read.read_exact(&mut head).await.is_err() {
            return seen;
        }
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        if read.read_exact(&mut payload).await.is_err() {
            return seen;
        }
        let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match head[3] {
            0x1 => seen.statuses.push(status(&payload)),
            0x3 => seen.resets.push(word(0)),
            0x6 => pongs.send_modify(|count| *count += 1),
            0x7 => seen.goaway = Some(word(4)),
            _ => {}
        }
    }
}

/// The first field of a response: an index of the static table, or a literal with or without Huffman coding.
fn status(block: &[u8]) -> String {
    // A change of the dynamic table's size may come first.
    let block = if block[0] & 0xe0 == 0x20 {
        &block[1..]
    } else {
        block
    };
    let known = [(0x88, "200"), (0x8c, "400"), (0x8d, "404"), (0x8e, "500")];
    if let Some((_, text)) = known.iter().find(|(code, _)| *code == block[0]) {
        return (*text).to_owned();
    }
    format!("{:02x?}", &block[..block.len().min(6)])
}

/// Answers a client's preface with SETTINGS for ever; returns how many it got rid of.
pub async fn flood_as_server(mut io: DuplexStream) -> usize {
    let mut sent = 0;
    while sent < 1_000_000 {
        if io.write_all(&settings()).await.is_err() {
            break;
        }
        sent += 1;
        // What the client writes must not fill the pipe.
        let mut sink = [0; 4096];
        let _read = tokio::select! {
            biased;
            read = io.read(&mut sink) => read.unwrap_or(0),
            () = std::future::ready(()) => 0,
        };
    }
    sent
}

/// A client that does nothing but answer PINGs, and stops after `count`; the connection stays open then.
pub async fn answer_pings(mut io: DuplexStream, count: usize) -> usize {
    io.write_all(PREFACE).await.unwrap();
    io.write_all(&settings()).await.unwrap();
    let mut answered = 0;
    let mut buffer = Vec::new();
    loop {
        let mut head = [0; 9];
        if io.read_exact(&mut head).await.is_err() {
            return answered;
        }
        buffer.resize(usize::from(head[2]), 0);
        io.read_exact(&mut buffer).await.unwrap();
        if head[3] == 0x6 && answered < count {
            io.write_all(&frame(0x6, 0x1, 0, &buffer)).await.unwrap();
            answered += 1;
        }
    }
}
