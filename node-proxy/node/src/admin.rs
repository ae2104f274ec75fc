//! Admin socket of the node program, for root on this node.
//!
//! `GET /config_dump` (also `/status`): everything held, as JSON. `GET /healthz/ready` (also `/ready`): 200 or 503. `GET /metrics`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use weft_runtime::{Request, Response, Shutdown, bind_unix, serve_unix};

use crate::hold::{Gauges, View};

/// Questions that may wait for the holder's task.
pub(crate) const QUESTIONS_MAX: usize = 16;

/// Serves until the drain.
pub(crate) fn serve(
    shutdown: &Shutdown,
    path: &Path,
    views: mpsc::Sender<oneshot::Sender<View>>,
    gauges: Arc<Gauges>,
) -> io::Result<()> {
    let listener = bind_unix(path, 0o600)?;
    serve_unix(shutdown, listener, move |request| {
        answer(request, views.clone(), gauges.clone())
    })
}

async fn answer(
    request: Request,
    views: mpsc::Sender<oneshot::Sender<View>>,
    gauges: Arc<Gauges>,
) -> Response {
    if request.method != "GET" {
        return Response::error(405, "only GET is served here\n");
    }
    match request.path.as_str() {
        "/metrics" => Response::text(gauges.render()),
        "/" => Response::text("/config_dump\n/healthz/ready\n/metrics\n"),
        "/config_dump" | "/status" | "/healthz/ready" | "/ready" => {
            let (reply, view) = oneshot::channel();
            if views.send(reply).await.is_err() {
                return Response::error(503, "ending\n");
            }
            let Ok(view) = view.await else {
                return Response::error(503, "ending\n");
            };
            match request.path.as_str() {
                "/healthz/ready" | "/ready" if view.ready => Response::text("ready\n"),
                "/healthz/ready" | "/ready" => {
                    Response::error(503, "agent or proxy does not serve yet\n")
                }
                _ => Response::json(
                    serde_json::to_vec_pretty(&view).expect("a view has no key that JSON refuses"),
                ),
            }
        }
        _ => Response::not_found(),
    }
}
