//! Which state of the lab file and its resources the watcher has dealt with, and whether a newer one waits.
//!
//! In: files. Out: one hash of all that an edit can change. Not here: applying edits.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::path::Path;

use serde_json::{Value, json};

use crate::lab::file::LabFile;
use crate::lab::instance::Lab;
use crate::lab::program::Running;
use crate::lab::source::Resources;

/// The state of the files as they are now. What cannot be read counts as a state as well.
pub(crate) fn state(file_path: &Path, base: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    let text = std::fs::read_to_string(file_path).map_err(|error| error.to_string());
    text.hash(&mut hasher);
    if let Ok(file) = text
        .map_err(anyhow::Error::msg)
        .and_then(|text| LabFile::parse(&text))
    {
        match Resources::read(base, &file.resources) {
            Ok(resources) => resources.hash(&mut hasher),
            Err(error) => format!("{error:#}").hash(&mut hasher),
        }
    }
    format!("{:016x}", hasher.finish())
}

/// The state of the files when they say what was read of them before; none when they were changed since, or are not watched.
pub(crate) fn seen_as(file_path: Option<&Path>, base: &Path, file: &LabFile) -> Option<String> {
    let path = file_path?;
    let state = state(path, base);
    let same = LabFile::read(path).is_ok_and(|now| now == *file);
    same.then_some(state)
}

/// The fate of the last edit, for `status`: `applied` says that none was refused, `pending` that one is still being
/// waited for, `watched` that somebody is there to apply it.
pub(crate) fn describe(lab: &Lab) -> Value {
    let record = lab.record();
    let mut edit = match &record.edit_error {
        Some(error) => json!({"applied": false, "error": error}),
        None => json!({"applied": true}),
    };
    let pending = record
        .file_path
        .as_ref()
        .is_some_and(|path| record.edit_seen != Some(state(path, &record.base)));
    edit["pending"] = json!(pending);
    edit["watched"] = json!(record.watcher.is_some_and(Running::alive));
    edit
}
