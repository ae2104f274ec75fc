//! The system calls of this program and of its children, who inherit the filter and add tighter ones of their own.
//!
//! In: nothing. Out: a filter on this thread and all that it starts. No namespaces but existing network ones, no tracing,
//! no modules, no keyrings, no raw sockets.

use weft_runtime::seccomp::{Condition, Must, SeccompError, limit};

/// Limits this thread, and every thread and program that it starts from now on.
pub(crate) fn give_up() -> Result<(), SeccompError> {
    limit(CALLS, CONDITIONS)
}

/// Flags of clone(2) that make a namespace.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

const CONDITIONS: &[Condition] = &[
    // Processes as well as threads, in the namespaces that there are.
    Condition::new(libc::SYS_clone, 0, Must::Lack(NAMESPACES)),
    // Into pods' networks, and nowhere else.
    Condition::new(libc::SYS_setns, 1, Must::Be(libc::CLONE_NEWNET as u32)),
    // getifaddrs(3).
    Condition::new(libc::SYS_socket, 0, Must::Be(libc::AF_NETLINK as u32)),
];

/// By purpose; the last two groups are there for the children alone.
const CALLS: &[i64] = &[
    // Start programs, and see them end.
    libc::SYS_execve,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pipe2,
    libc::SYS_dup3,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    libc::SYS_setpgid,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_capget,
    libc::SYS_capset,
    // Directories, lock, copies for the proxy.
    libc::SYS_mount,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_flock,
    libc::SYS_fchownat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    // Socket storage; for the agent: maps, programs, links.
    libc::SYS_bpf,
    // The loader of a program and the start of the C library.
    libc::SYS_set_tid_address,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_arch_prctl,
    // The children's own filters.
    libc::SYS_seccomp,
];

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsFd;
    use std::process::Command;

    use rustix::net::{AddressFamily, SocketType};
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

    use super::give_up;

    #[test]
    fn children_start_and_what_nothing_here_does_is_refused() {
        let denied = |result: io::Result<()>| {
            result.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
        };
        // A filter cannot be taken off again, so it is put on a thread of its own.
        let thread = weft_runtime::spawn_thread("limited", move || {
            give_up().unwrap();
            assert!(Command::new("/bin/true").status().unwrap().success());
            let mut other_group = Command::new("/bin/true");
            std::os::unix::process::CommandExt::process_group(&mut other_group, 0);
            assert!(other_group.status().unwrap().success());

            let own = File::open("/proc/self/ns/uts").unwrap();
            let uts = Some(LinkNameSpaceType::HostNameAndNISDomainName);
            let entered = move_into_link_name_space(own.as_fd(), uts);
            assert!(denied(entered.map_err(io::Error::from)));
            // Anybody may have the one, root the other.
            for (family, kind) in [
                (
                    AddressFamily::from_raw(libc::AF_ALG as u16),
                    SocketType::SEQPACKET,
                ),
                (AddressFamily::PACKET, SocketType::RAW),
            ] {
                let socket = rustix::net::socket(family, kind, None);
                assert!(denied(socket.map(drop).map_err(io::Error::from)));
            }
            let priority = rustix::process::getpriority_process(None);
            assert!(denied(priority.map(drop).map_err(io::Error::from)));
        });
        thread.unwrap().join().unwrap();
    }
}
