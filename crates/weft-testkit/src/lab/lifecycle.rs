//! Bringing a lab up, and applying edits while it runs.
//!
//! In: a lab file. Out: a running lab, or nothing at all: what fails half-way is undone. Every
//! step is recorded before the next one, and `down` needs no record, so a crash leaves nothing
//! that `down` does not find. Not here: how each step is done.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::lab::change::Wanted;
use crate::lab::down::{down, require_root};
use crate::lab::file::LabFile;
use crate::lab::instance::{Lab, Progress};
use crate::lab::mount::mount_bpffs;
use crate::lab::place::{Place, Record};
use crate::lab::plan::check_lab_name;
use crate::lab::program::Start;
use crate::lab::source::Resources;
use crate::lab::{programs, ready, start};

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
        check_lab_name(&options.name)?;
        let place = Place::of(&options.name);
        if place.root().exists() {
            bail!(
                "a lab named {0} is up already, or its last one was not taken down: `cargo xtask lab down --name {0}`",
                options.name
            );
        }
        require_root()?;
        // Everything that can be wrong in the file is found before anything is made.
        let wanted = Wanted::new(&options.name, &options.base, file, None)?;
        let mut lab = Self {
            place,
            record: Record {
                file_path: options.file_path.clone(),
                base: options.base.clone(),
                ..Record::default()
            },
            progress: options.progress,
        };
        let outcome = lab.make(&options.build, wanted);
        if let Err(error) = outcome {
            (options.progress)("undoing what was made");
            let hints = lab.log_tails(5).join("\n");
            if let Err(undo) = down(&options.name) {
                return Err(error.context(format!("and the lab could not be undone: {undo:#}")));
            }
            return Err(error.context(format!("lab {} did not come up\n{hints}", options.name)));
        }
        Ok(lab)
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

    /// Notes why the last edit was not applied, or that it was.
    pub fn remember_edit(&mut self, error: Option<String>) -> Result<()> {
        let _lock = self.place.lock()?;
        self.reload()?;
        if self.record.edit_error != error {
            self.record.edit_error = error;
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

    fn make(&mut self, build: &Path, wanted: Wanted) -> Result<()> {
        self.place.make()?;
        let _lock = self.place.lock()?;
        self.remember()?;
        mount_bpffs(&self.place.bpffs())?;
        let (place, record) = (&self.place, &mut self.record);
        programs::keep(build, |folder| {
            folder.clone_into(&mut record.programs);
            place.remember(record)
        })?;
        self.say("wiring namespaces");
        self.topology().make_fabric()?;
        self.write_tokens(&wanted.plan)?;
        // Pods follow when they are wired and have their uids.
        self.change_source(&wanted.without_pods())?;
        self.say("starting the controller");
        self.record.controller = Some(start::controller(self)?);
        self.remember()?;
        ready::wait_for_controller(self)?;
        self.change(wanted)?;
        ready::wait(self)
    }
}
