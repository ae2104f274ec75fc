//! The system calls that this program makes, and no others: what an attacker in this process could still do.
//!
//! In: nothing. Out: a filter on the calling thread and all threads that it starts. Anything else fails with EPERM, which a
//! program survives where it merely lost a convenience; there is no exec, no new process, no namespace, no ptrace, no mount.
//! Needs `no_new_privs` (see `privileges`). Kernel 3.17 for seccomp(2).

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Commands of bpf(2) on map descriptors: lookup, update, delete, and what a map looks like.
const BPF_COMMANDS: [u64; 4] = [1, 2, 3, 15];

/// Limits this thread, and every thread that it starts from now on.
pub(crate) fn limit() -> anyhow::Result<()> {
    for program in programs()? {
        seccompiler::apply_filter(&program)?;
    }
    Ok(())
}

/// Two filters, because one can answer with one error only; the stricter answer of the two counts.
fn programs() -> anyhow::Result<[BpfProgram; 2]> {
    let target: TargetArch = std::env::consts::ARCH.try_into()?;
    // The arguments of clone3 are in memory, where no filter can look; ENOSYS makes the C library use clone.
    let clone3 = SeccompFilter::new(
        Rules::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS as u32),
        target,
    )?;
    let allowed = SeccompFilter::new(
        allowed()?,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        target,
    )?;
    Ok([clone3.try_into()?, allowed.try_into()?])
}

fn allowed() -> anyhow::Result<Rules> {
    let mut rules: Rules = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    rules.extend(ALLOWED_X86_64.iter().map(|call| (*call, Vec::new())));
    rules.insert(libc::SYS_clone3, Vec::new());

    let equals = |argument, value| -> anyhow::Result<SeccompRule> {
        let condition = SeccompCondition::new(argument, Width::Dword, SeccompCmpOp::Eq, value)?;
        Ok(SeccompRule::new(vec![condition])?)
    };
    let domains = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
    let of_domain = domains.map(|domain| equals(0, domain as u64));
    rules.insert(
        libc::SYS_socket,
        of_domain.into_iter().collect::<Result<_, _>>()?,
    );
    let of_command = BPF_COMMANDS.map(|command| equals(0, command));
    rules.insert(
        libc::SYS_bpf,
        of_command.into_iter().collect::<Result<_, _>>()?,
    );
    // Threads only, never processes or namespaces.
    let thread = libc::CLONE_THREAD as u64;
    let thread = SeccompCondition::new(0, Width::Qword, SeccompCmpOp::MaskedEq(thread), thread)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![thread])?]);
    Ok(rules)
}

/// By purpose; a call that nothing here makes is a finding.
const ALLOWED: &[i64] = &[
    // Bytes.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_lseek,
    // Sockets.
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_socketpair,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    // Time, randomness, self.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_prlimit64,
    libc::SYS_sched_getaffinity,
    libc::SYS_prctl,
    // Memory and threads.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_membarrier,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Signals, and the abort of a panic.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    // Files: token and root are read again, the last configuration is written, /proc/self is shown as metrics.
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_memfd_create,
];

/// The older forms, which the C library uses where they exist.
#[cfg(target_arch = "x86_64")]
const ALLOWED_X86_64: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_getdents,
    libc::SYS_readlink,
    libc::SYS_mkdir,
    libc::SYS_rename,
    libc::SYS_unlink,
    libc::SYS_chmod,
    libc::SYS_getrlimit,
    libc::SYS_time,
];

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    /// Runs in a thread of its own: a filter cannot be taken off again.
    fn limited<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            super::limit().unwrap();
            body()
        })
        .join()
        .unwrap()
    }

    #[test]
    fn connections_files_and_threads_go_on_under_the_filter() {
        limited(|| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let to = listener.local_addr().unwrap();
            let client = std::thread::spawn(move || {
                let mut stream = TcpStream::connect(to).unwrap();
                stream.write_all(b"x").unwrap();
            });
            let mut byte = [0];
            listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
            client.join().unwrap();
            let folder = tempfile::TempDir::new().unwrap();
            let (from, to) = (folder.path().join("a"), folder.path().join("b"));
            std::fs::write(&from, b"x").unwrap();
            std::fs::rename(&from, &to).unwrap();
            assert_eq!(std::fs::read(&to).unwrap(), b"x");
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async { tokio::task::spawn_blocking(|| ()).await.unwrap() });
        });
    }

    #[test]
    fn programs_processes_and_other_namespaces_are_out_of_reach() {
        let refused = |result: std::io::Result<()>| {
            let error = result.unwrap_err();
            assert_eq!(
                error.kind(),
                std::io::ErrorKind::PermissionDenied,
                "{error}"
            );
        };
        limited(move || {
            let exec = std::process::Command::new("/bin/true").status();
            refused(exec.map(|_| ()));
            let own = std::fs::File::open("/proc/self/ns/net").unwrap();
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            let setns =
                rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&own), kind);
            refused(setns.map_err(std::io::Error::from));
            let raw = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, None);
            refused(raw.map(|_| ()));
        });
    }
}
