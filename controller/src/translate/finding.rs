//! What was refused, and what happens instead: the honest half of a translation.

use std::collections::BTreeMap;

use serde::Serialize;
use weft_k8s_api::{Kind, ObjectKey};

use crate::index::Index;

/// Something that an object asks for and does not get.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub(crate) struct Finding {
    /// `Kind namespace/name`.
    pub(crate) object: String,
    /// Path of the field; empty when it is about the whole object.
    pub(crate) field: String,
    /// Why, in one word for programs.
    pub(crate) reason: Reason,
    /// Why, in words.
    pub(crate) message: String,
    /// What happens instead.
    pub(crate) effect: String,
}

/// Why, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub(crate) enum Reason {
    /// No proxy of this version can judge or honour the field.
    UnsupportedField,
    /// Something that the object refers to does not exist.
    ReferenceMissing,
    /// Another object has the same address, or says something else about the same thing.
    Conflicted,
    /// An address or a name cannot be given.
    Exhausted,
}

/// A policy and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub(crate) struct PolicyStatus {
    pub(crate) kind: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) conditions: Vec<Condition>,
}

/// A condition as Kubernetes writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) status: &'static str,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Collects findings.
#[derive(Debug, Default)]
pub(super) struct Findings(BTreeMap<ObjectKey, Vec<Finding>>);

/// What a finding says, without whom it is about.
pub(super) struct Note<'a> {
    pub(super) field: &'a str,
    pub(super) reason: Reason,
    pub(super) message: String,
    pub(super) effect: &'a str,
}

impl Findings {
    pub(super) fn add(&mut self, key: &ObjectKey, note: Note<'_>) {
        let finding = Finding {
            object: key.to_string(),
            field: note.field.to_owned(),
            reason: note.reason,
            message: note.message,
            effect: note.effect.to_owned(),
        };
        let findings = self.0.entry(key.clone()).or_default();
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }

    /// The status of every policy, and the findings about everything else.
    pub(super) fn finish(mut self, index: &Index) -> (Vec<PolicyStatus>, Vec<Finding>) {
        let authorizations = index.authorizations.keys();
        let keys = authorizations
            .map(|name| (Kind::AuthorizationPolicy, name))
            .chain(
                index
                    .peers
                    .keys()
                    .map(|name| (Kind::PeerAuthentication, name)),
            );
        let mut statuses = Vec::new();
        for (kind, name) in keys {
            let key = ObjectKey::new(kind, name.namespace.as_ref(), name.name.as_ref());
            let findings = self.0.remove(&key).unwrap_or_default();
            statuses.push(PolicyStatus {
                kind: kind.as_str(),
                namespace: key.namespace,
                name: key.name,
                conditions: vec![accepted(&findings)],
            });
        }
        (statuses, self.0.into_values().flatten().collect())
    }
}

fn accepted(findings: &[Finding]) -> Condition {
    let Some(first) = findings.first() else {
        return Condition {
            kind: "Accepted",
            status: "True",
            reason: "Accepted".to_owned(),
            message: "enforced by every node proxy".to_owned(),
        };
    };
    let line = |finding: &Finding| {
        let Finding {
            field,
            message,
            effect,
            ..
        } = finding;
        format!("{field}: {message}; {effect}")
    };
    let lines: Vec<String> = findings.iter().map(line).collect();
    Condition {
        kind: "Accepted",
        status: "False",
        reason: format!("{:?}", first.reason),
        message: lines.join("\n"),
    }
}
