//! The one task that owns the state: source -> index -> translate -> publish.
//!
//! In: [`Update`]s. Out: a [`View`] and then a [`Snapshot`], in this order, so that nobody is told of a pod whose identity is not known yet.
//!
//! A large change takes seconds of a core. So the work is done on a thread of its own, and the runtime's go on serving what was published last.

use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use tokio::sync::{mpsc, watch};
use weft_k8s_api::{Kind, ObjectKey};
use weft_runtime::{Clock, Shutdown, off_runtime};
use weft_types::NodeName;

use crate::index::{Changes, Index};
use crate::kept::Kept;
use crate::publish::Snapshot;
use crate::source::{SourceProblem, Update};
use crate::tokens::Tokens;
use crate::translate::{Finding, PolicyStatus, Translation, Translator};
use crate::view::{View, Views};

/// The state and where it goes.
pub(crate) struct Pipeline {
    pub(crate) updates: mpsc::Receiver<Update>,
    pub(crate) state: State,
}

/// What one update after the other is worked into.
pub(crate) struct State {
    pub(crate) index: Index,
    pub(crate) translator: Translator,
    /// Who has which address, for the next run.
    pub(crate) kept: Kept,
    pub(crate) tokens: Tokens,
    pub(crate) views: Views,
    pub(crate) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(crate) clock: Arc<dyn Clock>,
    /// What the log was told of.
    pub(crate) told: Translation,
}

impl Pipeline {
    /// Runs until the source ends or the program drains.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let Self {
            mut updates,
            mut state,
        } = self;
        loop {
            let update = tokio::select! {
                () = shutdown.draining() => return,
                update = updates.recv() => update,
            };
            let Some(mut newest) = update else { return };
            // Of all that have come since only the newest state is worth a translation.
            let mut changes = std::mem::take(&mut newest.changes);
            while let Ok(next) = updates.try_recv() {
                newest = next;
                changes.append(&mut newest.changes);
            }
            newest.changes = changes;
            state = off_runtime(move || {
                state.take(newest);
                state
            })
            .await;
        }
    }
}

impl State {
    fn take(&mut self, update: Update) {
        let started = self.clock.now();
        let mut changes = Changes::new();
        for change in update.changes {
            let (key, before) = self.index.apply(change);
            // Of several changes of one object the first knows what was translated last.
            changes.entry(key).or_insert(before);
        }
        let translation = self.translator.translate(&self.index, &changes).clone();
        let translated = self.clock.now() - started;
        self.kept.store(&self.translator);
        self.make_tokens(&changes);
        tell(&self.told, &translation);
        self.told = translation.clone();
        self.publish(translation, update.problems);
        let published = self.clock.now() - started;
        let objects = changes.len();
        tracing::debug!(objects, ?translated, ?published, "translated and published");
    }

    fn publish(&self, translation: Translation, problems: Vec<SourceProblem>) {
        let snapshot = self.snapshots.borrow().next(&translation);
        self.views.publish(View {
            translation,
            problems,
        });
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    /// Tokens of nodes that came. One that was withdrawn since is not made anew: only a restart or another change of its Node does that.
    fn make_tokens(&self, changes: &Changes) {
        let nodes = changes.keys().filter(|key| key.kind == Kind::Node);
        for key in nodes.filter(|key| self.index.nodes.contains_key(&key.name)) {
            let node = NodeName::from(key.name.as_str());
            if let Err(error) = self.tokens.ensure(&node) {
                tracing::warn!(%node, %error, "cannot make the token of a node, check --tokens");
            }
        }
    }
}

/// Tells the log what is new; it hears everything once.
fn tell(before: &Translation, now: &Translation) {
    for (key, findings) in changed(&before.findings, &now.findings) {
        let known = before.findings.get(key).map_or(&[][..], |known| known);
        for finding in findings.iter().filter(|finding| !known.contains(finding)) {
            let Finding {
                object,
                field,
                message,
                effect,
                ..
            } = finding;
            tracing::warn!(object, field, effect, "{message}");
        }
    }
    for (_, status) in changed(&before.statuses, &now.statuses) {
        for condition in status.conditions.iter().filter(|c| c.status == "False") {
            let PolicyStatus {
                kind,
                namespace,
                name,
                ..
            } = &**status;
            let message = &condition.message;
            tracing::warn!(kind, namespace, name, "not enforced as written: {message}");
        }
    }
}

/// Entries that are new or another.
fn changed<'a, T: PartialEq + 'a>(
    before: &'a OrdMap<ObjectKey, Arc<T>>,
    now: &'a OrdMap<ObjectKey, Arc<T>>,
) -> impl Iterator<Item = (&'a ObjectKey, &'a Arc<T>)> {
    before.diff(now).filter_map(|item| match item {
        DiffItem::Add(key, value) => Some((key, value)),
        DiffItem::Update { new, .. } => Some(new),
        DiffItem::Remove(..) => None,
    })
}

#[cfg(test)]
mod tests;
