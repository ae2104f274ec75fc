//! Keeps the authority's key, which is in this program's memory, from everybody who may look at a core or at a process.
//!
//! In: whatever it was started with. Out: no core; not dumpable. Not here: users and capabilities, which this program needs none of
//! and is given by who starts it.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// To be called before the key is read.
pub(crate) fn keep_keys_here() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    Ok(setrlimit(Resource::Core, none)?)
}
