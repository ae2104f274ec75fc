//! Waiting for something to become true, with a bound.
//!
//! In: a probe that says what is still missing. Out: its value, or an error with its last word.
//! This is the one place that looks again and again; everything else waits for events.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at: short beside every bound, long beside a look.
const INTERVAL: Duration = Duration::from_millis(20);

/// Bound for what usually takes below a second.
pub const SHORT: Duration = Duration::from_secs(10);

/// Bound for what usually takes a few seconds.
pub const LONG: Duration = Duration::from_mins(1);

/// Asks until the probe gives a value; an error that it gives is what is still missing.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(missing) if started.elapsed() > limit => {
                bail!("waited {} s for {what}: {missing:#}", limit.as_secs())
            }
            Err(_) => std::thread::sleep(INTERVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_the_probe_is_told() {
        let error = until::<()>("a miracle", Duration::ZERO, || bail!("none yet")).unwrap_err();
        assert!(error.to_string().contains("none yet"));
    }
}
