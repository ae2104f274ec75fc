//! Files to objects: keeps the last good state of each file, and turns one reading of the directory into an [`Update`].
//!
//! A file is good or broken as a whole. Of an object that two files define, the first file's (by path) holds, so that a restart finds the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use weft_k8s_api::{Object, ObjectKey, ParseError, Parsed};

use super::files::Files;
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
    files: BTreeMap<PathBuf, FileState>,
    /// What the last updates added up to.
    objects: BTreeMap<ObjectKey, Object>,
}

#[derive(Debug, Default)]
struct FileState {
    /// What was read last, to skip what did not change.
    text: Option<Result<String, String>>,
    good: Option<Parsed>,
    errors: Vec<ParseError>,
}

impl Directory {
    pub(super) fn new(keep: Keep) -> Self {
        Self {
            keep,
            files: BTreeMap::new(),
            objects: BTreeMap::new(),
        }
    }

    /// Takes in one reading of all files.
    pub(super) fn take(&mut self, files: Files) -> Update {
        self.files.retain(|path, _| {
            let stays = files.contains_key(path);
            if !stays {
                self.keep.remove(path);
            }
            stays
        });
        for (path, text) in files {
            let state = self.files.entry(path.clone()).or_default();
            if state.text.as_ref() != Some(&text) {
                state.take(&self.keep, &path, text);
            }
        }
        let mut problems = self.file_problems();
        let objects = self.join(&mut problems);
        let changes = difference(&self.objects, &objects);
        self.objects = objects;
        Update { changes, problems }
    }

    fn file_problems(&self) -> Vec<SourceProblem> {
        let mut problems = Vec::new();
        for (path, state) in &self.files {
            let effect = if state.good.is_some() {
                KEPT
            } else {
                NEVER_GOOD
            };
            let broken = state.errors.iter().map(|error| (error, effect));
            let refused = state.good.iter().flat_map(|good| &good.refused);
            for (error, effect) in broken.chain(refused.map(|error| (error, SET_ASIDE))) {
                problems.push(SourceProblem::of(path.clone(), error, effect));
            }
        }
        problems
    }

    fn join(&self, problems: &mut Vec<SourceProblem>) -> BTreeMap<ObjectKey, Object> {
        let mut objects: BTreeMap<ObjectKey, Object> = BTreeMap::new();
        let mut defined_in: BTreeMap<ObjectKey, &Path> = BTreeMap::new();
        for (path, state) in &self.files {
            for document in state.good.iter().flat_map(|good| &good.documents) {
                let key = document.object.key();
                if let Some(first) = defined_in.get(&key) {
                    problems.push(SourceProblem {
                        file: path.clone(),
                        line: document.line,
                        object: Some(key.to_string()),
                        field: "metadata.name".to_owned(),
                        message: format!("already defined in {}", first.display()),
                        effect: SET_ASIDE,
                    });
                    continue;
                }
                defined_in.insert(key.clone(), path);
                objects.insert(key, document.object.clone());
            }
        }
        objects
    }
}

impl FileState {
    fn take(&mut self, keep: &Keep, path: &Path, text: Result<String, String>) {
        let first = self.text.is_none();
        match parse(&text) {
            Ok(good) => {
                if let Ok(text) = &text {
                    keep.store(path, text);
                }
                self.good = Some(good);
                self.errors.clear();
            }
            Err(errors) => {
                // Broken since before this program started: what was good then was kept on disk.
                if first && let Some(kept) = keep.load(path) {
                    self.good = weft_k8s_api::parse(&kept).ok();
                }
                self.errors = errors;
            }
        }
        self.text = Some(text);
    }
}

fn parse(text: &Result<String, String>) -> Result<Parsed, Vec<ParseError>> {
    let whole_file = |message: String| {
        vec![ParseError {
            line: 0,
            object: None,
            field: String::new(),
            message,
        }]
    };
    match text {
        Err(error) => Err(whole_file(format!("cannot be read: {error}"))),
        // A program that writes in place truncates first: reading that as "no objects" would drop policies for a moment.
        Ok(text) if text.is_empty() => Err(whole_file(
            "the file is empty; to remove its objects, remove the file".to_owned(),
        )),
        Ok(text) => weft_k8s_api::parse(text),
    }
}

fn difference(
    before: &BTreeMap<ObjectKey, Object>,
    after: &BTreeMap<ObjectKey, Object>,
) -> Vec<Change> {
    let gone = before
        .keys()
        .filter(|key| !after.contains_key(*key))
        .map(|key| Change::Delete(key.clone()));
    let put = after
        .iter()
        .filter(|(key, object)| !before.get(*key).is_some_and(|old| old.same(object)))
        .map(|(_, object)| Change::Put(object.clone()));
    gone.chain(put).collect()
}

#[cfg(test)]
mod tests;
