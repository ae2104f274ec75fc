//! HTTP/1.1 for people and scrapers: an answering closure behind a Unix or TCP listener, and a small client.
//!
//! In: whole requests with a small body. Out: whole answers.
//! Deliberately not here: streaming, TLS, and any route; the program that has the state has the routes.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tracing::debug;

use crate::shutdown::Shutdown;
use crate::task::spawn;

/// Bytes of a request body; the largest is a log filter.
const BODY_MAX: usize = 64 * 1024;

/// Connections served at once; a dashboard and a few scrapers. The next ones wait in the backlog.
const CONNECTIONS_MAX: usize = 64;

/// How long a peer may take to send its header.
const HEADER_LIMIT: Duration = Duration::from_secs(10);

/// A whole request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method, upper case.
    pub method: http::Method,
    /// Path without the query.
    pub path: String,
    /// What follows the question mark.
    pub query: Option<String>,
    /// Body, at most 64 KiB.
    pub body: Bytes,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// HTTP status code.
    pub status: u16,
    /// Media type of the body.
    pub content_type: &'static str,
    /// Body.
    pub body: Bytes,
}

/// Why an admin socket gave no answer.
#[derive(Debug, Error)]
pub enum AdminError {
    /// Nobody listens there, or we may not connect.
    #[error("cannot reach the admin socket {path}: {source}; check that the program runs")]
    Connect {
        /// The socket.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The program went away in the middle, or does not speak HTTP.
    #[error("no answer from the admin socket: {0}")]
    Protocol(#[from] hyper::Error),
    /// The path or the method cannot be sent.
    #[error("not a request: {0}")]
    Request(#[from] http::Error),
    /// The answer's status is not 2xx.
    #[error("the admin socket answered {status}: {body}")]
    Status {
        /// HTTP status code.
        status: u16,
        /// The start of the answer.
        body: String,
    },
}

// === impl Response ===

impl Response {
    /// 200 with text.
    pub fn text(body: impl Into<Bytes>) -> Self {
        Self::of(200, "text/plain; charset=utf-8", body)
    }

    /// 200 with a JSON document.
    pub fn json(body: impl Into<Bytes>) -> Self {
        Self::of(200, "application/json", body)
    }

    /// 200 in the Prometheus or OpenMetrics text format; `body` comes from the encoder of `prometheus-client`.
    pub fn metrics(body: impl Into<Bytes>) -> Self {
        Self::of(
            200,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            body,
        )
    }

    /// 404.
    pub fn not_found() -> Self {
        Self::error(404, "no such path\n")
    }

    /// Another status with one line of text.
    pub fn error(status: u16, line: impl Into<Bytes>) -> Self {
        Self::of(status, "text/plain; charset=utf-8", line)
    }

    fn of(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            content_type,
            body: body.into(),
        }
    }
}

/// Serves a Unix listener (see [`crate::unix_listener`]) until the drain. Must be called inside a runtime.
pub fn serve_unix<H, F>(
    shutdown: &Shutdown,
    listener: std::os::unix::net::UnixListener,
    handler: H,
) -> io::Result<()>
where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let listener = Listener::Unix(UnixListener::from_std(listener)?);
    spawn(
        shutdown,
        "admin",
        serve(shutdown.clone(), listener, handler),
    );
    Ok(())
}

/// Serves a TCP listener (see [`crate::tcp_listener`]) until the drain. Must be called inside a runtime.
pub fn serve_tcp<H, F>(
    shutdown: &Shutdown,
    listener: std::net::TcpListener,
    handler: H,
) -> io::Result<()>
where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let listener = Listener::Tcp(TcpListener::from_std(listener)?);
    spawn(
        shutdown,
        "admin",
        serve(shutdown.clone(), listener, handler),
    );
    Ok(())
}

/// Asks an admin socket with GET; anything but 2xx is an error. Cancel-safe: the connection is dropped.
pub async fn get(socket: &Path, path: &str) -> Result<Bytes, AdminError> {
    request(socket, http::Method::GET, path, Bytes::new()).await
}

/// Asks an admin socket; anything but 2xx is an error. Cancel-safe: the connection is dropped.
pub async fn request(
    socket: &Path,
    method: http::Method,
    path: &str,
    body: Bytes,
) -> Result<Bytes, AdminError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| AdminError::Connect {
            path: socket.display().to_string(),
            source,
        })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await?;
    let question = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "admin")
        .header("connection", "close")
        .body(Full::new(body))?;
    let exchange = async {
        let answer = sender.send_request(question).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok::<_, hyper::Error>((status, body))
    };
    // Both on this task: nothing outlives the call.
    let (outcome, ()) = tokio::join!(exchange, async {
        let _ = connection.await;
    });
    let (status, body) = outcome?;
    if status.is_success() {
        return Ok(body);
    }
    let start = &body[..body.len().min(200)];
    Err(AdminError::Status {
        status: status.as_u16(),
        body: String::from_utf8_lossy(start).trim_end().to_owned(),
    })
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

async fn serve<H, F>(shutdown: Shutdown, listener: Listener, handler: H)
where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let handler = Arc::new(handler);
    let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let seat = seats
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let stream = tokio::select! {
            () = shutdown.draining() => return,
            accepted = listener.accept() => match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    debug!(%error, "admin listener could not accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let handler = handler.clone();
        let done = shutdown.clone();
        spawn(&shutdown, "admin-connection", async move {
            let _seat = seat;
            tokio::select! {
                () = done.draining() => {}
                () = connection(stream, handler) => {}
            }
        });
    }
}

async fn connection<H, F>(stream: Box<dyn Stream>, handler: Arc<H>)
where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let service = service_fn(move |question| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(render(respond(question, &*handler).await)) }
    });
    let outcome = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = outcome {
        debug!(%error, "admin connection ended early");
    }
}

async fn respond<H, F>(question: http::Request<Incoming>, handler: &H) -> Response
where
    H: Fn(Request) -> F,
    F: Future<Output = Response>,
{
    let (head, body) = question.into_parts();
    let Ok(body) = Limited::new(body, BODY_MAX).collect().await else {
        return Response::error(413, "the body is cut off or longer than 64 KiB\n");
    };
    handler(Request {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        body: body.to_bytes(),
    })
    .await
}

fn render(response: Response) -> http::Response<Full<Bytes>> {
    let mut answer = http::Response::new(Full::new(response.body));
    *answer.status_mut() = http::StatusCode::from_u16(response.status)
        .unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static(response.content_type),
    );
    answer
}

#[cfg(test)]
mod tests;
