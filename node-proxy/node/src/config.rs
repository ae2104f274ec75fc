//! Flags and environment, checked before anything starts.
//!
//! In: the command line. Out: [`Options`], and the command lines of agent and proxy.
//! Deliberately not here: the mesh's settings, which come from the controller to agent and proxy.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Parser;
use weft_runtime::{exit_config, parse_or_exit};

/// Holder and supervisor of one node: starts weft-agent and weft-proxy, keeps their listeners, outlives both.
#[derive(Clone, Debug, Parser)]
#[command(name = "weft-node", version)]
pub(crate) struct Options {
    /// Name of this node, as the controller knows it.
    #[arg(long, env = "WEFT_NODE")]
    pub(crate) node: String,
    /// Directory of sockets and lock [default: /run/weft/NODE].
    #[arg(long, env = "WEFT_RUN_DIR")]
    run_dir: Option<PathBuf>,
    /// Directory for what survives a restart [default: /var/lib/weft/NODE].
    #[arg(long, env = "WEFT_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// Controller, as https://HOST:PORT.
    #[arg(long, env = "WEFT_CONTROLLER")]
    pub(crate) controller: String,
    /// PEM file with the roots that the controller's certificate must chain to.
    #[arg(long, env = "WEFT_ROOT_CERT")]
    pub(crate) root_cert: PathBuf,
    /// File with this node's bearer token.
    #[arg(long, env = "WEFT_TOKEN_FILE")]
    pub(crate) token_file: PathBuf,
    /// The agent's program [default: weft-agent beside this one].
    #[arg(long, env = "WEFT_AGENT")]
    agent: Option<PathBuf>,
    /// The proxy's program [default: weft-proxy beside this one].
    #[arg(long, env = "WEFT_PROXY")]
    proxy: Option<PathBuf>,
    /// User and group of the proxy.
    #[arg(long, env = "WEFT_PROXY_UID", default_value_t = 65532)]
    pub(crate) proxy_uid: u32,
    /// Mount point of the BPF file system, for the agent's pins.
    #[arg(long, env = "WEFT_BPFFS", default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
    /// cgroup whose processes are captured [default: found by the agent].
    #[arg(long, env = "WEFT_CGROUP")]
    cgroup: Option<PathBuf>,
    /// Address of the proxy's metrics.
    #[arg(long, env = "WEFT_METRICS_ADDRESS", default_value = "0.0.0.0:15020")]
    metrics_address: SocketAddr,
    /// Address of the proxy's readiness.
    #[arg(long, env = "WEFT_READINESS_ADDRESS", default_value = "0.0.0.0:15021")]
    readiness_address: SocketAddr,
    /// Address of the agent's metrics.
    #[arg(
        long,
        env = "WEFT_AGENT_METRICS_ADDRESS",
        default_value = "0.0.0.0:15025"
    )]
    agent_metrics_address: SocketAddr,
    /// Address of this program's own metrics: every request gets the same kind of answer.
    #[arg(
        long,
        env = "WEFT_NODE_METRICS_ADDRESS",
        default_value = "0.0.0.0:15023"
    )]
    pub(crate) node_metrics_address: SocketAddr,
    /// The proxy's worker threads [default: one for each core].
    #[arg(long, env = "WEFT_WORKERS")]
    workers: Option<usize>,
    /// Directory for agent.log and proxy.log [default: both write to this program's stderr].
    #[arg(long, env = "WEFT_LOG_DIR")]
    pub(crate) log_dir: Option<PathBuf>,
    /// Take everything over from the weft-node that runs, and let its proxy drain.
    #[arg(long, env = "WEFT_TAKEOVER")]
    pub(crate) takeover: bool,
    /// Log filter, for example info or weft_node=debug,info.
    #[arg(long, env = "WEFT_LOG", default_value = "info")]
    pub(crate) log_level: String,
    /// Log lines as JSON.
    #[arg(long, env = "WEFT_LOG_JSON")]
    pub(crate) log_json: bool,
}

/// Longest run directory: with the longest socket name and a pid it must fit the 108 bytes of `sun_path` (unix(7)).
const RUN_DIR_MAX: usize = 72;

impl Options {
    /// Parses the command line; prints one line and exits 64 when it cannot be used.
    pub(crate) fn parse_or_exit() -> Self {
        let options: Self = parse_or_exit();
        if let Err(message) = options.check() {
            exit_config(message);
        }
        options
    }

    /// The run directory.
    pub(crate) fn run_dir(&self) -> PathBuf {
        let default = || Path::new("/run/weft").join(&self.node);
        self.run_dir.clone().unwrap_or_else(default)
    }

    /// The state directory.
    pub(crate) fn state_dir(&self) -> PathBuf {
        let default = || Path::new("/var/lib/weft").join(&self.node);
        self.state_dir.clone().unwrap_or_else(default)
    }

