//! Where a lab keeps its files, and what it remembers of itself.
//!
//! In: the lab's name. Out: paths, and [`Record`] read from and written to `lab.json`. Not here:
//! what the files mean.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::lab::file::LabFile;
use crate::lab::plan::Plan;
use crate::lab::program::Running;
use crate::lab::settings::Noted;
use crate::wait::{in_vain, until, until_done};

/// Parent of all labs. On tmpfs, so that a machine that restarts remembers none.
const LABS_FOLDER: &str = "/run/weft-lab";

/// Bound of waiting for another command on the same lab or on the store of programs: ten times what the slowest may wait.
const LOCK_LIMIT: Duration = Duration::from_mins(10);

/// The folder of one lab.
#[derive(Clone, Debug)]
pub struct Place {
    name: String,
    root: PathBuf,
}

/// What a lab remembers of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// The lab file, watched for edits; none for a lab that a test built.
    pub file_path: Option<PathBuf>,
    /// Folder against which `resources` are resolved.
    pub base: PathBuf,
    /// Folder of the programs that were copied for this lab.
    pub programs: PathBuf,
    /// The file as it was last applied.
    pub file: LabFile,
    /// The plan that is running.
    pub plan: Plan,
    /// Kubernetes uid of each pod, by `namespace/name`; a pod that is made anew has another one.
    pub uids: BTreeMap<String, String>,
    /// The controller.
    pub controller: Option<Running>,
    /// `weft-node` of each node.
    pub nodes: BTreeMap<String, Running>,
    /// What `run` started, by pod.
    pub pods: BTreeMap<String, Running>,
    /// The command line that each of these was started with. A program may change what `/proc` shows of it.
    #[serde(default)]
    pub commands: BTreeMap<String, Vec<String>>,
    /// Settings of adopted namespaces from before the lab.
    pub adopted_settings: BTreeMap<String, Noted>,
    /// The process that watches the file.
    pub watcher: Option<Running>,
    /// The files in the source folder that are copies, and the files of the user that they were copied from.
    #[serde(default)]
    pub(crate) originals: BTreeMap<String, PathBuf>,
    /// Why the last edit was not applied.
    pub edit_error: Option<String>,
    /// Hash of the file and its resources as the watcher last dealt with them, whether it applied or refused them.
    #[serde(default)]
    pub edit_seen: Option<String>,
    /// The network namespaces made by others that this lab has or is about to take, with their inodes.
    #[serde(default)]
    pub adopted: BTreeMap<String, u64>,
    /// The command that made it, which has not let go of it while it runs.
    #[serde(default)]
    pub owner: Option<Running>,
    /// The test run that made it.
    #[serde(default)]
    pub test_run: Option<String>,
}

/// What somebody who takes a lab down finds after waiting for the others.
pub(crate) enum Turn {
    /// Nobody else works on the lab until the file is dropped.
    Ours(#[expect(dead_code, reason = "held for its lock")] File),
    /// Another command took the lab down meanwhile.
    TakenDown,
    /// There is no lab, or less than a lock of one.
    NoLock,
}

// === impl Place ===

impl Place {
    /// The folder of the lab of that name, which need not exist.
    pub fn of(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            root: Path::new(LABS_FOLDER).join(name),
        }
    }

    /// The names of the labs that left a folder.
    pub fn all() -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(LABS_FOLDER)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// YAML for the controller.
    pub fn source(&self) -> PathBuf {
        self.root.join("source")
    }

    /// One token a node.
    pub fn tokens(&self) -> PathBuf {
        self.root.join("tokens")
    }

    /// The token of a node.
    pub fn token(&self, node: &str) -> PathBuf {
        self.tokens().join(format!("{node}.token"))
    }

    /// The controller's files.
    pub fn controller(&self) -> PathBuf {
        self.root.join("controller")
    }

    /// The certificate with which the controller proves itself.
    pub fn root_certificate(&self) -> PathBuf {
        self.controller().join("root.pem")
    }

    /// The controller's admin socket.
    pub fn controller_admin(&self) -> PathBuf {
        self.controller().join("admin.sock")
    }

    /// Folder of a node.
    pub fn node(&self, node: &str) -> PathBuf {
        self.root.join("n").join(node)
    }

    /// A node's run folder, with its sockets.
    pub fn run(&self, node: &str) -> PathBuf {
        self.node(node).join("run")
    }

    /// What a node keeps over restarts.
    pub fn state(&self, node: &str) -> PathBuf {
        self.node(node).join("state")
    }

    /// Logs of all programs.
    pub fn logs(&self) -> PathBuf {
        self.root.join("log")
    }

