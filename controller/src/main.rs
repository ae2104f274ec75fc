//! `weft-controller`: the control plane of a mesh.
//!
//! ```text
//! source -> index -> translate -> publish (delta ADS)
//!    files              |   \--> view -> issue (certificates), admin, metrics
//!                       \-> findings, statuses
//! ```

#![forbid(unsafe_code)]

mod config;
mod privileges;

mod app;

mod own;

mod source;

mod index;

mod translate;

mod view;

mod kept;
mod pipeline;

mod publish;

mod issue;

mod caller;

mod serve;

mod admin;
mod limits;
mod metrics;
mod tokens;
mod wake;

use std::time::Duration;

use clap::Parser as _;
use clap::error::ErrorKind;
use config::Config;
use weft_runtime::{Finished, Shutdown, Signals, exit_config};
use weft_telemetry::log::{LogFormat, init};

/// Open calls get this long after SIGTERM; subscribers come back elsewhere, so nothing is lost by ending them.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

fn main() -> anyhow::Result<()> {
    privileges::keep_keys_here()?;
    let config = Config::try_parse().unwrap_or_else(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => error.exit(),
        _ => exit_config(first_line(&error.to_string())),
    });
    let format = if config.log_json {
        LogFormat::Json
    } else {
        LogFormat::Text
    };
    let log = init(&config.log, format).unwrap_or_else(|error| exit_config(error));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let shutdown = Shutdown::new();
        let pipeline = match app::start(config, &shutdown, log).await {
            Ok(pipeline) => pipeline,
            Err(error) => exit_config(error),
        };
        tokio::select! {
            signal = signals.next() => tracing::info!(?signal, "draining"),
            // Serving on without it would tell an old state as the newest for ever: a successor starts from the kept one.
            ended = pipeline => anyhow::bail!("the pipeline has ended: {ended:?}"),
        }
        shutdown.drain();
        if let Finished::CutOff(tasks) = shutdown.finished(DRAIN_LIMIT).await {
            tracing::warn!(tasks, "ended with work left");
        }
        Ok(())
    })
}

/// clap explains at length; the first lines say what is wrong.
fn first_line(text: &str) -> String {
    let lines = text.lines().take_while(|line| !line.trim().is_empty());
    let words: Vec<&str> = lines.map(str::trim).collect();
    let line = words.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}
