//! The access log's writer: records become lines on a thread of their own, so that a slow disk or terminal never slows a connection.
//!
//! In: records, from any thread. Out: whole lines, several per write.
//! Limit: [`QUEUE_LINES`] lines wait at most; what comes beyond is dropped and counted, never waited for.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use crate::record::ConnectionRecord;

/// Lines that may wait for the writer: about 4 MB, or a fifth of a second at 40 000 connections a second.
pub const QUEUE_LINES: usize = 8192;
/// Bytes joined into one write: what a pipe takes at once.
const BATCH_BYTES: usize = 64 * 1024;

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
    queue: SyncSender<Entry>,
}

#[derive(Debug)]
struct Shared {
    format: AtomicU8,
    dropped: Counter<u64, AtomicU64>,
}

#[derive(Debug)]
enum Entry {
    Line(String),
    /// Everything before it is written out, then the sender is told.
    Flush(SyncSender<()>),
}

impl AccessLog {
    /// Starts the writer thread on stderr.
    pub fn stderr(format: AccessFormat) -> Self {
        Self::to(std::io::stderr(), format)
    }

    /// Starts the writer thread on any writer. It ends when the last clone is dropped.
    pub fn to(writer: impl Write + Send + 'static, format: AccessFormat) -> Self {
        let (queue, entries) = sync_channel(QUEUE_LINES);
        let thread = std::thread::Builder::new().name("access-log".to_owned());
        if let Err(error) = thread.spawn(move || write_lines(&entries, writer)) {
            // The queue is then disconnected: every line counts as dropped, connections go on.
            tracing::error!(%error, "cannot start the access log writer; check the thread limit of this process");
        }
        Self {
            shared: Arc::new(Shared {
                format: AtomicU8::new(format.code()),
                dropped: Counter::default(),
            }),
            queue,
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

    /// Hands one record over; never blocks.
    pub fn write(&self, record: &ConnectionRecord) {
        let mut line = String::with_capacity(512);
        match self.format() {
            AccessFormat::Off => return,
            AccessFormat::Text => record.write_text(&mut line),
            AccessFormat::Json => record.write_json(&mut line),
        }
        if self.queue.try_send(Entry::Line(line)).is_err() {
            self.shared.dropped.inc();
        }
    }

    /// Blocks until everything written before is out, at most `limit`. For the end of the process.
    pub fn flush(&self, limit: Duration) {
        let (done, wait) = sync_channel(1);
        let mut entry = Entry::Flush(done);
        let deadline = std::time::Instant::now() + limit;
        while let Err(TrySendError::Full(back)) = self.queue.try_send(entry) {
            if std::time::Instant::now() >= deadline {
                return;
            }
            entry = back;
            std::thread::yield_now();
        }
        let _ = wait.recv_timeout(deadline.saturating_duration_since(std::time::Instant::now()));
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

fn write_lines(entries: &Receiver<Entry>, mut writer: impl Write) {
    let mut batch = String::with_capacity(BATCH_BYTES);
    while let Ok(first) = entries.recv() {
        let mut next = Some(first);
        let mut flushed = None;
        while let Some(entry) = next.take() {
            match entry {
                Entry::Line(line) => batch.push_str(&line),
                Entry::Flush(done) => {
                    flushed = Some(done);
                    break;
                }
            }
            if batch.len() < BATCH_BYTES {
                next = entries.try_recv().ok();
            }
        }
        // A log that cannot be written must not stop anything; there is nowhere left to say so.
        let _ = writer
            .write_all(batch.as_bytes())
            .and_then(|()| writer.flush());
        batch.clear();
        if let Some(done) = flushed {
            let _ = done.try_send(());
        }
    }
}

#[cfg(test)]
mod tests;
