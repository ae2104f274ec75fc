//! Files to objects: keeps the last good state of each file, and turns one reading of changed files into an [`Update`].
//!
//! A file is good or broken as a whole. Of an object that two files define, the first file's (by path) holds, so that a restart finds the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use weft_k8s_api::{Object, ObjectKey, Parsed};

use super::broken::Broken;
use super::files::Text;
use super::keep::Keep;
use super::{Change, SourceProblem, Update};

const KEPT: &str = "the last good state of this file's objects stays";
/// The effect of a broken file that has no earlier good state.
pub(crate) const NEVER_GOOD: &str = "nothing of this file is used";
const SET_ASIDE: &str = "this object is not used";

/// What is known of the directory.
#[derive(Debug)]
pub(super) struct Directory {
    keep: Keep,
    files: BTreeMap<Arc<Path>, FileState>,
    /// Where each object is defined.
    definitions: HashMap<ObjectKey, Vec<Definition>>,
    /// Objects with more than one definition.
    contested: BTreeSet<ObjectKey>,
}

#[derive(Debug, Default)]
struct FileState {
    /// What was read last, to skip what did not change.
    read: Option<Read>,
    good: Option<Parsed>,
    broken: Broken,
}

/// A text that was not read before.
struct Fresh {
    path: Arc<Path>,
    text: Text,
    read: Read,
    parsed: Result<Parsed, Broken>,
}

/// A hash of a file's text, or why it could not be read.
type Read = Result<[u8; 32], String>;

/// What became of the good state of a file.
enum Taken {
    /// It stays.
    Same,
    /// It is another one.
    Another { before: Option<Parsed> },
}

/// One place that defines an object. Ordered by path and position: the first holds.
#[derive(Debug)]
struct Definition {
    path: Arc<Path>,
    position: usize,
    line: u64,
    object: Object,
}

/// Objects as they were before a reading.
type Before = BTreeMap<ObjectKey, Option<Object>>;

impl Directory {
    pub(super) fn new(keep: Keep) -> Self {
        Self {
            keep,
            files: BTreeMap::new(),
            definitions: HashMap::new(),
            contested: BTreeSet::new(),
        }
    }

    /// Takes in the texts of files that may have changed; those that do not exist any more are gone.
    pub(super) fn take(
        &mut self,
        exists: impl Fn(&Path) -> bool,
        texts: BTreeMap<PathBuf, Text>,
    ) -> Update {
        let mut before = Before::new();
        let gone: Vec<Arc<Path>> = self
            .files
            .keys()
            .filter(|path| !exists(path))
            .cloned()
            .collect();
        for path in gone {
            self.keep.remove(&path);
            let state = self.files.remove(&path).unwrap_or_default();
            self.withdraw(&path, state.good.as_ref(), &mut before);
        }
        for fresh in self.parse_fresh(texts) {
            let path = Arc::clone(&fresh.path);
            let mut state = self.files.remove(&path).unwrap_or_default();
            let taken = state.take(&self.keep, fresh);
            if let Taken::Another { before: old } = taken {
                self.withdraw(&path, old.as_ref(), &mut before);
                self.define(&path, state.good.as_ref(), &mut before);
            }
            self.files.insert(path, state);
        }
        let mut problems = self.file_problems();
        self.tell_contested(&mut problems);
        problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        Update {
            changes: self.difference(before),
            problems,
        }
    }

    /// Parses the texts that are others than before, on all cores: a large mesh is hundreds of files at the start.
    fn parse_fresh(&self, texts: BTreeMap<PathBuf, Text>) -> Vec<Fresh> {
        let mut fresh = Vec::new();
        for (path, text) in texts {
            let path: Arc<Path> = path.into();
            let read = read_of(&text);
            let known = self.files.get(&path).and_then(|state| state.read.as_ref());
            if known != Some(&read) {
                let parsed = Err(Broken::default());
                fresh.push(Fresh {
                    path,
                    text,
                    read,
                    parsed,
                });
            }
        }
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let share = fresh.len().div_ceil(cores).max(1);
        std::thread::scope(|scope| {
            let mut shares = fresh.chunks_mut(share);
            let own = shares.next();
            for share in shares {
                scope.spawn(|| parse_all(share));
            }
            parse_all(own.unwrap_or_default());
        });
        fresh
    }

    fn withdraw(&mut self, path: &Arc<Path>, good: Option<&Parsed>, before: &mut Before) {
        for document in good.iter().flat_map(|good| &good.documents) {
            let key = document.object.key();
            self.remember(&key, before);
            if let Some(definitions) = self.definitions.get_mut(&key) {
                definitions.retain(|definition| definition.path != *path);
                if definitions.len() < 2 {
                    self.contested.remove(&key);
                }
                if definitions.is_empty() {
                    self.definitions.remove(&key);
                }
            }
        }
    }

