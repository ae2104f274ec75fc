//! Gives up everything that the agent does not need, while the program has one thread.
//!
//! In: root as `weft-node` has it. Out: three capabilities, none to be had by exec, and a filter of system calls.
//! The filter denies what would undo the separation of the three programs, rather than naming all that aya and the C library
//! may use: a call that is missing from such a list fails on somebody else's kernel, in the middle of an enrolment.
//! Not here: namespaces. The agent holds their descriptors and never enters one, so it needs no CAP_SYS_ADMIN.

use std::collections::BTreeMap;

use caps::{CapSet, Capability, CapsHashSet};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::set_no_new_privs;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch};

/// What stays: CAP_BPF loads programs and makes maps, CAP_NET_ADMIN attaches them to cgroups and namespaces,
/// CAP_PERFMON lets the verifier accept what the programs do with pointers (all three since kernel 5.8).
const KEPT: [Capability; 3] = [
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_PERFMON,
];

/// Calls that fail with EPERM: other programs, other namespaces, mounts, other processes' memory, the kernel itself.
const DENIED: [i64; 27] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_open_by_handle_at,
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_settimeofday,
];

/// Gives privileges up, for this thread and all that it starts. Any failure is fatal.
pub(crate) fn give_up() -> anyhow::Result<()> {
    let have = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = KEPT.into_iter().filter(|cap| have.contains(cap)).collect();
    // Dropping from the bounding set needs CAP_SETPCAP; without it, NO_NEW_PRIVS below closes the same door.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        caps::clear(None, CapSet::Bounding)?;
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    set_no_new_privs(true)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    seccompiler::apply_filter(&filter()?)?;
    Ok(())
}

fn filter() -> anyhow::Result<BpfProgram> {
    let target: TargetArch = std::env::consts::ARCH.try_into()?;
    let rules: BTreeMap<i64, Vec<SeccompRule>> =
        DENIED.iter().map(|call| (*call, Vec::new())).collect();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        target,
    )?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::filter;

    #[test]
    fn under_the_filter_no_program_starts_and_files_still_open() {
        // The filter cannot be taken off again, so it is put on a thread of its own.
        std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            seccompiler::apply_filter(&filter().unwrap()).unwrap();
            let refused = Command::new("/bin/true").spawn().unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
            assert!(std::fs::read("/proc/self/status").is_ok());
        })
        .join()
        .unwrap();
    }
}
