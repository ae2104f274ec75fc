//! The other proxy: haproxy as a mutual-TLS TCP proxy on either side.
//!
//! In: the two pods. Out: two running processes. Not here: tuning; the settings are the defaults
//! of a packaged haproxy, which uses one thread for each core.
//!
//! Each runs inside its pod and is reached over loopback: the same wires as the mesh, whose
//! sockets lie in the pods too, and the shortest way that this proxy can have.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use weft_testkit::lab::program::{Running, Start};
use weft_testkit::netns::Netns;

use super::field::{ECHO, HTTP, IPERF, find};
use crate::shell;

/// Added to a server's port on the way between the two.
const TLS_PORTS: u16 = 20_000;

const DEFAULTS: &str = "global\n  maxconn 8000\n  ssl-default-bind-options ssl-min-ver TLSv1.3\n\
                        defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n";

/// Starts both sides.
pub(crate) fn start(
    lab: &str,
    folder: &Path,
    client: &Netns,
    server: &Netns,
    server_address: IpAddr,
) -> Result<Vec<Running>> {
    let certificate = make_certificate(folder)?;
    let certificate = certificate.display();
    let tls = format!("verify required ca-file {certificate} crt {certificate}");
    let (mut near, mut far) = (DEFAULTS.to_owned(), DEFAULTS.to_owned());
    for port in [IPERF, HTTP, ECHO] {
        let between = TLS_PORTS + port;
        write!(
            near,
            "listen p{port}\n  bind 127.0.0.1:{port}\n  server s {server_address}:{between} ssl {tls}\n"
        )?;
        // The server listens on every address of the pod, loopback among them; the echo server
        // on the pod's own alone.
        write!(
            far,
            "listen p{port}\n  bind {server_address}:{between} ssl {tls}\n  server s {server_address}:{port}\n"
        )?;
    }
    let run = |name: &str, netns: &Netns, text: String| -> Result<Running> {
        let configuration = folder.join(format!("{name}.cfg"));
        std::fs::write(&configuration, text)?;
        let arguments = vec![
            "-db".to_owned(),
            "-f".to_owned(),
            configuration.display().to_string(),
        ];
        let log = folder.join(format!("{name}.log"));
        let program = find("haproxy");
        Start {
            lab,
            netns: Some(netns),
            program,
            arguments,
            log,
        }
        .start()
    };
    Ok(vec![
        run("haproxy-near", client, near)?,
        run("haproxy-far", server, far)?,
    ])
}

/// A P-256 key like the mesh's, and a certificate that is its own authority, in one file.
fn make_certificate(folder: &Path) -> Result<PathBuf> {
    let (key, certificate) = (folder.join("key.pem"), folder.join("certificate.pem"));
    let mut command = Command::new("openssl");
    command
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args(["-nodes", "-days", "2", "-subj", "/CN=bench", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null());
    shell::run(&mut command)?;
    let both = folder.join("both.pem");
    let text = std::fs::read_to_string(&certificate)? + &std::fs::read_to_string(&key)?;
    std::fs::write(&both, text).context("cannot write the certificate")?;
    Ok(both)
}
