//! The access log's writer: records become lines on a thread of their own, so that a slow disk or terminal never slows a connection.
//!
//! In: records, from any thread. Out: whole lines, many per write: the writer lets lines gather for [`GATHER`], so that a
//! busy proxy wakes it some dozen times a second and not once for each connection.
//! Limit: [`QUEUE_BYTES`] wait at most; a record beyond that is dropped and counted, never waited for.

use std::io::Write;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use crate::record::ConnectionRecord;

/// Bytes that may wait for the writer: a fifth of a second at 40 000 connections a second.
pub const QUEUE_BYTES: usize = 4 << 20;
/// How long lines gather before they are written; an operator who follows the log does not notice.
const GATHER: Duration = Duration::from_millis(20);

/// Whether and how records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessFormat {
    /// Not at all.
    Off,
    /// `key=value` text.
    Text,
    /// One JSON object a line.
    Json,
}

/// The access log. Cheap to clone; the format changes for all clones at once.
#[derive(Clone, Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    /// The writer ends when the last clone is gone.
    _open: Arc<Open>,
}

#[derive(Debug)]
struct Shared {
    format: AtomicU8,
    dropped: Counter<u64, AtomicU64>,
    queue: Mutex<Queue>,
    /// The writer waits for lines, or for the end.
    filled: Condvar,
    /// Whoever flushes waits for the writer.
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: String,
    /// The writer has taken lines that are not out yet.
    writing: bool,
    /// Somebody waits for everything to be out: do not let lines gather.
    flushing: bool,
    ended: bool,
}

#[derive(Debug)]
struct Open(Arc<Shared>);

impl AccessLog {
    /// Starts the writer thread on stderr.
    pub fn stderr(format: AccessFormat) -> Self {
        Self::to(std::io::stderr(), format)
    }

    /// Starts the writer thread on any writer. It ends when the last clone is dropped.
    pub fn to(writer: impl Write + Send + 'static, format: AccessFormat) -> Self {
        let shared = Arc::new(Shared {
            format: AtomicU8::new(format.code()),
            dropped: Counter::default(),
            queue: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
        });
        let of_writer = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("access-log".to_owned());
        if let Err(error) = thread.spawn(move || write_lines(&of_writer, writer)) {
            // The queue then fills up, and every further line counts as dropped; connections go on.
            tracing::error!(%error, "cannot start the access log writer; check the thread limit of this process");
        }
        Self {
            _open: Arc::new(Open(Arc::clone(&shared))),
            shared,
        }
    }

    /// Changes the format from now on.
    pub fn set_format(&self, format: AccessFormat) {
        self.shared.format.store(format.code(), Ordering::Relaxed);
    }

    /// The format in force.
    pub fn format(&self) -> AccessFormat {
        AccessFormat::of(self.shared.format.load(Ordering::Relaxed))
    }

    /// Hands one record over. Never waits for the writer, only for another record's copy into the queue.
    pub fn write(&self, record: &ConnectionRecord) {
        let mut line = String::with_capacity(640);
        match self.format() {
            AccessFormat::Off => return,
            AccessFormat::Text => record.write_text(&mut line),
            AccessFormat::Json => record.write_json(&mut line),
        }
        let mut queue = self.shared.lock();
        if queue.lines.len() + line.len() > QUEUE_BYTES {
            self.shared.dropped.inc();
            return;
        }
        let was_empty = queue.lines.is_empty();
        queue.lines.push_str(&line);
        drop(queue);
        // A writer that is busy looks again by itself.
        if was_empty {
            self.shared.filled.notify_one();
        }
    }

    /// Blocks until everything written before is out, at most `limit`. For the end of the process.
    pub fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut queue = self.shared.lock();
        queue.flushing = true;
        self.shared.filled.notify_one();
        while !queue.lines.is_empty() || queue.writing {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.shared.emptied.wait_timeout(queue, left);
            (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        queue.flushing = false;
    }

    /// Registers `weft_access_records_dropped_total`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "weft_access_records_dropped",
            "Access records dropped because the writer could not keep up",
            self.shared.dropped.clone(),
        );
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Every change leaves whole lines in the queue, so a poisoned lock holds no half of one.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.filled.notify_one();
    }
}

impl AccessFormat {
    fn code(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Text => 1,
            Self::Json => 2,
        }
    }

    fn of(code: u8) -> Self {
        match code {
            1 => Self::Text,
            2 => Self::Json,
            _ => Self::Off,
        }
    }
}

fn write_lines(shared: &Shared, mut writer: impl Write) {
    let mut batch = String::new();
    loop {
        let mut queue = shared.lock();
        while queue.lines.is_empty() && !queue.ended {
            queue = shared
                .filled
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if queue.lines.is_empty() {
            return;
        }
        if !queue.flushing && !queue.ended {
            // Woken early by a flush or the end.
            let gathered = shared
                .filled
                .wait_timeout_while(queue, GATHER, |queue| !queue.flushing && !queue.ended);
            (queue, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut batch, &mut queue.lines);
        queue.writing = true;
        drop(queue);
        // A log that cannot be written must not stop anything; there is nowhere left to say so.
        let _ = writer
            .write_all(batch.as_bytes())
            .and_then(|()| writer.flush());
        batch.clear();
        shared.lock().writing = false;
        shared.emptied.notify_all();
    }
}

#[cfg(test)]
mod tests;
