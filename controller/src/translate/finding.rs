//! What was refused, and what happens instead: the honest half of a translation.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use weft_k8s_api::ObjectKey;

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
    /// An address that no service may have.
    InvalidAddress,
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

/// Collects findings of one step.
#[derive(Debug, Default)]
pub(super) struct Findings(BTreeMap<ObjectKey, Vec<Finding>>);

/// All findings, by object and by the step that made them.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    steps: BTreeMap<ObjectKey, BTreeMap<Step, Vec<Finding>>>,
    touched: BTreeSet<ObjectKey>,
}

/// Steps that say something about an object independently of each other; their order is that in which it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// The object by itself, and what it refers to.
    Object,
    /// Another object has its address.
    Address,
    /// Another PeerAuthentication is about the same workload.
    Overlap,
}

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

    /// What was said about one object.
    pub(super) fn take(&mut self, key: &ObjectKey) -> Vec<Finding> {
        self.0.remove(key).unwrap_or_default()
    }

    /// Everything that was said.
    pub(super) fn into_all(self) -> BTreeMap<ObjectKey, Vec<Finding>> {
        self.0
    }
}

impl Ledger {
    /// Replaces what one step has to say about one object.
    pub(super) fn set(&mut self, key: &ObjectKey, step: Step, findings: Vec<Finding>) {
        let steps = self.steps.get_mut(key);
        let before = steps.as_ref().and_then(|steps| steps.get(&step));
        if before.map_or(&[][..], Vec::as_slice) == findings {
            return;
        }
        self.touched.insert(key.clone());
        match steps {
            Some(steps) if findings.is_empty() => {
                steps.remove(&step);
                if steps.is_empty() {
                    self.steps.remove(key);
                }
            }
            Some(steps) => drop(steps.insert(step, findings)),
            None => {
                let first = BTreeMap::from([(step, findings)]);
                self.steps.insert(key.clone(), first);
            }
        }
    }

    /// A policy came, changed or went: it has a status even when there is nothing to say.
    pub(super) fn touch(&mut self, key: ObjectKey) {
        self.touched.insert(key);
    }

    /// The objects of which something else is said than before, with all of it in the order of steps.
    pub(super) fn drain(&mut self) -> Vec<(ObjectKey, Vec<Finding>)> {
        let touched = std::mem::take(&mut self.touched);
        let all = |key: ObjectKey| {
            let steps = self.steps.get(&key).into_iter().flatten();
            let findings = steps.flat_map(|(_, findings)| findings.iter().cloned());
            let findings = findings.collect();
            (key, findings)
        };
        touched.into_iter().map(all).collect()
    }
}

impl PolicyStatus {
    /// Of a policy whose text cannot be accepted.
    pub(crate) fn invalid(
        kind: &'static str,
        namespace: &str,
        name: &str,
        message: String,
    ) -> Self {
        Self {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            conditions: vec![Condition {
                kind: "Accepted",
                status: "False",
                reason: "Invalid".to_owned(),
                message,
            }],
        }
    }

    /// Says the other's refusal as well, before its own words.
    pub(crate) fn join(&mut self, other: Self) {
        for (own, other) in self.conditions.iter_mut().zip(other.conditions) {
            let words = match own.status {
                "True" => other.message,
                _ => format!("{}\n{}", other.message, own.message),
            };
            *own = Condition {
                message: words,
                ..other
            };
        }
    }

    pub(super) fn new(key: ObjectKey, is_dry_run: bool, findings: &[Finding]) -> Self {
        Self {
            kind: key.kind.as_str(),
            namespace: key.namespace,
            name: key.name,
            conditions: vec![accepted(is_dry_run, findings)],
        }
    }
}

fn accepted(is_dry_run: bool, findings: &[Finding]) -> Condition {
    let Some(first) = findings.first() else {
        if is_dry_run {
            return Condition {
                kind: "Accepted",
                status: "True",
                reason: "DryRun".to_owned(),
                message: "evaluated by every node proxy, which logs and counts what it would refuse; enforced by none".to_owned(),
            };
        }
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
