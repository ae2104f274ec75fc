//! The only place where tasks and threads start: each gets a name, a span and a place in the drain.
//!
//! In: a future. Out: its join handle.
//! Deliberately not here: restarting what ended; whoever starts a task decides that.

use std::future::Future;
use std::io;

use tokio::task::JoinHandle;
use tracing::{Instrument, debug_span};

use crate::shutdown::Shutdown;

/// Starts a task on the current runtime.
///
/// The span is at debug level: at the usual log level it costs one branch, which matters for one task per connection.
pub fn spawn<F>(shutdown: &Shutdown, name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let future = shutdown.tasks.track_future(future);
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the spawn that everyone else calls"
    )]
    tokio::spawn(future.instrument(debug_span!("task", name)))
}

/// Starts a task on the current thread; needs a `LocalSet` around the caller.
///
/// For workers that own their state without locks.
pub fn spawn_local<F>(shutdown: &Shutdown, name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let future = shutdown.tasks.track_future(future);
    tokio::task::spawn_local(future.instrument(debug_span!("task", name)))
}

/// Starts a thread; the name shows in `/proc/PID/task/*/comm`, cut to 15 bytes.
///
/// It is not part of the drain: give it a channel whose end tells it to return.
pub fn spawn_thread<F, T>(name: &str, body: F) -> io::Result<std::thread::JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
}
