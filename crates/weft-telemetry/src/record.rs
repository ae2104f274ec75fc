//! What is known about one connection at its end, and its text and JSON forms.
//!
//! In: facts gathered by the phases of the connection. Out: one line, in the field names of Istio's access log.
//! Not here: where lines go (`access`), and counters (`connections`).

use std::fmt::{self, Display, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use weft_types::{ServiceName, SpiffeId, Workload};

use crate::time::Rfc3339;

/// Which side of a connection reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The node proxy of the client.
    Outbound,
    /// The node proxy of the server.
    Inbound,
}

/// Why a connection did not go through, in the words of Istio's `response_flags`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ResponseFlag {
    /// It went through.
    #[default]
    None,
    /// A policy refused it.
    Deny,
    /// The destination could not be reached.
    Connect,
    /// The TLS handshake failed.
    TlsFailure,
    /// The HTTP/2 handshake of the tunnel failed.
    H2HandshakeFailure,
    /// The peer's identity is not the expected one, or ours is not available.
    IdentityError,
    /// No configuration for it: unknown workload, no endpoint, or refused by `REGISTRY_ONLY`.
    NoRoute,
    /// It was reset after it had been established.
    Reset,
}

/// How the bytes travelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Security {
    /// Inside mutual TLS, or between two verified identities of one node.
    MutualTls,
    /// In plaintext, or not known.
    #[default]
    Unknown,
}

/// One end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Party {
    /// Its address, as far as this side knows.
    pub address: Option<SocketAddr>,
    /// Its workload, if the mesh knows one.
    pub workload: Option<Arc<Workload>>,
    /// Its identity, only if it was verified.
    pub identity: Option<SpiffeId>,
}

/// The service that the client dialled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceLabel {
    /// Namespace and hostname.
    pub name: ServiceName,
    /// Short name.
    pub short_name: Arc<str>,
}

/// One connection, complete.
#[derive(Clone, Debug)]
pub struct ConnectionRecord {
    /// Number of the connection within this process, the one that the admin socket shows.
    pub id: u64,
    /// Which side reports.
    pub direction: Direction,
    /// The client.
    pub source: Party,
    /// The server; for outbound its address is that of the tunnel when there is one.
    pub destination: Party,
    /// The CONNECT authority, when it went through a tunnel.
    pub hbone_target: Option<String>,
    /// The service dialled.
    pub service: Option<ServiceLabel>,
    /// How the bytes travelled.
    pub security: Security,
    /// When the connection was accepted.
    pub started: SystemTime,
    /// How long it lived.
    pub duration: Duration,
    /// Bytes from the server to the client, the meaning that Istio gives `sent`.
    pub bytes_sent: u64,
    /// Bytes from the client to the server.
    pub bytes_received: u64,
    /// How it ended.
    pub flag: ResponseFlag,
    /// What went wrong, for the operator.
    pub error: Option<String>,
}

/// A field's value: quoted or bare in text, string or number in JSON.
enum Value<'a> {
    Bare(&'a dyn Display),
    Quoted(&'a dyn Display),
    Number(u64),
}

impl Direction {
    /// `outbound` or `inbound`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }

    /// The `reporter` label: `source` or `destination`.
    pub fn reporter(self) -> &'static str {
        match self {
            Self::Outbound => "source",
            Self::Inbound => "destination",
        }
    }
}

impl ResponseFlag {
    /// The label value; `-` for none.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            Self::IdentityError => "IDENTITY_ERROR",
            Self::NoRoute => "NO_ROUTE",
            Self::Reset => "RESET",
        }
    }
}

impl Security {
    /// The label value: `mutual_tls` or `unknown`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::Unknown => "unknown",
        }
    }
}