    /// The mount point of the BPF file system.
    pub(crate) fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The agent's program and arguments.
    pub(crate) fn agent_command(&self) -> (PathBuf, Vec<String>) {
        let program = beside(self.agent.as_ref(), "weft-agent");
        let mut args = self.common(&self.state_dir().join("agent"));
        args.extend(flag("--root-cert", &self.root_cert));
        args.extend(flag("--token-file", &self.token_file));
        args.extend(flag("--bpffs", &self.bpffs));
        args.extend(self.cgroup.iter().flat_map(|path| flag("--cgroup", path)));
        args.push("--metrics-address".into());
        args.push(self.agent_metrics_address.to_string());
        (program, args)
    }

    /// The proxy's program and arguments; it reads copies of token and root, because the originals are for root only.
    pub(crate) fn proxy_command(&self, token: &Path, root_cert: &Path) -> (PathBuf, Vec<String>) {
        let program = beside(self.proxy.as_ref(), "weft-proxy");
        let mut args = self.common(&self.state_dir().join("proxy"));
        args.extend(flag("--root-cert", root_cert));
        args.extend(flag("--token-file", token));
        args.push("--metrics-address".into());
        args.push(self.metrics_address.to_string());
        args.push("--readiness-address".into());
        args.push(self.readiness_address.to_string());
        if let Some(workers) = self.workers {
            args.push("--workers".into());
            args.push(workers.to_string());
        }
        (program, args)
    }

    fn common(&self, state_dir: &Path) -> Vec<String> {
        let mut args = vec!["--node".into(), self.node.clone()];
        args.extend(flag("--run-dir", &self.run_dir()));
        args.extend(flag("--state-dir", state_dir));
        args.push("--controller".into());
        args.push(self.controller.clone());
        args
    }

    fn check(&self) -> Result<(), String> {
        if self.node.is_empty() || self.node.contains('/') || self.node.starts_with('.') {
            return Err(format!(
                "--node {:?} is not a node name: give the name under which the controller knows this node",
                self.node
            ));
        }
        if !self.controller.starts_with("https://") {
            return Err(format!(
                "--controller {:?} must be https://HOST:PORT: tokens are never sent in clear",
                self.controller
            ));
        }
        let run_dir = self.run_dir();
        if !run_dir.is_absolute() || run_dir.as_os_str().len() > RUN_DIR_MAX {
            return Err(format!(
                "--run-dir {} must be absolute and at most {RUN_DIR_MAX} bytes long, because it holds sockets",
                run_dir.display()
            ));
        }
        if self.proxy_uid == 0 {
            return Err("--proxy-uid 0 is root: the proxy must run as a user of its own".into());
        }
        for (name, path) in [
            ("--root-cert", &self.root_cert),
            ("--token-file", &self.token_file),
            (
                "the agent's program",
                &beside(self.agent.as_ref(), "weft-agent"),
            ),
            (
                "the proxy's program",
                &beside(self.proxy.as_ref(), "weft-proxy"),
            ),
        ] {
            std::fs::File::open(path)
                .map_err(|error| format!("{name} {} cannot be read: {error}", path.display()))?;
        }
        Ok(())
    }
}

fn flag(name: &str, path: &Path) -> [String; 2] {
    [name.into(), path.display().to_string()]
}

fn beside(given: Option<&PathBuf>, name: &str) -> PathBuf {
    given.cloned().unwrap_or_else(|| {
        let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/"));
        // After an upgrade in place, the link of a running program ends in " (deleted)"; its folder is still right.
        own.with_file_name(name)
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::Options;

    fn parse(extra: &[&str]) -> Options {
        let base = [
            "weft-node",
            "--node=n1",
            "--controller=https://c:1",
            "--root-cert=/dev/null",
            "--token-file=/dev/null",
            "--agent=/dev/null",
            "--proxy=/dev/null",
        ];
        Options::try_parse_from(base.iter().chain(extra)).unwrap()
    }

    #[test]
    fn flags_are_consistent_and_a_plain_command_line_is_accepted() {
        Options::command().debug_assert();
        assert_eq!(parse(&[]).check(), Ok(()));
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_flag_to_fix() {
        let check = |extra: &str, word: &str| {
            let error = parse(&[extra]).check().unwrap_err();
            assert!(error.contains(word), "{error}");
        };
        check("--proxy-uid=0", "--proxy-uid");
        check("--run-dir=relative", "--run-dir");
        let long = format!("--run-dir=/{}", "x".repeat(100));
        check(&long, "--run-dir");
    }

    #[test]
    fn the_proxy_never_gets_the_originals_of_token_and_root() {
        let (_, args) = parse(&[]).proxy_command("/copy/token".as_ref(), "/copy/root".as_ref());
        assert!(!args.iter().any(|arg| arg == "/dev/null"));
    }
}
