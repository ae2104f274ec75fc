//! A small client for the admin sockets and metrics of the programs.
//!
//! In: the path of a Unix socket or an address inside a namespace, and an HTTP path. Out: status
//! and body. Blocking, one request a connection, HTTP/1.1. Not here: what the bodies mean.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::netns::Netns;

/// How long an answer may take; they come from memory, in milliseconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// GET on an admin socket; anything but 200 is an error that carries the body.
pub fn get(socket: &Path, path: &str) -> Result<String> {
    request(socket, "GET", path, "")
}

/// GET on an admin socket, the body as JSON.
pub fn get_json(socket: &Path, path: &str) -> Result<serde_json::Value> {
    let body = get(socket, path)?;
    serde_json::from_str(&body)
        .with_context(|| format!("{} {path} is no JSON: {body}", socket.display()))
}

/// A request on an admin socket; anything but 200 is an error that carries the body.
pub fn request(socket: &Path, method: &str, path: &str, body: &str) -> Result<String> {
    let stream = UnixStream::connect(socket)
        .with_context(|| format!("nobody listens on {}", socket.display()))?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    exchange(stream, method, path, body).with_context(|| format!("{} {path}", socket.display()))
}

/// GET on a TCP address as seen from a namespace, for example a metrics endpoint.
pub fn get_tcp(netns: &Netns, address: SocketAddr, path: &str) -> Result<String> {
    netns
        .enter(|| {
            let stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT)?;
            stream.set_read_timeout(Some(ANSWER_LIMIT))?;
            exchange(stream, "GET", path, "")
        })
        .with_context(|| format!("http://{address}{path} from {}", netns.name()))
}

fn exchange(mut stream: impl Read + Write, method: &str, path: &str, body: &str) -> Result<String> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let (status, body) = parse(&answer)?;
    if status != 200 {
        bail!("answered {status}: {}", body.trim());
    }
    Ok(body)
}

fn parse(answer: &[u8]) -> Result<(u16, String)> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("the answer has no end of header")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .context("the answer has no status")?;
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    let body = if chunked {
        join_chunks(body)?
    } else {
        body.to_owned()
    };
    Ok((status, body))
}

fn join_chunks(mut rest: &str) -> Result<String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").context("a chunk has no size")?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or("").trim(), 16)
            .context("a chunk's size is no number")?;
        if size == 0 {
            return Ok(body);
        }
        body.push_str(after.get(..size).context("a chunk is cut short")?);
        rest = after.get(size + 2..).context("a chunk has no end")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_with_length_and_in_chunks_are_read() {
        let plain = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        assert_eq!(parse(plain).unwrap(), (200, "ok".to_owned()));
        let chunked =
            b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap(), (503, "abcd".to_owned()));
    }
}
