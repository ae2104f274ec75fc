//! Which capabilities this program keeps, and which ones its children start with.
//!
//! In: root. Out: the capabilities listed here, and none to be had by exec. System calls are limited in `seccomp`.

use weft_runtime::privileges::{Capability, PrivilegeError, reduce};

/// What stays, and for what.
const KEPT: [Capability; 11] = [
    Capability::CAP_SYS_ADMIN, // enter a pod's network namespace, mount bpffs
    Capability::CAP_NET_ADMIN, // settings of a pod's namespace; for the agent: attach programs
    Capability::CAP_BPF,       // for the agent
    Capability::CAP_PERFMON,   // for the agent
    Capability::CAP_SETUID,    // start the proxy as its user
    Capability::CAP_SETGID,    // the same
    Capability::CAP_SETPCAP,   // cut the children's bounding sets
    Capability::CAP_CHOWN,     // give the proxy its directory and its copies
    Capability::CAP_FOWNER,    // replace files that are the proxy's
    Capability::CAP_DAC_OVERRIDE, // compare those copies
    Capability::CAP_KILL,      // ask the proxy to end
];

/// What the agent starts with: it loads, verifies and attaches programs.
pub(crate) const OF_AGENT: &[Capability] = &[
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_PERFMON,
];

/// What the proxy starts with.
pub(crate) const OF_PROXY: &[Capability] = &[];

/// Gives privileges up, for this thread and all that it starts.
pub(crate) fn give_up() -> Result<(), PrivilegeError> {
    reduce(&KEPT)
}
