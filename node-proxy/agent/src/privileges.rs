//! Which capabilities the agent keeps.
//!
//! In: what `weft-node` starts it with. Out: three capabilities, none to be had by exec. System calls are limited in `seccomp`.
//! Not here: namespaces. The agent holds their descriptors and never enters one, so it needs no CAP_SYS_ADMIN.

use weft_runtime::privileges::{Capability, PrivilegeError, reduce};

/// What stays: CAP_BPF loads programs and makes maps, CAP_NET_ADMIN attaches them to cgroups and namespaces,
/// CAP_PERFMON lets the verifier accept what the programs do with pointers (all three since kernel 5.8).
const KEPT: [Capability; 3] = [
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_PERFMON,
];

/// Gives privileges up, for this thread and all that it starts. Any failure is fatal.
pub(crate) fn give_up() -> Result<(), PrivilegeError> {
    reduce(&KEPT)
}
