//! What every program of the mesh does the same way: give up privileges, start tasks, drain, back off, tell the time, answer admins.
//!
//! In: signals, sockets to listen on, closures that answer. Out: spans, exit codes, HTTP answers.
//! Deliberately not here: logging set-up and metrics (`weft-telemetry`), anything that knows what a pod is.

mod admin;
mod backoff;
mod clock;
mod exit;
mod fixed;
mod flags;
mod interfaces;
mod limit;
mod listen;
pub mod privileges;
pub mod seccomp;
mod shutdown;
mod signal;
mod task;
mod unacknowledged;
mod watch;

pub use admin::{AdminError, Request, Response, get, request, serve_tcp, serve_unix};
pub use backoff::Backoff;
pub use clock::{Clock, ManualClock, SystemClock};
pub use exit::{EXIT_CONFIG, exit_config};
pub use fixed::serve_fixed;
pub use flags::{NodeFlags, parse_or_exit};
pub use interfaces::{InterfaceAddress, interface_addresses};
pub use limit::{Limit, limit_counts, limits_text};
pub use listen::{ADMIN_FD_ENV, bind_unix, tcp_listener, unix_listener};
pub use shutdown::{Finished, Shutdown};
pub use signal::{Signal, Signals};
pub use task::{live_tasks, off_runtime, spawn, spawn_local, spawn_thread};
pub use unacknowledged::unacknowledged;
pub use watch::async_fd;