    fn define(&mut self, path: &Arc<Path>, good: Option<&Parsed>, before: &mut Before) {
        let documents = good.iter().flat_map(|good| &good.documents).enumerate();
        for (position, document) in documents {
            let key = document.object.key();
            self.remember(&key, before);
            let definitions = self.definitions.entry(key.clone()).or_default();
            definitions.push(Definition {
                path: Arc::clone(path),
                position,
                line: document.line,
                object: document.object.clone(),
            });
            if definitions.len() > 1 {
                definitions.sort_by(|a, b| (&a.path, a.position).cmp(&(&b.path, b.position)));
                self.contested.insert(key);
            }
        }
    }

    fn remember(&self, key: &ObjectKey, before: &mut Before) {
        if !before.contains_key(key) {
            before.insert(key.clone(), self.object(key).cloned());
        }
    }

    /// The object as the first definition has it.
    fn object(&self, key: &ObjectKey) -> Option<&Object> {
        let first = self.definitions.get(key)?.first()?;
        Some(&first.object)
    }

    fn difference(&self, before: Before) -> Vec<Change> {
        let (mut gone, mut put) = (Vec::new(), Vec::new());
        for (key, before) in before {
            match (before, self.object(&key)) {
                (Some(_), None) => gone.push(Change::Delete(key)),
                (Some(before), Some(now)) if before.same(now) => {}
                (_, Some(now)) => put.push(Change::Put(now.clone())),
                (None, None) => {}
            }
        }
        gone.append(&mut put);
        gone
    }

    fn file_problems(&self) -> Vec<SourceProblem> {
        let mut problems = Vec::new();
        for (path, state) in &self.files {
            let effect = if state.good.is_some() {
                KEPT
            } else {
                NEVER_GOOD
            };
            let broken = state.broken.errors.iter().map(|error| (error, effect));
            let refused = state.good.iter().flat_map(|good| &good.refused);
            for (error, effect) in broken.chain(refused.map(|error| (error, SET_ASIDE))) {
                problems.push(SourceProblem::of(path.to_path_buf(), error, effect));
            }
            problems.extend(state.broken.neighbours(path, effect));
        }
        problems
    }

    fn tell_contested(&self, problems: &mut Vec<SourceProblem>) {
        for key in &self.contested {
            let Some((first, others)) = self.definitions.get(key).and_then(|all| all.split_first())
            else {
                continue;
            };
            for other in others {
                problems.push(SourceProblem {
                    file: other.path.to_path_buf(),
                    line: other.line,
                    object: Some(key.to_string()),
                    field: "metadata.name".to_owned(),
                    message: format!(
                        "already defined in {}, line {}; rename or remove one of the two",
                        first.path.display(),
                        first.line
                    ),
                    effect: SET_ASIDE,
                });
            }
        }
    }
}

impl FileState {
    /// Takes in the file's text and what it says.
    fn take(&mut self, keep: &Keep, fresh: Fresh) -> Taken {
        let (path, text) = (&fresh.path, &fresh.text);
        let first = self.read.replace(fresh.read).is_none();
        match fresh.parsed {
            Ok(mut good) => {
                if let Ok(text) = text {
                    keep.store(path, text);
                }
                self.broken = Broken::default();
                if let Some(before) = &self.good {
                    share(before, &mut good);
                }
                let before = self.good.replace(good);
                Taken::Another { before }
            }
            Err(broken) => {
                self.broken = broken;
                // Broken since before this program started: what was good then was kept on disk.
                let mut taken = Taken::Same;
                if first && let Some(kept) = keep.load(path) {
                    self.good = weft_k8s_api::parse(&kept).ok();
                    taken = Taken::Another { before: None };
                }
                self.broken.forget_unchanged(self.good.as_ref());
                taken
            }
        }
    }
}

fn read_of(text: &Text) -> Read {
    let hash = |text: &String| Sha256::digest(text).into();
    text.as_ref().map(hash).map_err(Clone::clone)
}

fn parse_all(fresh: &mut [Fresh]) {
    for fresh in fresh {
        fresh.parsed = parse(&fresh.text);
    }
}

/// Keeps the objects that are the same as before, so that there is one copy of each.
fn share(before: &Parsed, now: &mut Parsed) {
    let known = before.documents.iter();
    let known: HashMap<ObjectKey, &Object> = known
        .map(|document| (document.object.key(), &document.object))
        .collect();
    for document in &mut now.documents {
        if let Some(known) = known.get(&document.object.key())
            && known.same(&document.object)
        {
            document.object = (*known).clone();
        }
    }
}

fn parse(text: &Text) -> Result<Parsed, Broken> {
    match text {
        Err(error) => Err(Broken::whole_file(format!("cannot be read: {error}"))),
        // A program that writes in place truncates first: reading that as "no objects" would drop policies for a moment.
        Ok(text) if text.is_empty() => Err(Broken::whole_file(
            "the file is empty; to remove its objects, remove the file".to_owned(),
        )),
        Ok(text) => weft_k8s_api::parse_all(text).map_err(Broken::from),
    }
}

#[cfg(test)]
mod tests;
