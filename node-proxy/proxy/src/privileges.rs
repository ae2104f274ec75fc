//! Gives up everything that the program does not need, before it reads the first byte from outside.
//!
//! In: whatever it was started with. Out: no capability, also none to be had by exec; not dumpable; no core.
//! System calls are limited in `seccomp`.

use weft_runtime::privileges::{PrivilegeError, reduce};

/// Gives privileges up. Any failure is fatal: a proxy that holds keys must not run with more than it needs.
pub(crate) fn give_up() -> Result<(), PrivilegeError> {
    reduce(&[])
}