impl ConnectionRecord {
    /// Appends one text line with its line end; texts are quoted and escaped, so a value cannot forge a line.
    pub fn write_text(&self, line: &mut String) {
        let end = Rfc3339(self.started + self.duration);
        // Writing to a String cannot fail, here and below.
        let _ = write!(line, "{end} {} access connection complete", self.level());
        self.fields(&mut |name, value| {
            line.push(' ');
            line.push_str(name);
            line.push('=');
            let _ = match value {
                Value::Bare(value) => write!(line, "{value}"),
                Value::Number(value) => write!(line, "{value}"),
                Value::Quoted(value) => write_quoted(line, value),
            };
        });
        line.push('\n');
    }

    /// Appends one JSON object with its line end, shaped like Istio's JSON access log.
    pub fn write_json(&self, line: &mut String) {
        let end = Rfc3339(self.started + self.duration);
        let _ = write!(
            line,
            "{{\"level\":\"{}\",\"time\":\"{end}\",\"scope\":\"access\",\"message\":\"connection complete\"",
            self.level()
        );
        self.fields(&mut |name, value| {
            let _ = match value {
                Value::Number(value) => write!(line, ",\"{name}\":{value}"),
                Value::Bare(value) | Value::Quoted(value) => {
                    write!(line, ",\"{name}\":{}", JsonText(&value.to_string()))
                }
            };
        });
        line.push_str("}\n");
    }

    fn level(&self) -> &'static str {
        if self.error.is_some() {
            "error"
        } else {
            "info"
        }
    }

    /// Every field that has a value, in the order of Istio's log.
    fn fields(&self, emit: &mut dyn FnMut(&str, Value<'_>)) {
        party_fields(
            [
                "src.addr",
                "src.workload",
                "src.namespace",
                "src.identity",
                "src.cluster",
            ],
            &self.source,
            emit,
        );
        if let Some(target) = &self.hbone_target {
            emit("dst.hbone_addr", Value::Bare(target));
        }
        if let Some(service) = &self.service {
            emit("dst.service", Value::Quoted(&service.name.hostname));
        }
        party_fields(
            [
                "dst.addr",
                "dst.workload",
                "dst.namespace",
                "dst.identity",
                "dst.cluster",
            ],
            &self.destination,
            emit,
        );
        emit("direction", Value::Quoted(&self.direction.as_str()));
        emit("connection.id", Value::Number(self.id));
        emit("security", Value::Quoted(&self.security.as_str()));
        emit("bytes_sent", Value::Number(self.bytes_sent));
        emit("bytes_recv", Value::Number(self.bytes_received));
        let duration = format!("{}ms", self.duration.as_millis());
        emit("duration", Value::Quoted(&duration));
        if self.flag != ResponseFlag::None {
            emit("response_flags", Value::Quoted(&self.flag.as_str()));
        }
        if let Some(error) = &self.error {
            emit("error", Value::Quoted(error));
        }
    }
}

/// Appends a value in quotes, escaped as Rust's `{:?}` does it. Nearly every value needs no escape, which is cheap to
/// see once it is written; that matters for a dozen fields of every connection.
fn write_quoted(line: &mut String, value: &dyn Display) -> fmt::Result {
    line.push('"');
    let start = line.len();
    write!(line, "{value}")?;
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    if line[start..].bytes().all(is_plain) {
        line.push('"');
        return Ok(());
    }
    let value = line.split_off(start);
    line.pop();
    write!(line, "{value:?}")
}

fn party_fields(names: [&str; 5], party: &Party, emit: &mut dyn FnMut(&str, Value<'_>)) {
    let [address, workload, namespace, identity, cluster] = names;
    if let Some(value) = &party.address {
        emit(address, Value::Bare(value));
    }
    if let Some(value) = &party.workload {
        emit(workload, Value::Quoted(&value.name));
        emit(namespace, Value::Quoted(&value.namespace));
    }
    if let Some(value) = &party.identity {
        emit(identity, Value::Quoted(value));
    }
    if let Some(value) = &party.workload {
        emit(cluster, Value::Quoted(&value.cluster));
    }
}

/// A JSON string literal.
struct JsonText<'a>(&'a str);

impl Display for JsonText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string(self.0).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests;
