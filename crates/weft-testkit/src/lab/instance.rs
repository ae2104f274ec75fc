//! A lab that was brought up: its folder, what it remembers, where its pods are.
//!
//! In: the lab's name. Out: [`Lab`], on which the other modules work. Not here: changing it
//! (`lifecycle`, `upgrade`).

use anyhow::{Context as _, Result, bail};

use crate::lab::place::{Place, Record};
use crate::lab::plan::{PlannedPod, check_lab_name};
use crate::lab::program::tail;
use crate::lab::topology::Topology;

/// A lab that runs.
pub struct Lab {
    pub(crate) place: Place,
    pub(crate) record: Record,
    pub(crate) progress: Progress,
}

/// Where lines of progress go.
pub type Progress = fn(&str);

// === impl Lab ===

impl Lab {
    /// A lab that was brought up before.
    pub fn open(name: &str, progress: Progress) -> Result<Self> {
        check_lab_name(name)?;
        let place = Place::of(name);
        if !place.root().exists() {
            bail!("there is no lab named {name}; {}", those_that_are());
        }
        let record = place.record()?;
        Ok(Self {
            place,
            record,
            progress,
        })
    }

    /// Reads the records again, as another process may have written them.
    pub(crate) fn reload(&mut self) -> Result<()> {
        self.record = self.place.record()?;
        Ok(())
    }

    /// Where it keeps its files.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its namespaces.
    pub fn topology(&self) -> Topology {
        Topology::of(self.place.name())
    }

    /// What it remembers.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// A pod by `name` or `namespace/name`.
    pub fn pod(&self, name: &str) -> Result<&PlannedPod> {
        let key = if name.contains('/') {
            name.to_owned()
        } else {
            format!("default/{name}")
        };
        self.record
            .plan
            .pods
            .iter()
            .find(|pod| pod.entry.key() == key)
            .with_context(|| format!("the lab has no pod {key}"))
    }

    /// The last lines of every log of the lab's programs, under their names in the lab's folder: it may be gone when this is read.
    pub fn log_tails(&self, lines: usize) -> Vec<String> {
        let mut folders = vec![self.place.logs()];
        let nodes = self.record.plan.nodes.iter();
        folders.extend(nodes.map(|node| self.place.node_logs(&node.name)));
        let mut found = Vec::new();
        for folder in folders {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let text = tail(&entry.path(), lines);
                if !text.is_empty() {
                    let path = entry.path();
                    let name = path.strip_prefix(self.place.root()).unwrap_or(&path);
                    found.push(format!("end of {}:", name.display()));
                    found.push(text);
                }
            }
        }
        found
    }

    pub(crate) fn remember(&self) -> Result<()> {
        self.place.remember(&self.record)
    }

    pub(crate) fn say(&self, text: &str) {
        (self.progress)(text);
    }
}

fn those_that_are() -> String {
    let names = Place::all();
    match names.as_slice() {
        [] => "none is up".to_owned(),
        _ => format!("labs that are: {}", names.join(", ")),
    }
}
