//! The real program in a folder of its own, ended when dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use weft_config::ConfigSettings;
use weft_identity::CaOptions;
use weft_testkit::netns::Netns;
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::build_folder;

/// A controller that runs.
pub(crate) struct Controller {
    folder: TempDir,
    child: Child,
    address: String,
    started: Duration,
    flags: Vec<String>,
    netns: Option<Netns>,
}

/// Another build than the tests' own, to measure it.
fn program() -> PathBuf {
    let other = std::env::var_os("WEFT_TEST_CONTROLLER");
    other.map_or_else(|| build_folder().join("weft-controller"), PathBuf::from)
}

fn command(folder: &TempDir) -> Command {
    let path = |name: &str| folder.path().join(name);
    let mut command = Command::new(program());
    command
        .arg("--source")
        .arg(path("source"))
        .arg("--state-dir")
        .arg(path("state"))
        .arg("--tokens")
        .arg(path("tokens"))
        .arg("--root-cert-out")
        .arg(path("root.pem"))
        .arg("--address-file")
        .arg(path("address"))
        .arg("--admin-socket")
        .arg(path("admin.sock"))
        // Not as a flag, which a test could not give in its place.
        .env("WEFT_LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null());
    command
}

fn folder_with(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("source")).unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join("source").join(name), text).unwrap();
    }
    folder
}

/// How it ends with these files and further flags, which take the place of earlier ones: exit code and standard error.
pub(crate) fn refused(files: &[(&str, &str)], flags: &[&str]) -> (Option<i32>, String) {
    let folder = folder_with(files);
    let mut command = command(&folder);
    // A flag that is given twice is an error of its own: leave out the first.
    let replaced = flags.first().copied().unwrap_or_default();
    let kept: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let position = kept.iter().position(|word| word == replaced);
    let mut again = Command::new(command.get_program());
    let set = command.get_envs();
    again.envs(set.filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))));
    for (index, word) in kept.iter().enumerate() {
        let left_out = position.is_some_and(|at| index == at || index == at + 1);
        if !left_out {
            again.arg(word);
        }
    }
    command = again;
    let output = command.args(flags).stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), stderr)
}

impl Controller {
    /// Starts over a source of these files, and waits until it serves.
    pub(crate) fn with(files: &[(&str, &str)]) -> Self {
        Self::start(folder_with(files), Vec::new(), None)
    }

    /// The same with more flags.
    pub(crate) fn with_flags(files: &[(&str, &str)], flags: &[&str]) -> Self {
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        Self::start(folder_with(files), flags, None)
    }

    /// Starts in a network namespace, to which no client reaches.
    pub(crate) fn inside(netns: &Netns, files: &[(&str, &str)], flags: &[&str]) -> Self {
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let netns = Netns::named(netns.name());
        Self::start(folder_with(files), flags, Some(netns))
    }

    /// Starts over a source that the caller writes.
    pub(crate) fn over(write: impl FnOnce(&Path)) -> Self {
        let folder = folder_with(&[]);
        write(&folder.path().join("source"));
        Self::start(folder, Vec::new(), None)
    }

    fn start(folder: TempDir, flags: Vec<String>, netns: Option<Netns>) -> Self {
        let address = folder.path().join("address");
        let _ = std::fs::remove_file(&address);
        let spawn = || Ok(command(&folder).args(&flags).spawn()?);
        let child = match &netns {
            Some(netns) => netns.enter(spawn),
            None => spawn(),
        };
        let child = child.unwrap();
        let mut this = Self {
            folder,
            child,
            address: String::new(),
            started: Duration::ZERO,
            flags,
            netns,
        };
        let before = Instant::now();
        this.address = until("the controller to serve", 10 * LONG, || {
            Ok(std::fs::read_to_string(&address)?.trim().to_owned())
        })
        .unwrap();
        this.started = before.elapsed();
        this
    }

    /// How long it took from its start until it served.
    pub(crate) fn started(&self) -> Duration {
        self.started
    }

    /// Its resident memory, now and at its largest.
    pub(crate) fn memory(&self) -> String {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(status).unwrap_or_default();
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes =
                line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            kilobytes.unwrap_or_default() / 1024
        };
        format!("{} MiB, {} MiB at most", line("VmRSS:"), line("VmHWM:"))
    }

    /// Ends it without warning and starts another one over the same folder.
    pub(crate) fn restart(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        let flags = std::mem::take(&mut self.flags);
        let netns = self.netns.take();
        Self::start(folder, flags, netns)
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    /// Replaces a file of the source in one step; returns when that was.
    pub(crate) fn write(&self, name: &str, text: &str) -> Instant {
        let source = self.source();
        let beside = source.join(format!(".{name}.new"));
        std::fs::write(&beside, text).unwrap();
        let written = Instant::now();
        std::fs::rename(beside, source.join(name)).unwrap();
        written
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.source().join(name)).unwrap();
    }

    pub(crate) fn token(&self, node: &str) -> PathBuf {
        self.folder
            .path()
            .join("tokens")
            .join(format!("{node}.token"))
    }

    pub(crate) fn token_text(&self, node: &str) -> String {
        std::fs::read_to_string(self.token(node)).unwrap()
    }

    /// A token of the right form that nobody was given.
    pub(crate) fn forged_token(&self) -> PathBuf {
        let path = self.folder.path().join("forged");
        std::fs::write(&path, "0".repeat(64)).unwrap();
        path
    }

    /// How a program of a node connects.
    pub(crate) fn client(&self, node: &str) -> ConfigSettings {
        let url = format!("https://{}", self.address);
        let root = self.folder.path().join("root.pem");
        ConfigSettings::new(url, root, self.token(node), node.into())
    }

    /// How a proxy of a node asks for certificates.
    pub(crate) fn ca(&self, node: &str) -> CaOptions {
        CaOptions {
            address: format!("https://{}", self.address),
            root_cert: self.folder.path().join("root.pem"),
            token: self.token(node),
            cluster: "Kubernetes".to_owned(),
        }
    }

    pub(crate) fn admin(&self, path: &str) -> String {
        let socket = self.folder.path().join("admin.sock");
        weft_testkit::admin::get(&socket, path).unwrap()
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.admin("/status")).unwrap()
    }

    /// Waits for a problem of the source with this field.
    pub(crate) fn problem(&self, field: &str) -> Value {
        until("the problem to show", LONG, || {
            let status = self.status();
            let problems = status["source"]["problems"].as_array().unwrap();
            let found = problems.iter().find(|problem| problem["field"] == field);
            found.cloned().ok_or_else(|| anyhow::anyhow!("{status:#}"))
        })
        .unwrap()
    }

    /// Waits until the source has no problem.
    pub(crate) fn no_problems(&self) {
        until("the problems to end", LONG, || {
            let status = self.status();
            let problems = status["source"]["problems"].as_array().unwrap();
            anyhow::ensure!(problems.is_empty(), "{problems:?}");
            Ok(())
        })
        .unwrap();
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
