//! The system calls of the agent: what all programs of the mesh make, and those that load and pin eBPF.
//!
//! In: nothing. Out: a filter on this thread and all that it starts. No other program, no namespace, no mount, no tracing.
//! `weft-node`, whose filter the agent inherits, must allow all of it as well.

use weft_runtime::seccomp::{SeccompError, limit};

/// Limits this thread, and every thread that it starts from now on.
pub(crate) fn give_up() -> Result<(), SeccompError> {
    limit(CALLS, &[])
}

const CALLS: &[i64] = &[
    // Maps, programs, links, pins.
    libc::SYS_bpf,
    // The lock of the pins, and whether a folder is what it should be.
    libc::SYS_flock,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
];

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsFd;
    use std::process::Command;

    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

    use super::give_up;

    #[test]
    fn programs_namespaces_and_mounts_are_refused_and_files_still_open() {
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
            let flags = rustix::mount::MountFlags::empty();
            let mounted = rustix::mount::mount("bpf", "/nonexistent", "bpf", flags, None);
            assert!(denied(mounted.map_err(io::Error::from)));
            assert!(std::fs::read("/proc/self/status").is_ok());
        });
        thread.unwrap().join().unwrap();
    }
}
