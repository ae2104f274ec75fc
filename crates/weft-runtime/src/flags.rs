//! The command line: flags that several programs have, and the one way in which a wrong one ends.
//!
//! In: arguments and environment. Out: parsed flags, or one line and exit code 64.
//! Not here: flags of one program, and what a flag may hold there.

use std::path::PathBuf;

use clap::{Args, Parser};

use crate::exit::exit_config;

/// Flags of the programs that `weft-node` starts, as it passes them on.
#[derive(Args, Clone, Debug)]
pub struct NodeFlags {
    /// Name of this node, as the controller knows it.
    #[arg(long, env = "WEFT_NODE")]
    pub node: String,
    /// Directory of sockets, shared with weft-node.
    #[arg(long, env = "WEFT_RUN_DIR")]
    pub run_dir: PathBuf,
    /// Directory for what survives a restart; must be writable.
    #[arg(long, env = "WEFT_STATE_DIR")]
    pub state_dir: PathBuf,
    /// Controller, as https://HOST:PORT.
    #[arg(long, env = "WEFT_CONTROLLER")]
    pub controller: String,
    /// PEM file with the roots that the controller's certificate must chain to.
    #[arg(long, env = "WEFT_ROOT_CERT")]
    pub root_cert: PathBuf,
    /// File with this node's bearer token.
    #[arg(long, env = "WEFT_TOKEN_FILE")]
    pub token_file: PathBuf,
    /// Log filter, for example info or weft_proxy=debug,info.
    #[arg(long, env = "WEFT_LOG", default_value = "info")]
    pub log_level: String,
    /// Log lines as JSON.
    #[arg(long, env = "WEFT_LOG_JSON")]
    pub log_json: bool,
}

impl NodeFlags {
    /// What clap cannot check, as one line that says what to fix.
    pub fn check(&self) -> Result<(), String> {
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
        Ok(())
    }
}

/// Parses the command line. Help and version are printed; what cannot be used is one line and exit code 64.
pub fn parse_or_exit<T: Parser>() -> T {
    T::try_parse().unwrap_or_else(|error| {
        if error.use_stderr() {
            exit_config(error);
        }
        error.exit()
    })
}
