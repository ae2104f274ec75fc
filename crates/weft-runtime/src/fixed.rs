//! An HTTP answer without reading the question, for a program that parses nothing from outside.
//!
//! In: a listener and a closure that renders the body. Out: the same kind of answer to whoever connects.
//! Departure from RFC 9112: the request is never read, so method and path are ignored;
//! what the peer had sent is thrown away unseen before the close, because unread bytes would turn the close into a reset.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tracing::debug;

use crate::shutdown::Shutdown;
use crate::task::spawn;

/// How long one peer may take; a scraper on the same network needs milliseconds.
const PEER_LIMIT: Duration = Duration::from_secs(5);

/// Bytes of a request that are thrown away; a scraper's request has some hundreds.
const DISCARD_MAX: usize = 16 * 1024;

/// Answers every connection with what `body` renders (Prometheus text format), until the drain.
/// Must be called inside a runtime.
pub fn serve_fixed<B>(
    shutdown: &Shutdown,
    listener: std::net::TcpListener,
    content_type: &'static str,
    body: B,
) -> io::Result<()>
where
    B: Fn() -> String + Send + Sync + 'static,
{
    let listener = TcpListener::from_std(listener)?;
    let body = Arc::new(body);
    let inner = shutdown.clone();
    spawn(shutdown, "fixed-http", async move {
        loop {
            let stream = tokio::select! {
                () = inner.draining() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        debug!(%error, "metrics listener could not accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            // One after the other: a slow peer costs the next one PEER_LIMIT at most, and no task is started per peer.
            let text = body();
            let _ = tokio::time::timeout(PEER_LIMIT, answer(stream, content_type, &text)).await;
        }
    });
    Ok(())
}

async fn answer(mut stream: TcpStream, content_type: &str, body: &str) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await?;
    let mut sink = [0; 1024];
    let mut seen = 0;
    while seen < DISCARD_MAX {
        match stream.read(&mut sink).await? {
            0 => break,
            n => seen += n,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::serve_fixed;
    use crate::listen::tcp_listener;
    use crate::shutdown::Shutdown;

    #[tokio::test]
    async fn any_request_gets_the_rendered_body() {
        let shutdown = Shutdown::new();
        let listener = tcp_listener("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        serve_fixed(&shutdown, listener, "text/plain", || "up 1\n".into()).unwrap();
        for request in ["GET /metrics HTTP/1.1\r\n\r\n", "garbage\0\n", ""] {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert!(text.starts_with("HTTP/1.1 200 OK\r\n"));
            assert!(text.ends_with("\r\n\r\nup 1\n"));
        }
    }
}
