//! Flags and environment, as `weft-node` passes them on, checked before anything starts.
//!
//! In: the command line. Out: [`Options`] and the settings made of it. Not here: the mesh's settings.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use weft_config::ConfigSettings;
use weft_runtime::exit_config;

/// Enrols the pods of one node: loads and pins the eBPF programs, attaches them, keeps their maps. Started by weft-node.
#[derive(Clone, Debug, Parser)]
#[command(name = "weft-agent", version)]
pub(crate) struct Options {
    /// Name of this node, as the controller knows it.
    #[arg(long, env = "WEFT_NODE")]
    pub(crate) node: String,
    /// Directory of sockets, shared with weft-node.
    #[arg(long, env = "WEFT_RUN_DIR")]
    pub(crate) run_dir: PathBuf,
    /// Directory for what survives a restart.
    #[arg(long, env = "WEFT_STATE_DIR")]
    pub(crate) state_dir: PathBuf,
    /// Controller, as https://HOST:PORT.
    #[arg(long, env = "WEFT_CONTROLLER")]
    pub(crate) controller: String,
    /// PEM file with the roots that the controller's certificate must chain to.
    #[arg(long, env = "WEFT_ROOT_CERT")]
    pub(crate) root_cert: PathBuf,
    /// File with this node's bearer token.
    #[arg(long, env = "WEFT_TOKEN_FILE")]
    pub(crate) token_file: PathBuf,
    /// Mount point of the BPF file system.
    #[arg(long, env = "WEFT_BPFFS", default_value = "/sys/fs/bpf")]
    pub(crate) bpffs: PathBuf,
    /// cgroup whose processes are captured [default: kubepods, or else the root of the cgroup2 mount].
    #[arg(long, env = "WEFT_CGROUP")]
    pub(crate) cgroup: Option<PathBuf>,
    /// Address of the metrics.
    #[arg(
        long,
        env = "WEFT_AGENT_METRICS_ADDRESS",
        default_value = "0.0.0.0:15025"
    )]
    pub(crate) metrics_address: SocketAddr,
    /// Log filter, for example info or weft_agent=debug,info.
    #[arg(long, env = "WEFT_LOG", default_value = "info")]
    pub(crate) log_level: String,
    /// Log lines as JSON.
    #[arg(long, env = "WEFT_LOG_JSON")]
    pub(crate) log_json: bool,
}

impl Options {
    /// Parses the command line; prints one line and exits 64 when it cannot be used.
    pub(crate) fn parse_or_exit() -> Self {
        match Self::try_parse() {
            Ok(options) => options,
            Err(error) if !error.use_stderr() => error.exit(),
            Err(error) => {
                let text = error.to_string();
                let first: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).collect();
                exit_config(first.join(" "));
            }
        }
    }

    /// How to reach the controller.
    pub(crate) fn config_settings(&self) -> ConfigSettings {
        let mut settings = ConfigSettings::new(
            self.controller.clone(),
            &self.root_cert,
            &self.token_file,
            self.node.as_str().into(),
        );
        settings.instance = format!("weft-agent-{}", self.node);
        settings.state_dir = Some(self.state_dir.clone());
        settings
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::Options;

    #[test]
    fn flags_are_consistent_and_the_state_directory_reaches_the_client() {
        Options::command().debug_assert();
        let options = Options::try_parse_from([
            "weft-agent",
            "--node=n1",
            "--run-dir=/run/x",
            "--state-dir=/var/x",
            "--controller=https://c:1",
            "--root-cert=/r",
            "--token-file=/t",
        ])
        .unwrap();
        let settings = options.config_settings();
        assert_eq!(settings.state_dir.unwrap().to_str(), Some("/var/x"));
    }
}
