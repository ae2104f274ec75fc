//! Where objects come from. In: a directory of YAML. Out: [`Update`]s, typed and valid objects with what changed since the last one.
//!
//! Every source speaks [`Update`] and nothing else, so what follows it never knows which one it is.
//! Not here: what objects mean together (`index`, `translate`).

mod broken;
mod directory;
mod files;
mod keep;
mod watch;

use std::path::PathBuf;

use serde::Serialize;
use weft_k8s_api::{Object, ObjectKey, ParseError};

pub(crate) use directory::NEVER_GOOD;
pub(crate) use watch::{WatchError, watch};

/// What changed since the last update, and everything that is wrong now.
#[derive(Debug, Default)]
pub(crate) struct Update {
    /// Objects that are new, different or gone.
    pub(crate) changes: Vec<Change>,
    /// All problems of the source as it is now, not only new ones.
    pub(crate) problems: Vec<SourceProblem>,
}

/// One object.
#[derive(Debug, PartialEq)]
pub(crate) enum Change {
    /// It is new or different.
    Put(Object),
    /// It is gone.
    Delete(ObjectKey),
}

/// Something that a source cannot accept. Its objects keep their last good state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct SourceProblem {
    /// File, as it was found.
    pub(crate) file: PathBuf,
    /// Line, from 1; 0 when it is about the whole file.
    pub(crate) line: u64,
    /// Object, as far as it was recognised.
    pub(crate) object: Option<String>,
    /// Field; empty when it is about the whole object.
    pub(crate) field: String,
    /// What is wrong, and what to do.
    pub(crate) message: String,
    /// What holds instead.
    pub(crate) effect: &'static str,
}

impl SourceProblem {
    fn of(file: PathBuf, error: &ParseError, effect: &'static str) -> Self {
        Self {
            file,
            line: error.line,
            object: error.object.as_ref().map(ToString::to_string),
            field: error.field.clone(),
            message: error.message.clone(),
            effect,
        }
    }
}
