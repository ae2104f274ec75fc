//! Flags and environment of the program, checked before anything starts.
//!
//! In: the command line that `weft-node` gives. Out: [`Options`]. Not here: the mesh's settings, which come from the controller.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

/// Unprivileged L4 proxy of one node: keys, bytes, policy, tunnels. Started by weft-node.
#[derive(Clone, Debug, Parser)]
#[command(name = "weft-proxy", version)]
pub(crate) struct Options {
    /// Name of this node.
    #[arg(long, env = "WEFT_NODE")]
    pub(crate) node: String,
    /// Directory of node.sock and of the admin socket.
    #[arg(long, env = "WEFT_RUN_DIR")]
    pub(crate) run_dir: PathBuf,
    /// Directory for the last configuration snapshot; must be writable.
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
    /// Address of the metrics endpoint.
    #[arg(long, env = "WEFT_METRICS_ADDRESS", default_value = "0.0.0.0:15020")]
    pub(crate) metrics_address: SocketAddr,
    /// Address of the readiness endpoint.
    #[arg(long, env = "WEFT_READINESS_ADDRESS", default_value = "0.0.0.0:15021")]
    pub(crate) readiness_address: SocketAddr,
    /// Worker threads; default: one for each core that this process may use.
    #[arg(long, env = "WEFT_WORKERS")]
    pub(crate) workers: Option<usize>,
    /// Log filter, for example info or weft_proxy=debug,info.
    #[arg(long, env = "WEFT_LOG", default_value = "info")]
    pub(crate) log_level: String,
    /// Log lines as JSON.
    #[arg(long, env = "WEFT_LOG_JSON")]
    pub(crate) log_json: bool,
}

/// Most workers: each holds its own pool, so more of them split tunnels further than they add cores.
const WORKERS_MAX: usize = 64;

impl Options {
    /// What clap cannot check, as one line that says what to fix.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.node.is_empty() || self.node.contains('/') {
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
        if self.workers == Some(0) || self.workers.is_some_and(|n| n > WORKERS_MAX) {
            return Err(format!("--workers must be 1 to {WORKERS_MAX}"));
        }
        Ok(())
    }

    /// How many worker threads to run.
    pub(crate) fn worker_count(&self) -> usize {
        self.workers.unwrap_or_else(|| {
            std::thread::available_parallelism()
                .map_or(1, usize::from)
                .min(WORKERS_MAX)
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::Options;

    const GOOD: [&str; 13] = [
        "weft-proxy",
        "--node",
        "n1",
        "--run-dir",
        "/run/x",
        "--state-dir",
        "/var/x",
        "--controller",
        "https://127.0.0.1:15012",
        "--root-cert",
        "/x/root.pem",
        "--token-file",
        "/x/token",
    ];

    #[test]
    fn a_bad_value_is_one_line_that_names_the_flag() {
        let options = Options::try_parse_from(GOOD).unwrap();
        assert_eq!(options.check(), Ok(()));
        let check = |change: fn(&mut Options), flag: &str| {
            let mut options = options.clone();
            change(&mut options);
            let error = options.check().unwrap_err();
            assert!(error.starts_with(flag) && !error.contains('\n'), "{error}");
        };
        check(|o| o.node = "a/b".to_owned(), "--node");
        check(|o| o.controller = "http://x".to_owned(), "--controller");
        check(|o| o.workers = Some(0), "--workers");
        check(|o| o.workers = Some(1000), "--workers");
    }
}
