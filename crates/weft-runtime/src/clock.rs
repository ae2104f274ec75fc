//! The time as a value that is passed in, so that hours pass in a test without waiting.
//!
//! In: nothing. Out: monotonic and wall time. Deliberately not here: sleeping, which is tokio's (and can be paused).

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// A source of time.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Monotonic time, for intervals. Follows tokio's paused time.
    fn now(&self) -> Instant;
    /// Wall time, for certificates and records.
    fn wall(&self) -> SystemTime;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

/// A clock that stands until it is moved.
#[derive(Debug)]
pub struct ManualClock(Mutex<(Instant, SystemTime)>);

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

impl ManualClock {
    /// A clock that stands at the given wall time.
    pub fn new(wall: SystemTime) -> Self {
        Self(Mutex::new((Instant::now(), wall)))
    }

    /// Moves both clocks ahead.
    pub fn advance(&self, by: Duration) {
        let mut times = self.times();
        times.0 += by;
        times.1 += by;
    }

    /// Sets the wall clock alone, as an administrator or NTP would.
    pub fn set_wall(&self, wall: SystemTime) {
        self.times().1 = wall;
    }

    fn times(&self) -> std::sync::MutexGuard<'_, (Instant, SystemTime)> {
        self.0
            .lock()
            .expect("nobody panics while holding the clock")
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.times().0
    }

    fn wall(&self) -> SystemTime {
        self.times().1
    }
}
