//! Listening sockets of the program itself: admin over Unix, metrics and readiness over TCP.
//!
//! In: a path or an address. Out: non-blocking listeners.
//! Deliberately not here: listeners inside pods, which only `weft-node` makes.

#![expect(unsafe_code, reason = "an inherited descriptor arrives as a number")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use socket2::{Domain, Protocol, Socket, Type};

/// Environment variable with the number of an inherited admin listener.
///
/// The proxy may not write into the run directory, so its parent binds the path and passes the socket on.
pub const ADMIN_FD_ENV: &str = "WEFT_ADMIN_FD";

/// Connections that may wait at an admin or metrics listener; scrapers and people come one by one.
const BACKLOG: i32 = 128;

/// The program's admin listener: the inherited one of [`ADMIN_FD_ENV`], or else a new one at `path`.
///
/// Call it at most once, early in `main`: it takes ownership of the inherited descriptor.
pub fn unix_listener(path: &Path) -> io::Result<UnixListener> {
    let Ok(text) = std::env::var(ADMIN_FD_ENV) else {
        return bind_unix(path, 0o600);
    };
    let bad = || {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{ADMIN_FD_ENV}={text}"),
        )
    };
    let number: RawFd = text.parse().map_err(|_| bad())?;
    if number <= 2 {
        return Err(bad());
    }
    // SAFETY: the parent passed this number for us alone, and nothing else in the program reads the variable.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    // CLOEXEC also proves that the descriptor is open.
    let flags = fcntl_getfd(&fd)?;
    fcntl_setfd(&fd, flags | FdFlags::CLOEXEC)?;
    let listener = UnixListener::from(fd);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Binds a Unix stream listener that takes the place of whatever was at `path`, with the given mode, non-blocking.
///
/// It is bound beside `path` and renamed: a successor replaces its predecessor without a moment of absence,
/// and nobody connects before the mode is set. The path is not removed at the end, it may be the successor's by then.
pub fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = Path::new(&beside);
    match std::fs::remove_file(beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(beside)?;
    std::fs::set_permissions(beside, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(beside, path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Binds a TCP listener, non-blocking, with `SO_REUSEADDR` and `SO_REUSEPORT`:
/// during an upgrade the old and the new program of one user listen together.
pub fn tcp_listener(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
