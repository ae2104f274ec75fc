//! Waiting for something to become true, with a bound.
//!
//! In: a probe that says what is still missing. Out: its value, or an error with its last word. A probe that knows that it
//! waits in vain says so, and a signal that ends this program ends the wait.
//! This is the one place that looks again and again; everything else waits for events.

use std::time::{Duration, Instant};

use anyhow::{Error, Result, bail};

use crate::interrupt;

/// How often a condition is looked at: short beside every bound, long beside a look.
const INTERVAL: Duration = Duration::from_millis(20);

/// Bound for what usually takes below a second.
pub const SHORT: Duration = Duration::from_secs(10);

/// Bound for what usually takes a few seconds.
pub const LONG: Duration = Duration::from_mins(1);

/// What waits for it waits in vain: [`until`] gives it back at once.
#[derive(Debug)]
struct InVain(String);

impl std::fmt::Display for InVain {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for InVain {}

/// The error of a probe that knows that what is missing will never come.
pub fn in_vain(text: impl Into<String>) -> Error {
    InVain(text.into()).into()
}

/// Asks until the probe gives a value; an error that it gives is what is still missing. A signal that ends this program
/// ([`interrupt::watch`]) is an error as well.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    until_done(what, limit, || {
        interrupt::check()?;
        probe()
    })
}

/// The same for what must not stop half-way: signals do not end it.
pub fn until_done<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<T>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(last) if last.is::<InVain>() || last.is::<interrupt::Interrupted>() => {
                return Err(last);
            }
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

    #[test]
    fn what_is_known_to_be_in_vain_is_waited_for_no_longer() {
        let mut looks = 0;
        let error = until::<()>("a dead program", LONG, || {
            looks += 1;
            Err(in_vain("it ended").context("n1"))
        })
        .unwrap_err();
        assert_eq!(format!("{error:#}"), "n1: it ended");
        assert_eq!(looks, 1);
    }
}