    /// Where `weft-node` writes the logs of agent and proxy.
    pub fn node_logs(&self, node: &str) -> PathBuf {
        self.node(node).join("log")
    }

    /// A node's admin socket of `node`, `agent` or `proxy`.
    pub fn admin(&self, node: &str, program: &str) -> PathBuf {
        self.run(node).join(format!("{program}-admin.sock"))
    }

    /// The log of one program.
    pub fn log(&self, program: &str) -> PathBuf {
        self.logs().join(format!("{program}.log"))
    }

    /// The log of what a pod's `run` started.
    pub fn pod_log(&self, namespace: &str, name: &str) -> PathBuf {
        self.log(&format!("pod.{namespace}.{name}"))
    }

    /// A BPF file system of the lab's own: with it go all pins.
    pub fn bpffs(&self) -> PathBuf {
        self.root.join("bpf")
    }

    /// Makes the folder, unless it is there: of two that make labs of one name one does.
    pub(crate) fn claim(&self) -> Result<bool> {
        make_folder(Path::new(LABS_FOLDER), 0o755)?;
        match fs::DirBuilder::new().mode(0o755).create(&self.root) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => {
                Err(error).with_context(|| format!("cannot make {}", self.root.display()))
            }
        }
    }

    /// Makes the folder's fixed children.
    pub fn make(&self) -> Result<()> {
        for folder in [
            self.root.clone(),
            self.source(),
            self.controller(),
            self.root.join("n"),
            self.logs(),
            self.bpffs(),
        ] {
            make_folder(&folder, 0o755)?;
        }
        make_folder(&self.tokens(), 0o700)?;
        let lock = self.lock_path();
        File::create(&lock).with_context(|| format!("cannot make {}", lock.display()))?;
        Ok(())
    }

    /// Reads what the lab remembers.
    pub fn record(&self) -> Result<Record> {
        let path = self.root.join("lab.json");
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "there is no lab named {} (no {})",
                self.name,
                path.display()
            )
        })?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} was written by another version", path.display()))
    }

    /// Writes what the lab remembers.
    pub fn remember(&self, record: &Record) -> Result<()> {
        let text = serde_json::to_string_pretty(record).context("a record is plain data")?;
        write_atomically(&self.root.join("lab.json"), text.as_bytes(), 0o644)
    }

    /// Keeps everyone else from changing the lab until the file is dropped.
    pub fn lock(&self) -> Result<File> {
        let path = self.lock_path();
        // Not made here: the lab may be gone, or be on its way.
        let file = File::options()
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        wait_for_lock(&file, &self.lock_words())?;
        Ok(file)
    }

    /// The same for taking the lab down: no signal ends the wait, and `waits` is called when there is one.
    pub(crate) fn turn_to_take_down(&self, waits: impl FnOnce()) -> Result<Turn> {
        let path = self.lock_path();
        let file = match File::options().write(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Turn::NoLock),
            other => other.with_context(|| format!("cannot open {}", path.display()))?,
        };
        if try_lock(&file).is_err() {
            waits();
            until_done(&self.lock_words(), LOCK_LIMIT, || try_lock(&file))?;
        }
        let ours = file.metadata().context("cannot look at the lock")?;
        // Whoever took the lab down removed the file that we waited for; a later lab has another.
        let current =
            fs::metadata(&path).is_ok_and(|now| (now.dev(), now.ino()) == (ours.dev(), ours.ino()));
        Ok(if current {
            Turn::Ours(file)
        } else {
            Turn::TakenDown
        })
    }

    fn lock_path(&self) -> PathBuf {
        self.root.join("lock")
    }

    fn lock_words(&self) -> String {
        format!("another command to be done with lab {}", self.name)
    }
}

/// Takes the lock of a file when its holder lets go of it; a signal that ends this program ends the wait.
pub(crate) fn wait_for_lock(file: &File, what: &str) -> Result<()> {
    until(what, LOCK_LIMIT, || try_lock(file))
}

fn try_lock(file: &File) -> Result<()> {
    use rustix::fs::{FlockOperation, flock};
    use rustix::io::Errno;
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => bail!("it holds the lock"),
        Err(error) => Err(in_vain(format!("cannot lock: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Makes a folder and its parents with a mode; one that is there is left as it is.
pub fn make_folder(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("cannot make {}", path.display()))
}

/// Replaces a file in one step, so that a watcher never reads half of it.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    // A leading dot keeps readers of a folder away from the unfinished file.
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    let unfinished = path.with_file_name(hidden);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&unfinished)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        fs::rename(&unfinished, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
