//! Gives up what neither this program nor its children need, while it has one thread; takes the files that it may.
//!
//! In: root. Out: the capabilities listed here, and none to be had by exec; the hard limit of open files.

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::set_no_new_privs;

/// What stays, and for what.
const KEPT: [Capability; 11] = [
    Capability::CAP_SYS_ADMIN, // enter a pod's network namespace, mount bpffs
    Capability::CAP_NET_ADMIN, // settings of a pod's namespace; for the agent: attach programs
    Capability::CAP_BPF,       // for the agent
    Capability::CAP_PERFMON,   // for the agent
    Capability::CAP_SETUID,    // start the proxy as its user
    Capability::CAP_SETGID,    // the same
    Capability::CAP_SETPCAP,   // for agent and proxy: empty their bounding sets
    Capability::CAP_CHOWN,     // give the proxy its directory and its copies
    Capability::CAP_FOWNER,    // replace files that are the proxy's
    Capability::CAP_DAC_OVERRIDE, // compare those copies
    Capability::CAP_KILL,      // ask the proxy to end
];

/// Gives privileges up, for this thread and all that it starts.
pub(crate) fn give_up() -> Result<(), CapsError> {
    let have = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = KEPT.into_iter().filter(|cap| have.contains(cap)).collect();
    if have.contains(&Capability::CAP_SETPCAP) {
        for cap in caps::read(None, CapSet::Bounding)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *cap)?;
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    // Children start with these at most; a file with setuid or capabilities adds nothing.
    set_no_new_privs(true).map_err(|error| error.to_string().into())
}

/// Raises the limit of open files to the hard limit, for the children as well: a quiet pod takes twelve here
/// (namespace, listeners, stock), and the usual soft limit is 1024.
pub(crate) fn raise_file_limit() -> std::io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}
