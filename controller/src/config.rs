//! Command line and environment, the same words in both.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

/// Control plane of the mesh: reads resources, tells node proxies and agents, signs certificates.
#[derive(Clone, Debug, Parser)]
#[command(name = "weft-controller", version, about)]
pub(crate) struct Config {
    /// File or directory of YAML to read and watch; may be given several times.
    #[arg(long, env = "WEFT_SOURCE", required = true, value_name = "PATH")]
    pub(crate) source: Vec<PathBuf>,
    /// Address for node proxies and agents; port 0 takes a free one.
    #[arg(
        long,
        env = "WEFT_LISTEN",
        default_value = "0.0.0.0:15012",
        value_name = "ADDR:PORT"
    )]
    pub(crate) listen: SocketAddr,
    /// Folder for the authority's key, cluster IPs and last good files.
    #[arg(long, env = "WEFT_STATE_DIR", value_name = "DIR")]
    pub(crate) state_dir: PathBuf,
    /// Tokens of nodes: a folder of NODE.token files, or one file of "NODE TOKEN" lines. Mode 0600.
    #[arg(long, env = "WEFT_TOKENS", value_name = "PATH")]
    pub(crate) tokens: PathBuf,
    /// Node to make a token for, besides those of Node objects; may be given several times.
    #[arg(
        long = "node",
        env = "WEFT_NODES",
        value_delimiter = ',',
        value_name = "NAME"
    )]
    pub(crate) nodes: Vec<String>,
    /// Where to write the root certificates that clients of the control plane need.
    #[arg(long, env = "WEFT_ROOT_CERT_OUT", value_name = "FILE")]
    pub(crate) root_cert_out: PathBuf,
    /// Where to write the actual address, for port 0.
    #[arg(long, env = "WEFT_ADDRESS_FILE", value_name = "FILE")]
    pub(crate) address_file: Option<PathBuf>,
    /// Name or address for the server's certificate, besides localhost, the service's and the one listened on; may be given several times.
    #[arg(
        long = "server-name",
        env = "WEFT_SERVER_NAMES",
        value_delimiter = ',',
        value_name = "NAME"
    )]
    pub(crate) server_names: Vec<String>,
    /// Folder with ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem, instead of an authority of our own.
    #[arg(long, env = "WEFT_CA_DIR", value_name = "DIR")]
    pub(crate) ca_dir: Option<PathBuf>,
    /// Unix socket for status, configuration and log level.
    #[arg(long, env = "WEFT_ADMIN_SOCKET", value_name = "PATH")]
    pub(crate) admin_socket: Option<PathBuf>,
    /// Address for /metrics and /healthz/ready.
    #[arg(long, env = "WEFT_METRICS_ADDRESS", value_name = "ADDR:PORT")]
    pub(crate) metrics_address: Option<SocketAddr>,
    /// Log filter.
    #[arg(long, env = "WEFT_LOG", default_value = "info", value_name = "FILTER")]
    pub(crate) log: String,
    /// Log as JSON.
    #[arg(long, env = "WEFT_LOG_JSON")]
    pub(crate) log_json: bool,
}
