//! How long to wait before the next try: exponential, bounded, with jitter. Pure: the caller sleeps.
//!
//! In: a seed and two bounds. Out: durations. The same seed gives the same waits, so that simulations replay.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A series of waits: each is drawn from the upper half of a step that doubles from `min` to `max`.
///
/// Half of a step is fixed so that a peer that just came up is never met at once by everyone,
/// half is random so that those who lost it together do not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    step: Duration,
    rng: StdRng,
}

impl Backoff {
    /// A series with the given bounds; `min` is raised to one millisecond, `max` to `min`.
    pub fn new(min: Duration, max: Duration, seed: u64) -> Self {
        let min = min.max(Duration::from_millis(1));
        Self {
            min,
            max: max.max(min),
            step: min,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// A series with a seed from the operating system.
    pub fn random(min: Duration, max: Duration) -> Self {
        Self::new(min, max, rand::random())
    }

    /// The next wait, never longer than `max`.
    pub fn next_wait(&mut self) -> Duration {
        let step = self.step;
        self.step = (step * 2).min(self.max);
        let half = step / 2;
        half + half.mul_f64(self.rng.random::<f64>())
    }

    /// Starts again from `min`, after a success.
    pub fn reset(&mut self) {
        self.step = self.min;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Backoff;

    const MIN: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(5);

    #[test]
    fn waits_grow_to_the_maximum_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(MIN, MAX, 1);
        let mut step = MIN;
        for _ in 0..20 {
            let wait = backoff.next_wait();
            assert!(wait >= step / 2 && wait <= step, "{wait:?} for {step:?}");
            step = (step * 2).min(MAX);
        }
        backoff.reset();
        assert!(backoff.next_wait() <= MIN);
    }

    #[test]
    fn the_same_seed_gives_the_same_waits() {
        let draw = |seed| {
            let mut backoff = Backoff::new(MIN, MAX, seed);
            (0..10).map(|_| backoff.next_wait()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
