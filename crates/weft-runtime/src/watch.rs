//! Readiness of descriptors that tokio has no type for: node sockets, pidfds, inotify.

#![expect(
    unsafe_code,
    reason = "tokio wants a promise about the descriptor's lifetime"
)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Registers a non-blocking descriptor with the current runtime.
pub fn async_fd(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd names the same open descriptor until it is dropped, and AsyncFd owns it until then.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
