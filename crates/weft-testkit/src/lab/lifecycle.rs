//! Bringing a lab up, and applying edits while it runs.
//!
//! In: a lab file. Out: a running lab, or nothing at all: what fails half-way is undone. Every
//! step is recorded before the next one, and `down` needs no record, so a crash leaves nothing
//! that `down` does not find. Not here: how each step is done.

use std::path::{Path, PathBuf};

use anyhow::{Error, Result, anyhow, ensure};

use crate::interrupt::Interrupted;
use crate::lab::change::Wanted;
use crate::lab::down::{down, require_root};
use crate::lab::file::LabFile;
use crate::lab::instance::{Lab, Progress};
use crate::lab::mount::mount_bpffs;
use crate::lab::place::{Place, Record};
use crate::lab::plan::check_lab_name;
use crate::lab::program::{Running, Start, TEST_RUN};
use crate::lab::source::Resources;
use crate::lab::{edit, programs, ready, start};

/// What a lab is made from.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name.
    pub name: String,
    /// Folder with the programs of the build to run.
    pub build: PathBuf,
    /// The file to watch for edits; none where the caller applies edits itself.
    pub file_path: Option<PathBuf>,
    /// Folder against which `resources` are resolved.
    pub base: PathBuf,
    /// Where lines of progress go.
    pub progress: Progress,
}

// === impl Lab ===

impl Lab {
    /// Brings a lab up and waits until every pod is enrolled and has its certificate. What fails
    /// is undone.
    pub fn up(options: &Options, file: LabFile) -> Result<Self> {
        Self::up_watched(options, file, |_| Ok(()))
    }

    /// The same; `wired` is called when nodes are there and no pod is yet, so that whoever records what passes between
    /// them misses nothing.
    pub fn up_watched(
        options: &Options,
        file: LabFile,
        wired: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<Self> {
        check_lab_name(&options.name)?;
        let place = Place::of(&options.name);
        let taken = format!(
            "a lab named {0} is up already, or its last one was not taken down: `cargo xtask lab down --name {0}`",
            options.name
        );
        ensure!(!place.root().exists(), "{taken}");
        require_root()?;
        // Everything that can be wrong in the file is found before anything is made.
        let seen = edit::seen_as(options.file_path.as_deref(), &options.base, &file);
        let wanted = Wanted::new(&options.name, &options.base, file, None)?;
        let mut lab = Self {
            place,
            record: Record {
                file_path: options.file_path.clone(),
                base: options.base.clone(),
                edit_seen: seen,
                owner: Running::of(std::process::id().cast_signed()),
                test_run: std::env::var(TEST_RUN).ok(),
                ..Record::default()
            },
            progress: options.progress,
        };
        // Another command may have taken the name meanwhile: that lab is not ours to undo.
        ensure!(lab.place.claim()?, "{taken}");
        match lab.make(&options.build, wanted, wired) {
            Ok(()) => Ok(lab),
            Err(error) => Err(lab.undo(error)),
        }
    }

    /// Takes down what was made before an error, and says so.
    fn undo(&self, error: Error) -> Error {
        let name = self.place.name();
        self.say("undoing what was made");
        let said = self.with_originals(&format!("{error:#}"));
        let logs = self.log_tails(5);
        if let Err(undo) = down(name) {
            return error.context(format!("and the lab could not be undone: {undo:#}"));
        }
        if error.is::<Interrupted>() {
            return error.context(format!("lab {name} was taken down again"));
        }
        let reason = format!("lab {name} did not come up: {said}");
        if logs.is_empty() {
            return anyhow!(reason);
        }
        // The reason comes last, where it is read: what the programs said may have nothing to do with it.
        let logs = self.with_originals(&logs.join("\n"));
        anyhow!("lab {name} did not come up; what its programs said last:\n{logs}\n{reason}")
    }

    /// Changes the lab to what the file says now. An error leaves the part that was not reached
    /// as it was; one in the file itself leaves everything.
    pub fn apply(&mut self, file: LabFile) -> Result<()> {
        let _lock = self.place.lock()?;
        self.reload()?;
        let wanted = Wanted::new(
            self.place.name(),
            &self.record.base,
            file,
            Some(&self.record.plan),
        )?;
        self.adopt(&wanted.adopted)?;
        self.change(wanted)?;
        ready::wait(self)
    }

    /// Whether a file, or the resources that it names, say something else than what runs.
    pub fn differs_from(&self, file: &LabFile) -> Result<bool> {
        if self.record.file != *file || self.record.edit_error.is_some() {
            return Ok(true);
        }
        let resources = Resources::read(&self.record.base, &file.resources)?;
        Ok(!resources.are_in(&self.place.source()))
    }

    /// Notes which state of the file and its resources was dealt with, and why it was not applied, or that it was.
    pub fn remember_edit(&mut self, seen: String, error: Option<String>) -> Result<()> {
        let _lock = self.place.lock()?;
        self.reload()?;
        let seen = Some(seen);
        if self.record.edit_error != error || self.record.edit_seen != seen {
            self.record.edit_error = error;
            self.record.edit_seen = seen;
            self.remember()?;
        }
        Ok(())
    }

    /// Starts a node's `weft-node` again after it died, as the kubelet would; agent and proxy may
    /// still run.
    pub fn restart_node(&mut self, node: &str) -> Result<()> {
        let running = start::node(self, node)?;
        self.record.nodes.insert(node.to_owned(), running);
        self.remember()?;
        ready::wait_for_holder(self, node)
    }

    /// Starts the process that applies edits of the file: this program with other arguments.
    pub fn start_watcher(&mut self, arguments: Vec<String>) -> Result<()> {
        let watcher = Start {
            lab: self.place.name(),
            netns: None,
            // Found even when a build has replaced the file meanwhile.
            program: "/proc/self/exe".into(),
            arguments,
            log: self.place.log("watcher"),
        }
        .start()?;
        self.record.watcher = Some(watcher);
        self.remember()
    }

    fn make(
        &mut self,
        build: &Path,
        wanted: Wanted,
        wired: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        self.place.make()?;
        let _lock = self.place.lock()?;
        self.remember()?;
        self.adopt(&wanted.adopted)?;
        mount_bpffs(&self.place.bpffs())?;
        let (place, record) = (&self.place, &mut self.record);
        programs::keep(build, |folder| {
            folder.clone_into(&mut record.programs);
            place.remember(record)
        })?;
        self.say("wiring network namespaces");
        self.topology().make_fabric()?;
        self.write_tokens(&wanted.plan)?;
        // Pods follow when they are wired and have their uids.
        self.change_source(&wanted.without_pods())?;
        self.say("starting the controller");
        self.record.controller = Some(start::controller(self)?);
        self.remember()?;
        ready::wait_for_controller(self)?;
        self.change(wanted.without_pods())?;
        wired(self)?;
        self.change(wanted)?;
        ready::wait(self)
    }
}
