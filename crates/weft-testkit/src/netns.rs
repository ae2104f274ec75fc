//! Network namespaces: making, naming, wiring and entering them.
//!
//! In: namespace names as `ip netns` knows them, lines for `ip -batch`. Out: namespaces under
//! `/run/netns`, threads and programs that run inside one. Wiring goes through one `ip -batch`
//! call for each namespace: as quick as talking netlink for the sizes of a test, and a person can
//! repeat by hand what it did. Not here: what a lab's topology looks like.

use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Deserialize;

use crate::interrupt;

/// Where `ip netns` keeps the names.
const NETNS_FOLDER: &str = "/run/netns";

/// A namespace with a name under `/run/netns`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Netns(String);

// === impl Netns ===

impl Netns {
    /// The namespace of that name, which need not exist.
    pub fn named(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// Makes a namespace with its loopback interface up and duplicate address detection off.
    pub fn create(name: impl Into<String>) -> Result<Self> {
        interrupt::check()?;
        let this = Self(name.into());
        ip(&["netns", "add", this.name()])?;
        this.enter(|| {
            // An address is usable at once; nothing else shares these segments.
            for scope in ["all", "default"] {
                let path = format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad");
                if Path::new(&path).exists() {
                    std::fs::write(&path, "0").with_context(|| format!("cannot write {path}"))?;
                }
            }
            Ok(())
        })?;
        this.ip_batch("link set lo up\n")?;
        Ok(this)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The path by which others open it.
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_FOLDER).join(&self.0)
    }

    /// Whether a namespace of this name is there.
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// The inode that tells namespaces apart, as in `/proc/PID/ns/net`.
    pub fn inode(&self) -> Result<u64> {
        let path = self.path();
        Ok(std::fs::metadata(&path)
            .with_context(|| format!("cannot look at {}", path.display()))?
            .ino())
    }

    /// Removes the name; the namespace ends with the last process and socket in it.
    /// A name that is not there is no error.
    pub fn delete(&self) -> Result<()> {
        if !self.exists() {
            return Ok(());
        }
        ip(&["netns", "del", self.name()])
    }

    /// Runs a closure on a thread of its own inside this namespace and waits for it.
    ///
    /// Sockets made there stay in the namespace wherever they are used afterwards, and a program
    /// started there runs in it; nothing but the network namespace changes.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.move_thread()?;
                    work()
                })
                .join()
                .map_err(|_| anyhow!("a thread inside {} panicked", self.0))?
        })
    }

    /// Starts a named thread inside this namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let this = self.clone();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                this.move_thread()?;
                work()
            })
            .context("cannot start a thread")
    }

    /// Runs `ip -batch` inside this namespace; the first line that fails ends it.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        let mut child = ip_command()
            .args(["-n", &self.0, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start ip: install iproute2")?;
        child
            .stdin
            .take()
            .expect("stdin is piped")
            .write_all(lines.as_bytes())
            .context("ip -batch ended early")?;
        let output = child.wait_with_output().context("ip -batch is gone")?;
        if !output.status.success() {
            bail!(
                "cannot wire network namespace {}: {}",
                self.0,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    /// Its global unicast addresses in the order of its interfaces, loopback left out.
    pub fn global_addresses(&self) -> Result<Vec<IpAddr>> {
        let output = ip_command()
            .args(["-n", &self.0, "-json", "address", "show", "scope", "global"])
            .stdin(Stdio::null())
            .output()
            .context("cannot start ip: install iproute2")?;
        if !output.status.success() {
            bail!(
                "cannot read the addresses of network namespace {}: {}",
                self.0,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        parse_addresses(&output.stdout)
    }

    fn move_thread(&self) -> Result<()> {
        let path = self.path();
        let file = File::open(&path)
            .with_context(|| format!("no network namespace at {}", path.display()))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter {}: root is needed", path.display()))
    }
}

/// Every named namespace whose name begins so.
pub fn with_prefix(prefix: &str) -> Vec<Netns> {
    let Ok(entries) = std::fs::read_dir(NETNS_FOLDER) else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .map(Netns)
        .collect();
    found.sort();
    found
}

/// A single-threaded runtime, so that everything that it opens is in its thread's namespace.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")
}

/// Whether this kernel has IPv6 switched on.
pub fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// In a process group of its own: Ctrl-C must not end it half-way, least of all while a lab is taken down.
fn ip_command() -> Command {
    let mut command = Command::new("ip");
    command.process_group(0);
    command
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = ip_command()
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("cannot start ip: install iproute2")?;
    if !output.status.success() {
        bail!(
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[derive(Deserialize)]
struct Link {
    #[serde(default)]
    addr_info: Vec<Address>,
    #[serde(default)]
    flags: Vec<String>,
}

#[derive(Deserialize)]
struct Address {
    local: Option<IpAddr>,
    #[serde(default)]
    scope: String,
}

fn parse_addresses(json: &[u8]) -> Result<Vec<IpAddr>> {
    if json.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let links: Vec<Link> =
        serde_json::from_slice(json).context("ip wrote addresses in a form that is not known")?;
    Ok(links
        .into_iter()
        .filter(|link| !link.flags.iter().any(|flag| flag == "LOOPBACK"))
        .flat_map(|link| link.addr_info)
        .filter(|address| address.scope == "global")
        .filter_map(|address| address.local)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_loopback_and_link_local_are_left_out() {
        let json = br#"[{"flags":["LOOPBACK","UP"],"addr_info":[{"local":"10.1.1.1","scope":"global"}]},
            {"flags":["UP"],"addr_info":[{"local":"10.77.0.10","scope":"global"},{"local":"fe80::1","scope":"link"},{"local":"fd77::a","scope":"global"}]},{}]"#;
        let found = parse_addresses(json).unwrap();
        assert_eq!(
            found,
            vec![
                "10.77.0.10".parse::<IpAddr>().unwrap(),
                "fd77::a".parse().unwrap()
            ]
        );
    }

    #[test]
    fn no_output_means_no_address() {
        assert!(parse_addresses(b" \n").unwrap().is_empty());
    }
}
