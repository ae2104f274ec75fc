//! Every bound of the tunnel, with its derivation.
//!
//! In: nothing. Out: values with the defaults that Istio's node proxy uses on the wire, so that both sides of a mixed
//! mesh behave alike. Deliberately not here: limits before a certificate was shown (the TLS layer's).

use std::time::Duration;

use weft_runtime::Limit;

/// Tunnel connections of one worker, to one peer or to all.
pub(crate) static TUNNEL_CONNECTIONS: Limit = Limit::new(
    "tunnel_connections",
    "all tunnel connections to a peer are full and no more are allowed, a connection failed; check which pods talk to so many peers, or add workers",
);

/// Frames that move nothing.
pub(crate) static IDLE_FRAMES: Limit = Limit::new(
    "idle_frames",
    "a peer flooded a tunnel connection with frames that move nothing, and the connection was closed; check which peer it is",
);

/// The limits of this crate that are counted, for the metrics of a program.
pub static COUNTED: [&Limit; 2] = [&TUNNEL_CONNECTIONS, &IDLE_FRAMES];

/// Stream window: 4 MiB carries 3 Gbit/s at 10 ms round trip, and is what one stopped reader can pin in memory.
pub(crate) const STREAM_WINDOW: u32 = 4 << 20;
/// Connection window: four times the stream window, so that three stopped readers leave room for the others; equal
/// windows would let one stopped reader stop the connection.
pub(crate) const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;
/// Largest frame that is accepted. Frames that are sent are far smaller (see the relay's buffers).
const FRAME_MAX: u32 = 1 << 20;
/// Data accepted for sending but not yet written, for each stream: two full relay buffers keep the writer busy.
pub(crate) const SEND_BUFFER_MAX: usize = 256 << 10;

/// HTTP/2 PING in both directions (same numbers as Envoy's waypoint and Istio's node proxy).
#[derive(Clone, Copy, Debug)]
pub struct KeepaliveLimits {
    /// Time between two PINGs.
    pub interval: Duration,
    /// The connection is dead when a PING stays unanswered for this long.
    pub timeout: Duration,
}

impl Default for KeepaliveLimits {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(20),
        }
    }
}

/// Bounds of a connection that we opened.
#[derive(Clone, Copy, Debug)]
pub struct ClientLimits {
    /// Receive window of each stream, bytes.
    pub stream_window: u32,
    /// Receive window of the connection, bytes; must exceed `stream_window`.
    pub connection_window: u32,
    /// Largest frame accepted, bytes.
    pub frame_max: u32,
    /// Largest header list accepted in a response, bytes: baggage is at most 8 KiB.
    pub header_list_max: u32,
    /// Bytes taken for sending but not yet written, for each stream.
    pub send_buffer_max: usize,
    /// Streams that we open on one connection, even if the peer admits more (Istio: 100).
    pub streams_max: usize,
    /// PING in both directions.
    pub keepalive: KeepaliveLimits,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            stream_window: STREAM_WINDOW,
            connection_window: CONNECTION_WINDOW,
            frame_max: FRAME_MAX,
            header_list_max: 16 << 10,
            send_buffer_max: SEND_BUFFER_MAX,
            streams_max: 100,
            keepalive: KeepaliveLimits::default(),
        }
    }
}

/// Bounds of a connection that a peer opened.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Receive window of each stream, bytes.
    pub stream_window: u32,
    /// Receive window of the connection, bytes; must exceed `stream_window`.
    pub connection_window: u32,
    /// Largest frame accepted, bytes.
    pub frame_max: u32,
    /// Largest header list accepted in a request, bytes (Istio: 64 KiB).
    pub header_list_max: u32,
    /// Bytes taken for sending but not yet written, for each stream.
    pub send_buffer_max: usize,
    /// Streams open at once (Istio: 200).
    pub streams_max: u32,
    /// Streams that the peer reset before we looked at them; one more closes the connection (CVE-2023-44487).
    pub pending_resets_max: usize,
    /// Streams that we had to reset for errors of the peer's; one more closes the connection (CVE-2025-8671).
    pub error_resets_max: usize,
    /// PING in both directions.
    pub keepalive: KeepaliveLimits,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            stream_window: STREAM_WINDOW,
            connection_window: CONNECTION_WINDOW,
            frame_max: FRAME_MAX,
            header_list_max: 64 << 10,
            send_buffer_max: SEND_BUFFER_MAX,
            streams_max: 200,
            pending_resets_max: 50,
            error_resets_max: 1000,
            keepalive: KeepaliveLimits::default(),
        }
    }
}

/// Bounds of a pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// An unused connection is closed after this long (Istio: 300 s).
    pub idle: Duration,
    /// Connections for one key: with 100 streams each, 6400 connections of one pod to another on one worker.
    pub connections_per_key_max: usize,
    /// Connections of the whole pool: a fifth of a common descriptor limit of 20 000.
    pub connections_max: usize,
    /// A connection that is busy gets company, up to this many for one key: more share the same core and link.
    pub busy_connections_max: usize,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            idle: Duration::from_mins(5),
            connections_per_key_max: 64,
            connections_max: 4096,
            busy_connections_max: 4,
        }
    }
}
