//! HBONE: one TCP connection of an application per `CONNECT` stream of HTTP/2, generic over an I/O stream.
//!
//! In: a byte stream that is already authenticated and encrypted (TLS 1.3, ALPN `h2`), connection requests of the
//! proxy. Out: [`Tunnel`]s, and [`relay()`], which carries a TCP connection over one.
//! Deliberately not here: TLS, certificates, policy and the choice of a destination. A tunnel is handed a stream and
//! an authority and judges neither.
//!
//! The way of a connection, client side: [`Pool::open`] -> [`Connector`] -> [`handshake`] -> [`Connection::open`] ->
//! [`Tunnel`] -> [`relay()`]. Server side: [`serve`] -> [`Server::next`] -> [`Incoming::accept`] -> [`Tunnel`] ->
//! [`relay()`].

#![forbid(unsafe_code)]

mod authority;
mod baggage;
mod client;
mod error;
mod forwarded;
mod keepalive;
mod limits;
mod police;
mod pool;
mod relay;
mod request;
mod server;
mod trace;
mod tunnel;

pub use authority::{Authority, AuthorityError};
pub use baggage::{Baggage, BaggageError, BaggageHeader};
pub use client::{Connection, Load, handshake};
pub use error::{ConnectionError, HandshakeError, OpenError, Refusal, ResetCode, TunnelError};
pub use forwarded::{Forwarded, ForwardedError};
pub use limits::{COUNTED, ClientLimits, KeepaliveLimits, PoolLimits, ServerLimits};
pub use pool::{CloseHow, Connector, Pool, PoolError, PoolStats};
pub use relay::{Counters, Outcome, RelayEnd, join, relay};
pub use request::{ConnectRequest, ConnectResponse};
pub use server::{Incoming, Server, serve};
pub use trace::{TraceParent, TraceParentError};
pub use tunnel::Tunnel;

/// The ALPN protocol name of HBONE. It is what plain HTTP/2 uses; port 15008 tells them apart.
pub const ALPN_H2: &[u8] = b"h2";

/// The port on which every enrolled pod answers HBONE.
pub const HBONE_PORT: u16 = 15008;
