//! One kernel hook per file: read the context, ask the library, act.

pub(crate) mod connect;
pub(crate) mod lookup;
pub(crate) mod peername;
pub(crate) mod sock_ops;
