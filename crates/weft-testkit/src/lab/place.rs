//! Where a lab keeps its files, and what it remembers of itself.
//!
//! In: the lab's name. Out: paths, and [`Record`] read from and written to `lab.json`. Not here:
//! what the files mean.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::lab::file::LabFile;
use crate::lab::plan::Plan;
use crate::lab::program::Running;
use crate::lab::settings::Noted;

/// Parent of all labs. On tmpfs, so that a machine that restarts remembers none.
const LABS_FOLDER: &str = "/run/weft-lab";

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
    /// Settings of adopted namespaces from before the lab.
    pub adopted_settings: BTreeMap<String, Noted>,
    /// The process that watches the file.
    pub watcher: Option<Running>,
    /// Why the last edit was not applied.
    pub edit_error: Option<String>,
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

    /// A BPF file system of the lab's own: with it go all pins.
    pub fn bpffs(&self) -> PathBuf {
        self.root.join("bpf")
    }

    /// Makes the folder and its fixed children.
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
        make_folder(&self.tokens(), 0o700)
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
        let path = self.root.join("lock");
        let file =
            File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
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
