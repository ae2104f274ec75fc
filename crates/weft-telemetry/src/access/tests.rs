//! The writer never blocks a connection, and loses nothing while it keeps up.

use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use super::{AccessFormat, AccessLog, QUEUE_BYTES};
use crate::record::{ConnectionRecord, Direction, Party, ResponseFlag, Security};

const BOUND: Duration = Duration::from_secs(30);

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Tells that a write has begun, then waits until the test lets go.
struct Stuck {
    entered: Sender<()>,
    release: Receiver<()>,
}

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.entered.send(());
        let _ = self.release.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn record(id: u64) -> ConnectionRecord {
    ConnectionRecord {
        id,
        direction: Direction::Inbound,
        source: Party::default(),
        destination: Party::default(),
        hbone_target: None,
        service: None,
        security: Security::Unknown,
        started: UNIX_EPOCH,
        duration: Duration::ZERO,
        bytes_sent: 0,
        bytes_received: 0,
        flag: ResponseFlag::None,
        error: None,
    }
}

#[test]
fn every_record_is_one_line_and_the_format_changes_live() {
    let out = Shared::default();
    let log = AccessLog::to(out.clone(), AccessFormat::Text);
    log.write(&record(1));
    log.set_format(AccessFormat::Json);
    log.write(&record(2));
    log.set_format(AccessFormat::Off);
    log.write(&record(3));
    log.flush(BOUND);
    let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].contains("connection.id=1"));
    assert!(lines[1].contains("\"connection.id\":2"));
}

#[test]
fn a_stuck_writer_costs_records_not_connections() {
    let (entered, has_entered) = channel();
    let (release, wait) = channel();
    let log = AccessLog::to(
        Stuck {
            entered,
            release: wait,
        },
        AccessFormat::Text,
    );
    log.write(&record(0));
    has_entered.recv_timeout(BOUND).unwrap();
    // The queue is empty now and nothing is taken from it.
    let mut line = String::new();
    record(0).write_text(&mut line);
    let fit = QUEUE_BYTES / line.len();
    for _ in 0..fit + 10 {
        log.write(&record(0));
    }
    assert_eq!(log.shared.dropped.get(), 10);
    drop(release);
}
