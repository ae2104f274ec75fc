//! The real program in a folder of its own, ended when dropped.

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use weft_config::ConfigSettings;
use weft_identity::CaOptions;
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::build_folder;

/// A controller that runs.
pub(crate) struct Controller {
    folder: TempDir,
    child: Child,
    address: String,
}

fn command(folder: &TempDir) -> Command {
    let path = |name: &str| folder.path().join(name);
    let mut command = Command::new(build_folder().join("weft-controller"));
    command
        .arg("--source")
        .arg(path("source"))
        .args(["--listen", "127.0.0.1:0"])
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
        Self::start(folder_with(files))
    }

    fn start(folder: TempDir) -> Self {
        let address = folder.path().join("address");
        let _ = std::fs::remove_file(&address);
        let child = command(&folder).spawn().unwrap();
        let mut this = Self {
            folder,
            child,
            address: String::new(),
        };
        this.address = until("the controller to serve", LONG, || {
            Ok(std::fs::read_to_string(&address)?.trim().to_owned())
        })
        .unwrap();
        this
    }

    /// Ends it without warning and starts another one over the same folder.
    pub(crate) fn restart(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        Self::start(folder)
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }

    /// Replaces a file of the source in one step.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let source = self.folder.path().join("source");
        let beside = source.join(format!(".{name}.new"));
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, source.join(name)).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.folder.path().join("source").join(name)).unwrap();
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
