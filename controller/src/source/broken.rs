//! A text that cannot be used: what is wrong with it, and which of its objects are the victims.
//!
//! A file is good or broken as a whole, so an object with which nothing is wrong may not be in use either. Its author looks at that object and
//! finds no mistake: it must be told by name.

use std::collections::HashMap;
use std::path::Path;

use weft_k8s_api::{Document, Kind, Object, ObjectKey, ParseError, Parsed};

use super::SourceProblem;

/// Neighbours of an error that are told of one by one, for a log that can be read; policies are, however many.
pub(super) const NEIGHBOURS_MAX: usize = 20;

/// What is wrong with a text.
#[derive(Debug, Default)]
pub(super) struct Broken {
    pub(super) errors: Vec<ParseError>,
    /// Objects with which nothing is wrong, and that are not in use as the text says; policies first.
    neighbours: Vec<Document>,
    /// How many more there are.
    untold: usize,
}

impl From<weft_k8s_api::Broken> for Broken {
    fn from(broken: weft_k8s_api::Broken) -> Self {
        Self {
            errors: broken.errors,
            neighbours: broken.neighbours,
            untold: 0,
        }
    }
}

impl Broken {
    /// Something that is about no single object.
    pub(super) fn whole_file(message: String) -> Self {
        Self {
            errors: vec![ParseError {
                line: 0,
                object: None,
                field: String::new(),
                message,
            }],
            ..Self::default()
        }
    }

    /// What says the same as in the last good state is in use as it is written: there is nothing to tell of it.
    pub(super) fn forget_unchanged(&mut self, good: Option<&Parsed>) {
        let good = good.into_iter().flat_map(|good| &good.documents);
        let good: HashMap<ObjectKey, &Object> = good
            .map(|document| (document.object.key(), &document.object))
            .collect();
        self.neighbours.retain(|document| {
            let known = good.get(&document.object.key());
            known.is_none_or(|known| **known != document.object)
        });
        let is_policy = |document: &Document| {
            let kind = document.object.kind();
            matches!(kind, Kind::AuthorizationPolicy | Kind::PeerAuthentication)
        };
        self.neighbours.sort_by_key(|document| !is_policy(document));
        let policies = self.neighbours.iter().filter(|of| is_policy(of)).count();
        let told = policies.max(NEIGHBOURS_MAX);
        self.untold = self.neighbours.len().saturating_sub(told);
        self.neighbours.truncate(told);
    }

    /// Objects with which nothing is wrong, and which are not in use because something else in their file is.
    pub(super) fn neighbours(&self, path: &Path, effect: &'static str) -> Vec<SourceProblem> {
        let Some(first) = self.errors.first() else {
            return Vec::new();
        };
        let object = first.object.as_ref();
        let culprit = object.map_or_else(|| "a document".to_owned(), ToString::to_string);
        let culprit = format!("{culprit} in line {} of this file is broken", first.line);
        let advice = "correct that, or move one of the two to another file";
        let problem = |line, object, what: &str| SourceProblem {
            file: path.to_path_buf(),
            line,
            object,
            field: String::new(),
            message: format!("{what}, but not in use as written: {culprit}; {advice}"),
            effect,
        };
        let documents = self.neighbours.iter().map(|document| {
            let key = document.object.key().to_string();
            problem(document.line, Some(key), "valid")
        });
        let mut problems: Vec<SourceProblem> = documents.collect();
        if self.untold > 0 {
            let what = format!("{} more objects are valid", self.untold);
            problems.push(problem(0, None, &what));
        }
        problems
    }
}
