//! `weft-proxy`: the unprivileged L4 proxy of one node. Keys, bytes, policy, tunnels; started by `weft-node`.
//!
//! In: listeners and sockets inside pods, from the holder; configuration and certificates, from the controller.
//! Out: connections. Modules in the order of a connection, then what stands around it.

mod config;
mod privileges;
mod seccomp;

mod accept;
mod inbound;
mod local;
mod outbound;
mod passthrough;

mod admission;
mod connections;
mod endpoints;
mod failure;
mod handshakes;
mod limits;
mod memory;
mod names;
mod pods;
mod shared;
mod socket;
#[cfg(test)]
mod testing;
mod tunnel;
mod worker;

mod admin;
mod app;
mod holder;
mod keys;
mod readiness;
mod refusals;
mod serve;

use weft_runtime::{exit_config, parse_or_exit};
use weft_telemetry::log::{self, LogFormat};

use crate::config::Options;

fn main() -> anyhow::Result<()> {
    privileges::give_up()?;
    seccomp::give_up()?;
    let options: Options = parse_or_exit();
    if let Err(line) = options.check() {
        exit_config(line);
    }
    let format = if options.common.log_json {
        LogFormat::Json
    } else {
        LogFormat::Text
    };
    let log =
        log::init(&options.common.log_level, format).unwrap_or_else(|error| exit_config(error));
    app::run(&options, log)
}
