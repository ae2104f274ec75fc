//! Gives up everything that the program does not need, before it reads the first byte from outside.
//!
//! In: whatever it was started with. Out: no capability, also none to be had by exec; not dumpable; no core; more files.
//! Not here: the system-call filter (`seccomp`), which needs every thread's work to be known.

use std::io;

use caps::{CapSet, Capability};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use rustix::thread::set_no_new_privs;

/// Gives privileges up. Any failure is fatal: a proxy that holds keys must not run with more than it needs.
pub(crate) fn give_up() -> anyhow::Result<()> {
    // Dropping from the bounding set needs CAP_SETPCAP; without it, NO_NEW_PRIVS below closes the same door.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        caps::clear(None, CapSet::Bounding)?;
    }
    for set in [
        CapSet::Ambient,
        CapSet::Inheritable,
        CapSet::Effective,
        CapSet::Permitted,
    ] {
        caps::clear(None, set)?;
    }
    set_no_new_privs(true)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    Ok(())
}

/// Raises the limit of open files to the hard limit; a connection takes two.
pub(crate) fn raise_file_limit() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised)?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}
