//! How a server treats one connection.
//!
//! In: an accepted connection. Out: bytes, or a reset. Not here: accepting.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// What a server does with each connection.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Sends back what comes in, and ends its side when the client ends its own.
    Echo,
    /// Speaks first, like databases and mail servers do, then echoes.
    Greet(String),
    /// Reads to the end, then says how many bytes there were: half-close, client first.
    Count,
    /// Sends this many bytes at once, ends its side, then reads to the end: half-close, server first.
    Pour(usize),
    /// Resets the connection at the first byte.
    Reset,
    /// Reads nothing at all, and keeps the connection.
    Stall,
    /// Answers an HTTP/1.1 request with its name and the client's address.
    Http(String),
    /// Answers every line with its name, the client's address and that line: who it is, who it believes to serve, and what.
    Witness(String),
}

// === impl Behaviour ===

impl Behaviour {
    pub(super) async fn serve(&self, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        stream.set_nodelay(true)?;
        match self {
            Self::Echo => echo(&mut stream).await,
            Self::Greet(text) => {
                stream.write_all(text.as_bytes()).await?;
                echo(&mut stream).await
            }
            Self::Count => count(&mut stream).await,
            Self::Pour(length) => pour(&mut stream, *length).await,
            Self::Reset => {
                let mut byte = [0];
                stream.read_exact(&mut byte).await?;
                stream.set_zero_linger()
            }
            Self::Stall => std::future::pending().await,
            Self::Http(name) => http(stream, name, peer).await,
            Self::Witness(name) => witness(stream, name, peer).await,
        }
    }
}

async fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    tokio::io::copy(&mut reader, &mut writer).await?;
    writer.shutdown().await
}

async fn count(stream: &mut TcpStream) -> io::Result<()> {
    let length = tokio::io::copy(stream, &mut tokio::io::sink()).await?;
    stream.write_all(format!("{length}\n").as_bytes()).await?;
    stream.shutdown().await
}

async fn pour(stream: &mut TcpStream, length: usize) -> io::Result<()> {
    stream
        .write_all(&crate::leak::canary_payload(length))
        .await?;
    stream.shutdown().await?;
    tokio::io::copy(stream, &mut tokio::io::sink()).await?;
    Ok(())
}

async fn witness(stream: TcpStream, name: &str, peer: SocketAddr) -> io::Result<()> {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return stream.shutdown().await;
        }
        let answer = format!("{name} {peer} {line}");
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// Requests without body, one after the other, as wrk and curl send them.
async fn http(stream: TcpStream, name: &str, peer: SocketAddr) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        let mut close = false;
        loop {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if line.trim_end().is_empty() {
                break;
            }
            close |= line.trim_end().eq_ignore_ascii_case("connection: close");
        }
        let body = format!("hello from {name}, you are {}\n", peer.ip());
        let connection = if close { "close" } else { "keep-alive" };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await?;
        if close {
            return stream.shutdown().await;
        }
    }
}
