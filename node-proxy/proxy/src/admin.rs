//! What an operator can ask: the configuration, live connections, certificates (never keys), the log level, readiness.
//!
//! In: HTTP/1.1 on the admin socket, and two TCP ports for machines. Out: JSON and text.
//! Nothing here changes traffic; the log level is all that can be set.

use std::sync::Arc;

use anyhow::Context;
use serde_json::json;
use weft_identity::{IdentityState, IdentityStatus};
use weft_runtime::{
    Request, Response, Shutdown, serve_tcp, serve_unix, tcp_listener, unix_listener,
};
use weft_telemetry::LogHandle;

use crate::config::Options;
use crate::readiness::Readiness;
use crate::serve::Workers;
use crate::shared::Shared;

mod dump;
mod metrics;

/// What the answers are made from.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) workers: Workers,
    pub(crate) readiness: Readiness,
    pub(crate) log: LogHandle,
}

/// Opens the admin socket and the two ports. The ports close with the drain, so that the next proxy has them alone.
pub(crate) fn start(options: &Options, admin: Admin, control: &Shutdown) -> anyhow::Result<()> {
    let path = options.common.run_dir.join("proxy-admin.sock");
    let socket =
        unix_listener(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let front = admin.clone();
    serve_unix(control, socket, move |request| {
        let admin = front.clone();
        async move { answer(&admin, &request).await }
    })?;

    let listen = |what, address| {
        tcp_listener(address).with_context(|| format!("cannot listen on {address} for {what}"))
    };
    let flows = admin.shared.flows.child();
    let metrics = Arc::new(metrics::all(&admin.shared));
    let listener = listen("metrics", options.metrics_address)?;
    serve_tcp(&flows, listener, move |request| {
        let metrics = Arc::clone(&metrics);
        async move {
            match request.path.as_str() {
                "/metrics" | "/stats/prometheus" => Response::metrics(metrics.encode()),
                _ => Response::not_found(),
            }
        }
    })?;
    let listener = listen("readiness", options.readiness_address)?;
    serve_tcp(&flows, listener, move |request| {
        let admin = admin.clone();
        async move {
            match request.path.as_str() {
                "/healthz/ready" => ready(&admin),
                _ => Response::not_found(),
            }
        }
    })?;
    Ok(())
}

async fn answer(admin: &Admin, request: &Request) -> Response {
    match request.path.as_str() {
        "/" => Response::text(
            "/config_dump\n/connections\n/certificates\n/logging[?level=FILTER]\n/healthz/ready\n",
        ),
        "/config_dump" => json_of(&dump::dump(&admin.shared)),
        "/connections" => {
            let (connections, pools) = admin.workers.list().await;
            json_of(&json!({
                "connections": connections,
                "tunnels": {
                    "keys": pools.keys,
                    "connections": pools.connections,
                    "streams": pools.streams,
                },
            }))
        }
        "/certificates" => {
            let list = admin.shared.identities.list();
            json_of(&list.iter().map(certificate).collect())
        }
        "/logging" => logging(admin, request.query.as_deref()),
        "/healthz/ready" | "/ready" => ready(admin),
        _ => Response::not_found(),
    }
}

fn ready(admin: &Admin) -> Response {
    if admin.shared.flows.is_draining() {
        return Response::error(503, "draining: the next proxy takes new connections\n");
    }
    let missing = admin.readiness.missing();
    if missing.is_empty() {
        return Response::text("ready\n");
    }
    Response::error(503, missing.join("\n") + "\n")
}

fn logging(admin: &Admin, query: Option<&str>) -> Response {
    let level = query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .find_map(|pair| pair.strip_prefix("level="));
    let set = level.map_or(Ok(()), |level| admin.log.set(&decode(level)));
    match set.and_then(|()| admin.log.current()) {
        Ok(current) => Response::text(current + "\n"),
        Err(error) => Response::error(400, format!("{error}\n")),
    }
}

/// Percent-decoding of what a log filter may hold: `=` and `,` arrive encoded from most clients.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let hex = |byte: Option<u8>| char::from(byte?).to_digit(16);
        if byte != b'%' {
            out.push(byte);
        } else if let (Some(high), Some(low)) = (hex(bytes.next()), hex(bytes.next())) {
            out.push((high * 16 + low) as u8);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn certificate(status: &IdentityStatus) -> serde_json::Value {
    let unix = |time: Option<std::time::SystemTime>| {
        let since = time?.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(since.as_secs())
    };
    let state = match status.state {
        IdentityState::Pending => "pending",
        IdentityState::Available => "available",
        IdentityState::Stale => "stale",
    };
    json!({
        "identity": status.identity.to_string(),
        "state": state,
        "serial": status.serial,
        "notBefore": unix(status.not_before),
        "notAfter": unix(status.not_after),
        "pods": status.leases,
        "lastError": status.last_error,
    })
}

fn json_of(value: &serde_json::Value) -> Response {
    Response::json(format!("{value:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn a_log_filter_survives_its_way_through_a_url() {
        assert_eq!(decode("weft_proxy%3Ddebug%2Cinfo"), "weft_proxy=debug,info");
        assert_eq!(decode("debug"), "debug");
        assert_eq!(decode("%zz%4"), "");
    }
}
