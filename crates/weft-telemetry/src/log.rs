//! Log set-up: one line per event on stderr, level reloadable while the program runs.
//!
//! In: a filter as text (`info`, `weft_proxy=debug,info`). Out: the process-wide subscriber and a handle that changes it.
//! Not here: access records, which have their own format and writer (`access`).

use std::io::IsTerminal;
use std::sync::Arc;

use thiserror::Error;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// Changes the level of a running program. Cheap to clone.
#[derive(Clone)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    initial: Arc<str>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `TIME LEVEL target: message field=value`.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why a level was not taken.
#[derive(Debug, Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error(
        "log filter {filter:?} is wrong: {reason}; write for example info, or weft_proxy=debug,info"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// What the parser said.
        reason: String,
    },
    /// A subscriber is already installed in this process.
    #[error("logging was set up twice in one process")]
    Twice,
    /// The subscriber is gone; only happens while the process exits.
    #[error("logging is shut down")]
    Gone,
}

/// Installs the process-wide subscriber, writing to stderr. Call once, first thing in `main`.
pub fn init(filter: &str, format: LogFormat) -> Result<LogHandle, LogError> {
    let (filter_layer, handle) = reload::Layer::new(parse(filter)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter_layer)
        .with(lines)
        .try_init()
        .map_err(|_| LogError::Twice)?;
    Ok(LogHandle {
        filter: handle,
        initial: filter.into(),
    })
}

impl LogHandle {
    /// Takes another filter from now on. `reset` brings the one of the start back.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        let filter = match filter {
            "reset" => &self.initial,
            other => other,
        };
        self.filter
            .reload(parse(filter)?)
            .map_err(|_| LogError::Gone)
    }

    /// The filter in force, as text.
    pub fn current(&self) -> Result<String, LogError> {
        self.filter
            .with_current(ToString::to_string)
            .map_err(|_| LogError::Gone)
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|reason| LogError::Filter {
            filter: filter.to_owned(),
            reason: reason.to_string(),
        })
}

#[cfg(test)]
mod tests {
    use super::{LogFormat, init};

    #[test]
    fn the_level_changes_while_running_and_a_bad_one_leaves_the_old_in_force() {
        let handle = init("info", LogFormat::Text).unwrap();
        assert!(!tracing::enabled!(tracing::Level::DEBUG));
        handle.set("debug").unwrap();
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        assert!(handle.set("weft=loud=x").is_err());
        assert_eq!(handle.current().unwrap(), "debug");
        handle.set("reset").unwrap();
        assert!(!tracing::enabled!(tracing::Level::DEBUG));
        assert!(init("info", LogFormat::Text).is_err());
    }
}
