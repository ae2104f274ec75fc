//! The only place where tasks and threads start: each gets a name, a span and a place in the drain.
//!
//! In: a future. Out: its join handle.
//! Deliberately not here: restarting what ended; whoever starts a task decides that.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinHandle;
use tracing::{Instrument, debug_span};

use crate::shutdown::Shutdown;

/// Tasks of this process that have not ended, whichever [`Shutdown`] they were started with.
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// One of [`LIVE`], as long as it is not dropped.
struct Counted;

/// Tasks of this process that have not ended: for a metric that shows what is left behind.
pub fn live_tasks() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// Starts a task on the current runtime.
///
/// The span is at debug level: at the usual log level it costs one branch, which matters for one task per connection.
pub fn spawn<F>(shutdown: &Shutdown, name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let future = shutdown.tasks.track_future(counted(future));
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
    let future = shutdown.tasks.track_future(counted(future));
    tokio::task::spawn_local(future.instrument(debug_span!("task", name)))
}

/// Counts a task from now until its future is dropped, done or not.
fn counted<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let one = Counted::new();
    async move {
        let _one = one;
        future.await
    }
}

impl Counted {
    fn new() -> Self {
        LIVE.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs what takes long without waiting on a thread for blocking work, and waits for it: the runtime's own threads go on serving.
///
/// A panic of `body` goes on in the caller. Not cancel-safe: `body` runs to its end even when nobody waits for it any more, and so does the
/// end of the runtime.
pub async fn off_runtime<F, T>(body: F) -> T
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    match tokio::task::spawn_blocking(body).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends before it began: so does the caller.
            Err(_) => std::future::pending().await,
        },
    }
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

#[cfg(test)]
mod tests {
    use super::{live_tasks, spawn};
    use crate::shutdown::Shutdown;

    #[tokio::test]
    async fn a_task_is_counted_until_it_is_done_or_dropped() {
        // Other tests of this process have tasks as well: a hundred stand out.
        let shutdown = Shutdown::new();
        let before = live_tasks();
        let tasks: Vec<_> = (0..100)
            .map(|_| spawn(&shutdown, "idle", std::future::pending::<()>()))
            .collect();
        assert!(live_tasks() >= before + 50);
        for task in tasks {
            task.abort();
            let _aborted = task.await;
        }
        assert!(live_tasks() < before + 50);
    }
}
