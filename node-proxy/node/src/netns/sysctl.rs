//! Settings of the thread's network namespace. `/proc/sys/net` shows those of the thread that opens it.

use std::fs;
use std::io;

const TW_REUSE: &str = "/proc/sys/net/ipv4/tcp_tw_reuse";
const LOCAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Sets `tcp_tw_reuse`, and tells what it was.
///
/// With 1, a connection in TIME-WAIT gives its 4-tuple back after a second. The default 2 does so for loopback alone,
/// and a pod's own address, to which capture rewrites, does not count as loopback.
pub(super) fn set_tw_reuse(value: u8) -> io::Result<u8> {
    let before = fs::read_to_string(TW_REUSE)?;
    let before = before.trim().parse().map_err(|_| odd(TW_REUSE, &before))?;
    if before != value {
        fs::write(TW_REUSE, value.to_string())?;
    }
    Ok(before)
}

/// `ip_local_port_range`, both ends included.
pub(super) fn local_ports() -> io::Result<(u16, u16)> {
    let text = fs::read_to_string(LOCAL_PORTS)?;
    let mut ends = text.split_ascii_whitespace().map(str::parse);
    match (ends.next(), ends.next()) {
        (Some(Ok(low)), Some(Ok(high))) => Ok((low, high)),
        _ => Err(odd(LOCAL_PORTS, &text)),
    }
}

fn odd(path: &str, text: &str) -> io::Error {
    io::Error::other(format!("{path} holds {text:?}"))
}
