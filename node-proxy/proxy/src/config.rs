//! Flags and environment of the program, checked before anything starts.
//!
//! In: the command line that `weft-node` gives. Out: [`Options`]. Not here: the mesh's settings, which come from the controller.

use std::net::SocketAddr;

use clap::Parser;
use weft_runtime::NodeFlags;

/// Unprivileged L4 proxy of one node: keys, bytes, policy, tunnels. Started by weft-node.
#[derive(Clone, Debug, Parser)]
#[command(name = "weft-proxy", version)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) common: NodeFlags,
    /// Address of the metrics endpoint.
    #[arg(long, env = "WEFT_METRICS_ADDRESS", default_value = "0.0.0.0:15020")]
    pub(crate) metrics_address: SocketAddr,
    /// Address of the readiness endpoint.
    #[arg(long, env = "WEFT_READINESS_ADDRESS", default_value = "0.0.0.0:15021")]
    pub(crate) readiness_address: SocketAddr,
    /// Worker threads; default: one for each core that this process may use.
    #[arg(long, env = "WEFT_WORKERS")]
    pub(crate) workers: Option<usize>,
}

/// Most workers: each holds its own pool, so more of them split tunnels further than they add cores.
const WORKERS_MAX: usize = 64;

impl Options {
    /// What clap cannot check, as one line that says what to fix.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.common.check()?;
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
        check(|o| o.common.node = "a/b".to_owned(), "--node");
        check(
            |o| o.common.controller = "http://x".to_owned(),
            "--controller",
        );
        check(|o| o.workers = Some(0), "--workers");
        check(|o| o.workers = Some(1000), "--workers");
    }
}
