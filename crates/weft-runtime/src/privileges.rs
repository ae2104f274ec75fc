//! Giving up what a program does not need, while it has one thread.
//!
//! In: whatever the program was started with. Out: a list of capabilities in every set and none to be had by exec, no core
//! file, no look into its memory. Not here: system calls (`seccomp`).

use std::io;

use caps::errors::CapsError;
use caps::{CapSet, CapsHashSet};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use rustix::thread::set_no_new_privs;

pub use caps::Capability;

/// Why privileges could not be given up. Fatal: a program must not run with more than it needs.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// A set of capabilities could not be read or changed.
    #[error("capabilities: {0}")]
    Capabilities(#[from] CapsError),
    /// The kernel refused one of the other steps.
    #[error("{0}")]
    Kernel(#[from] rustix::io::Errno),
}

/// Keeps these capabilities, where they are there, and no others: effective, permitted, and as far as this thread may,
/// bounding. Ambient and inheritable end up empty; exec adds nothing; nothing of this process is dumped.
///
/// For this thread and all that it starts; to be called before there are others.
pub fn reduce(kept: &[Capability]) -> Result<(), PrivilegeError> {
    let have = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = kept
        .iter()
        .copied()
        .filter(|cap| have.contains(cap))
        .collect();
    bound(&kept)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    // What is started from here has these at most; a file with setuid or capabilities adds nothing.
    set_no_new_privs(true)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    Ok(())
}

/// Lets what this thread starts have these capabilities at most, also as root. The thread's own ones stay.
pub fn bound_children(kept: &[Capability]) -> Result<(), PrivilegeError> {
    bound(&kept.iter().copied().collect())?;
    Ok(())
}

/// Raises the limit of open files to the hard limit, and tells it.
pub fn raise_file_limit() -> io::Result<u64> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised)?;
    Ok(maximum.unwrap_or(u64::MAX))
}

fn bound(kept: &CapsHashSet) -> Result<(), CapsError> {
    // Dropping needs CAP_SETPCAP. Who lacks it was started with a set that is small enough already, or has no-new-privileges.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for cap in caps::read(None, CapSet::Bounding)?.difference(kept) {
            caps::drop(None, CapSet::Bounding, *cap)?;
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)
}
