//! How much of what was written to a TCP socket its peer has not acknowledged yet.
//!
//! In: a connected socket. Out: a number of bytes. Deliberately not here: what to do about it.

#![expect(unsafe_code, reason = "SIOCOUTQ has no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// Bytes in the send queue that the peer has not acknowledged, a sent FIN counting as one; 0 on a closed connection.
///
/// Nothing wakes on this number, so whoever waits for it has to look again.
pub fn unacknowledged(socket: impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is borrowed for the length of the call, and the request writes one c_int (tcp(7)).
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 {
        Ok(usize::try_from(bytes).unwrap_or(0))
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    use super::unacknowledged;

    #[test]
    fn what_a_full_reader_has_not_taken_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _unread = listener.accept().unwrap();
        assert_eq!(unacknowledged(&stream).unwrap(), 0);
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[0; 4096]).is_ok() {}
        assert!(unacknowledged(&stream).unwrap() > 0);
    }
}
