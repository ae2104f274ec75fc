//! The newest translation, for those who look things up instead of being told: certificate authority, admin socket, metrics.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use imbl::OrdMap;
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

    /// Pods with an identity, by name.
    pub(crate) fn holders(
        &self,
        namespace: &str,
        service_account: &str,
    ) -> OrdMap<ResourceName, IdentityHolder> {
        let identity = ResourceName::new(namespace, service_account);
        let view = self.newest();
        let holders = view
            .as_deref()
            .and_then(|view| view.translation.identities.get(&identity));
        holders.cloned().unwrap_or_default()
    }
}
