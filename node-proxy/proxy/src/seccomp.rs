//! The system calls of the proxy: what all programs of the mesh make, and four operations on maps.
//!
//! In: nothing. Out: a filter on this thread and all that it starts. There is no exec, no new process, no namespace, no ptrace,
//! no mount.

use weft_runtime::seccomp::{Condition, Must, SeccompError, limit};

/// Limits this thread, and every thread that it starts from now on.
pub(crate) fn give_up() -> Result<(), SeccompError> {
    limit(&[], &CONDITIONS)
}

/// Commands of bpf(2) on map descriptors that it was given: lookup, update, delete, and what a map looks like.
const CONDITIONS: [Condition; 4] = [command(1), command(2), command(3), command(15)];

const fn command(number: u32) -> Condition {
    Condition::new(libc::SYS_bpf, 0, Must::Be(number))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsFd;
    use std::process::Command;

    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

    use super::give_up;

    #[test]
    fn programs_processes_and_other_namespaces_are_out_of_reach() {
        let denied = |result: io::Result<()>| {
            result.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
        };
        // A filter cannot be taken off again, so it is put on a thread of its own.
        let thread = weft_runtime::spawn_thread("limited", move || {
            give_up().unwrap();
            assert!(denied(Command::new("/bin/true").status().map(drop)));
            let own = File::open("/proc/self/ns/net").unwrap();
            let entered = move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network));
            assert!(denied(entered.map_err(io::Error::from)));
            let raw = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, None);
            assert!(denied(raw.map(drop)));
        });
        thread.unwrap().join().unwrap();
    }
}
