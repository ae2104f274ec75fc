//! Privileged: loads and pins eBPF, enrols pods.
//!
//! Deliberately not here: keys, payload, the Kubernetes API; sockets inside pods are made by `weft-node`.

mod app;
mod config;
mod ids;
mod limits;
mod metrics;
mod netns;
mod pod_capture;
mod privileges;
mod refusals;
mod roster;
mod seccomp;
mod view;

use weft_runtime::{exit_config, parse_or_exit};
use weft_telemetry::log::{self, LogFormat};

use crate::app::Outcome;
use crate::config::Options;

fn main() {
    let options: Options = parse_or_exit();
    if let Err(line) = options.common.check() {
        exit_config(line);
    }
    let format = if options.common.log_json {
        LogFormat::Json
    } else {
        LogFormat::Text
    };
    let log = match log::init(&options.common.log_level, format) {
        Ok(log) => log,
        Err(error) => exit_config(error),
    };
    if let Err(error) = privileges::give_up() {
        tracing::error!(
            "cannot give privileges up: {error}; start the agent by weft-node, as root"
        );
        std::process::exit(1);
    }
    if let Err(error) = seccomp::give_up() {
        tracing::error!("{error}");
        std::process::exit(1);
    }
    // Two threads: loading a program takes milliseconds, and the admin socket answers meanwhile.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(app::run(options, log));
            // Waits for nobody: what is worth keeping is pinned, or renamed into place when it is whole.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Outcome::Failed(format!("cannot start the runtime: {error}")),
    };
    match outcome {
        Outcome::Done => {}
        Outcome::Config(message) => exit_config(message),
        Outcome::Failed(message) => {
            tracing::error!("{message}");
            std::process::exit(1);
        }
    }
}
