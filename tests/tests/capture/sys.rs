//! System calls that have no safe wrapper.

#![expect(unsafe_code, reason = "SO_NETNS_COOKIE has no safe wrapper")]

use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Cookie of the network namespace that a socket is in.
pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> u64 {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are valid for what the kernel writes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    cookie
}

/// Takes the hard limit of open files: tests share it, and one holds 2000 sockets.
pub(crate) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}

/// Waits until a socket can be written to, that is, until its connect has ended.
pub(crate) fn writable(socket: BorrowedFd<'_>, patience: Duration) -> bool {
    ready(socket, PollFlags::OUT, patience)
}

/// Waits until a socket can be read or accepted from.
pub(crate) fn readable(socket: BorrowedFd<'_>, patience: Duration) -> bool {
    ready(socket, PollFlags::IN, patience)
}

fn ready(socket: BorrowedFd<'_>, events: PollFlags, patience: Duration) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(socket, events)];
    let patience = Timespec::try_from(patience).unwrap();
    poll(&mut polled, Some(&patience)).unwrap() == 1
}
