//! Flags and environment, as `weft-node` passes them on, checked before anything starts.
//!
//! In: the command line. Out: [`Options`] and the settings made of it. Not here: the mesh's settings.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use weft_config::ConfigSettings;
use weft_runtime::NodeFlags;

/// Enrols the pods of one node: loads and pins the eBPF programs, attaches them, keeps their maps. Started by weft-node.
#[derive(Clone, Debug, Parser)]
#[command(name = "weft-agent", version)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) common: NodeFlags,
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
}

impl Options {
    /// How to reach the controller.
    pub(crate) fn config_settings(&self) -> ConfigSettings {
        let common = &self.common;
        let mut settings = ConfigSettings::new(
            common.controller.clone(),
            &common.root_cert,
            &common.token_file,
            common.node.as_str().into(),
        );
        settings.instance = format!("weft-agent-{}", common.node);
        settings.state_dir = Some(common.state_dir.clone());
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
