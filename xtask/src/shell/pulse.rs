//! A sign of life each minute, for who reads along where no terminal shows it.
//!
//! In: what is going on. Out: how many minutes it has, as a number or as a line of progress.

use std::io::IsTerminal as _;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_mins(1);

/// Whether a person sees our progress as it comes. A log, which may be cut, holds less, and a sign of life each minute.
pub(crate) fn on_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Minutes of something that looks at it now and then.
pub(crate) struct Pulse {
    began: Instant,
    told: u32,
}

/// Minutes of something that only waits: told until this is dropped.
pub(crate) struct Heartbeat(Option<(Sender<()>, JoinHandle<()>)>);

// === impl Pulse ===

impl Pulse {
    pub(crate) fn begin() -> Self {
        Self {
            began: Instant::now(),
            told: 0,
        }
    }

    /// The number of whole minutes, once each; none on a terminal.
    pub(crate) fn beat(&mut self) -> Option<u32> {
        let due = self.began.elapsed() >= MINUTE * (self.told + 1);
        if !due || on_terminal() {
            return None;
        }
        self.told += 1;
        Some(self.told)
    }
}

// === impl Heartbeat ===

impl Heartbeat {
    pub(crate) fn begin(what: &str) -> Self {
        if on_terminal() {
            return Self(None);
        }
        let what = what.to_owned();
        let (stop, stopped) = channel();
        let teller = std::thread::spawn(move || {
            let mut pulse = Pulse::begin();
            while stopped.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                if let Some(minutes) = pulse.beat() {
                    super::progress(&format!("{what}: {minutes} min"));
                }
            }
        });
        Self(Some((stop, teller)))
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        if let Some((stop, teller)) = self.0.take() {
            drop(stop);
            // It ends at once; a panic of it has been printed.
            let _ = teller.join();
        }
    }
}
