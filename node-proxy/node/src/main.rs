//! Supervisor and holder: keeps every listener, makes sockets inside pods, outlives agent and proxy.
//!
//! Deliberately not here: configuration of the mesh, keys, payload, eBPF programs. Nothing from outside the node is parsed.

mod admin;
mod app;
mod bpffs;
mod children;
mod config;
mod deletion;
mod hold;
mod limits;
mod lock;
mod netns;
mod privileges;
mod seccomp;
mod stock;
mod token;

use weft_runtime::exit_config;
use weft_runtime::privileges::raise_file_limit;
use weft_telemetry::log::{self, LogFormat};

use crate::app::Outcome;
use crate::config::Options;

fn main() {
    let options = Options::parse_or_exit();
    let format = if options.log_json {
        LogFormat::Json
    } else {
        LogFormat::Text
    };
    if let Err(error) = log::init(&options.log_level, format) {
        exit_config(error);
    }
    if let Err(error) = privileges::give_up() {
        tracing::error!("cannot give privileges up: {error}; start weft-node as root");
        std::process::exit(1);
    }
    if let Err(error) = seccomp::give_up() {
        tracing::error!("{error}");
        std::process::exit(1);
    }
    // For the children as well: a quiet pod takes twelve files here (namespace, listeners, stock), and the usual soft limit is 1024.
    if let Err(error) = raise_file_limit() {
        tracing::warn!(%error, "cannot raise the limit of open files; many pods may exhaust it");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(app::run(options)),
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
