//! The newest translation, for those who look things up instead of being told: certificate authority, admin socket, metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use weft_types::ResourceName;

use crate::source::SourceProblem;
use crate::translate::{IdentityHolder, Translation};

/// One translation and what is wrong with its source.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) translation: Translation,
    pub(crate) problems: Vec<SourceProblem>,
}

/// The newest view; none until the source has been read once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Views(Arc<ArcSwapOption<View>>);

impl Views {
    pub(crate) fn publish(&self, view: View) {
        self.0.store(Some(Arc::new(view)));
    }

    pub(crate) fn newest(&self) -> Option<Arc<View>> {
        self.0.load_full()
    }

    /// Pods with an identity.
    pub(crate) fn holders(&self, namespace: &str, service_account: &str) -> Vec<IdentityHolder> {
        let identity = ResourceName::new(namespace, service_account);
        let identities = |view: &View| {
            let identities: &BTreeMap<_, _> = &view.translation.identities;
            identities.get(&identity).cloned()
        };
        let view = self.newest();
        view.as_deref().and_then(identities).unwrap_or_default()
    }
}
