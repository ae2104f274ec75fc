//! The one task that owns the state: source -> index -> translate -> publish.
//!
//! In: [`Update`]s. Out: a [`View`] and then a [`Snapshot`], in this order, so that nobody is told of a pod whose identity is not known yet.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use weft_runtime::{Clock, Shutdown};
use weft_types::NodeName;

use crate::index::Index;
use crate::publish::Snapshot;
use crate::source::{SourceProblem, Update};
use crate::tokens::Tokens;
use crate::translate::{Finding, Memory, PolicyStatus, Translation, VirtualAddresses, translate};
use crate::view::{View, Views};

/// The state and where it goes.
pub(crate) struct Pipeline {
    pub(crate) updates: mpsc::Receiver<Update>,
    pub(crate) index: Index,
    pub(crate) memory: Memory,
    /// Where cluster IPs that were given are kept.
    pub(crate) addresses_file: PathBuf,
    pub(crate) tokens: Tokens,
    pub(crate) views: Views,
    pub(crate) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Pipeline {
    /// Runs until the source ends or the program drains.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let mut told = Told::default();
        loop {
            let update = tokio::select! {
                () = shutdown.draining() => return,
                update = self.updates.recv() => update,
            };
            let Some(update) = update else { return };
            let problems = self.apply(update);
            let before = self.memory.virtual_addresses.clone();
            let started = self.clock.now();
            let translation = translate(&self.index, &mut self.memory);
            let translated = self.clock.now() - started;
            if before != self.memory.virtual_addresses {
                self.keep_addresses();
            }
            self.make_tokens();
            told.tell(&translation);
            self.publish(translation, problems);
            let published = self.clock.now() - started;
            tracing::debug!(?translated, ?published, "translated and published");
        }
    }

    /// Applies an update and all that have come since: only the newest state is worth a translation.
    fn apply(&mut self, mut update: Update) -> Vec<SourceProblem> {
        loop {
            for change in update.changes {
                self.index.apply(change);
            }
            match self.updates.try_recv() {
                Ok(next) => update = next,
                Err(_) => return update.problems,
            }
        }
    }

    fn publish(&self, translation: Translation, problems: Vec<SourceProblem>) {
        let snapshot = self.snapshots.borrow().next(&translation);
        self.views.publish(View {
            translation,
            problems,
        });
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    fn make_tokens(&self) {
        for node in self
            .index
            .nodes
            .keys()
            .map(|node| NodeName::from(node.as_str()))
        {
            if let Err(error) = self.tokens.ensure(&node) {
                tracing::warn!(%node, %error, "cannot make the token of a node, check --tokens");
            }
        }
    }

    fn keep_addresses(&self) {
        if let Err(error) = store(&self.addresses_file, &self.memory.virtual_addresses) {
            let file = self.addresses_file.display();
            tracing::warn!(%file, %error, "cannot keep cluster IPs, a restart may give others; check the state folder");
        }
    }
}

type Kept = BTreeMap<String, Vec<IpAddr>>;

fn store(file: &Path, addresses: &VirtualAddresses) -> io::Result<()> {
    let mut kept = Kept::new();
    for (service, address) in addresses.entries() {
        kept.entry(service).or_default().push(address);
    }
    let beside = file.with_extension("new");
    std::fs::write(&beside, serde_json::to_vec_pretty(&kept)?)?;
    std::fs::rename(&beside, file)
}

/// Cluster IPs given by an earlier run; none when there was none, or its file is damaged.
pub(crate) fn load_addresses(file: &Path) -> VirtualAddresses {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return VirtualAddresses::default();
        }
        Err(error) => {
            let file = file.display();
            tracing::warn!(%file, %error, "cannot read kept cluster IPs, services may get others");
            return VirtualAddresses::default();
        }
    };
    match serde_json::from_slice::<Kept>(&text) {
        Ok(kept) => {
            let entries = kept.into_iter().flat_map(|(service, addresses)| {
                addresses
                    .into_iter()
                    .map(move |address| (service.clone(), address))
            });
            VirtualAddresses::from_entries(entries)
        }
        Err(error) => {
            let file = file.display();
            tracing::warn!(%file, %error, "kept cluster IPs are damaged, services may get others");
            VirtualAddresses::default()
        }
    }
}

/// What the log has been told, so that it hears everything once.
#[derive(Default)]
struct Told {
    findings: HashSet<Finding>,
    statuses: HashSet<PolicyStatus>,
}

impl Told {
    fn tell(&mut self, translation: &Translation) {
        let news = translation
            .findings
            .iter()
            .filter(|finding| !self.findings.contains(finding));
        for finding in news {
            let Finding {
                object,
                field,
                message,
                effect,
                ..
            } = finding;
            tracing::warn!(object, field, effect, "{message}");
        }
        let news = translation
            .statuses
            .iter()
            .filter(|status| !self.statuses.contains(status));
        for status in news {
            for condition in status.conditions.iter().filter(|c| c.status == "False") {
                let PolicyStatus {
                    kind,
                    namespace,
                    name,
                    ..
                } = status;
                let message = &condition.message;
                tracing::warn!(kind, namespace, name, "not enforced as written: {message}");
            }
        }
        self.findings = translation.findings.iter().cloned().collect();
        self.statuses = translation.statuses.iter().cloned().collect();
    }
}
