//! The system calls that a program makes, and no others: what an attacker in its process could still do.
//!
//! In: what one program needs besides what all of them need. Out: a filter on the calling thread and all threads and programs
//! that it starts. Anything else fails with EPERM, which a program survives where it merely lost a convenience.
//! A program that starts others must allow their calls as well, because filters are inherited and the strictest one counts.
//! Kernel 3.17 for seccomp(2); since 5.11 calls that are allowed whatever their arguments cost nothing.

mod common;

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

/// Why a program has no filter. Fatal: it must not run without.
#[derive(Debug, thiserror::Error)]
#[error(
    "the filter of system calls cannot be set: {0}; check that the kernel has CONFIG_SECCOMP_FILTER"
)]
pub struct SeccompError(#[from] seccompiler::Error);

/// A call that is allowed when one of its arguments is right. Several for one call: one of them must hold.
#[derive(Clone, Copy, Debug)]
pub struct Condition {
    /// The call, `libc::SYS_*`.
    pub call: i64,
    /// Which argument, from 0.
    pub argument: u8,
    /// What it must be.
    pub must: Must,
}

/// What an argument must be.
#[derive(Clone, Copy, Debug)]
pub enum Must {
    /// This 32-bit number.
    Be(u32),
    /// All of these bits are set.
    Have(u64),
    /// None of these bits is set.
    Lack(u64),
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Limits this thread, and everything that it starts from now on, to what every program of the mesh needs
/// (bytes, sockets, waiting, memory, threads, files; no other program, process, namespace or mount), these calls, and these
/// under their conditions. Sets no-new-privileges. Limits add up: a later one can only take away.
pub fn limit(calls: &[i64], conditions: &[Condition]) -> Result<(), SeccompError> {
    let target: TargetArch = std::env::consts::ARCH
        .try_into()
        .map_err(seccompiler::Error::from)?;
    // Two filters, because one can answer with one error only; the first answer that is not "allowed" counts.
    // The arguments of clone3 are in memory, where no filter can look; ENOSYS makes the C library use clone.
    let no_clone3 = Rules::from([(libc::SYS_clone3, Vec::new())]);
    let no_clone3 = filter(
        no_clone3,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS as u32),
        target,
    )?;
    let mut rules = rules(calls, conditions)?;
    rules.insert(libc::SYS_clone3, Vec::new());
    let allowed = filter(
        rules,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        target,
    )?;
    seccompiler::apply_filter(&no_clone3)?;
    seccompiler::apply_filter(&allowed)?;
    Ok(())
}

fn filter(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
    target: TargetArch,
) -> Result<BpfProgram, seccompiler::Error> {
    let filter = SeccompFilter::new(rules, otherwise, matched, target)?;
    Ok(filter.try_into()?)
}

fn rules(calls: &[i64], conditions: &[Condition]) -> Result<Rules, seccompiler::Error> {
    let mut rules = Rules::new();
    for condition in common::CONDITIONS.iter().chain(conditions) {
        rules
            .entry(condition.call)
            .or_default()
            .push(condition.rule()?);
    }
    // An empty list of rules allows the call whatever its arguments are.
    for call in common::CALLS.iter().chain(common::OLDER_CALLS).chain(calls) {
        rules.insert(*call, Vec::new());
    }
    Ok(rules)
}

impl Condition {
    /// A call whose argument must be so.
    pub const fn new(call: i64, argument: u8, must: Must) -> Self {
        Self {
            call,
            argument,
            must,
        }
    }

    fn rule(&self) -> Result<SeccompRule, seccompiler::Error> {
        let (width, operator, value) = match self.must {
            Must::Be(value) => (Width::Dword, SeccompCmpOp::Eq, value.into()),
            Must::Have(bits) => (Width::Qword, SeccompCmpOp::MaskedEq(bits), bits),
            Must::Lack(bits) => (Width::Qword, SeccompCmpOp::MaskedEq(bits), 0),
        };
        let condition = SeccompCondition::new(self.argument, width, operator, value)?;
        Ok(SeccompRule::new(vec![condition])?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::{Condition, Must, limit};

    /// Runs in a thread of its own: a filter cannot be taken off again.
    fn limited<T: Send + 'static>(
        calls: &'static [i64],
        conditions: &'static [Condition],
        body: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let thread = crate::spawn_thread("limited", move || {
            limit(calls, conditions).unwrap();
            body()
        });
        thread.unwrap().join().unwrap()
    }

    fn denied<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
    }

    #[test]
    fn connections_files_and_threads_go_on_under_the_filter() {
        limited(&[], &[], || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let to = listener.local_addr().unwrap();
            let client = crate::spawn_thread("client", move || {
                let mut stream = TcpStream::connect(to).unwrap();
                stream.write_all(b"x").unwrap();
            });
            let mut byte = [0];
            listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
            client.unwrap().join().unwrap();
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
    fn programs_processes_and_odd_sockets_are_out_of_reach() {
        limited(&[], &[], || {
            assert!(denied(std::process::Command::new("/bin/true").status()));
            let (domain, kind) = (socket2::Domain::PACKET, socket2::Type::RAW);
            assert!(denied(socket2::Socket::new(domain, kind, None)));
            assert!(denied(
                rustix::mount::unmount("/", rustix::mount::UnmountFlags::DETACH)
                    .map_err(io::Error::from)
            ));
        });
    }

    #[test]
    fn a_call_is_allowed_with_the_right_argument_only() {
        // PRIO_PROCESS and PRIO_USER of getpriority(2).
        const OWN: &[Condition] = &[Condition::new(libc::SYS_getpriority, 0, Must::Be(0))];
        limited(&[], OWN, || {
            assert!(rustix::process::getpriority_process(None).is_ok());
            let of_user = rustix::process::getpriority_user(rustix::process::Uid::ROOT);
            assert!(denied(of_user.map_err(io::Error::from)));
        });
    }

    #[test]
    fn a_second_filter_takes_away_and_gives_nothing_back() {
        const MORE: &[i64] = &[libc::SYS_seccomp, libc::SYS_getpriority];
        limited(MORE, &[], || {
            assert!(rustix::process::getpriority_process(None).is_ok());
            limit(&[libc::SYS_gettid, libc::SYS_sync], &[]).unwrap();
            let priority = rustix::process::getpriority_process(None);
            assert!(denied(priority.map_err(io::Error::from)));
        });
    }
}
