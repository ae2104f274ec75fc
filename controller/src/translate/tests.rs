//! YAML in, words of the mesh out.

mod enroll;
mod golden;
mod hostile;
mod incremental;
mod owners;
mod service;
mod total;

use std::collections::BTreeSet;

use weft_k8s_api::ObjectKey;
use weft_types::{AuthorizationPolicy, Enrollment, MeshSettings, NodeName, Service, Workload};

use super::{
    Finding, Holders, Identities, PolicyStatus, Translation, Translator, VirtualAddresses,
};
use crate::index::{Changes, Index};
use crate::source::Change;

/// Objects and their translation, through changes.
#[derive(Default)]
struct Mesh {
    index: Index,
    translator: Translator,
    keys: BTreeSet<ObjectKey>,
}

/// A translation in lists, as tests read it best.
struct Lists {
    settings: MeshSettings,
    workloads: Vec<Workload>,
    services: Vec<Service>,
    policies: Vec<AuthorizationPolicy>,
    enrollments: Vec<(NodeName, Enrollment)>,
    identities: Identities,
    statuses: Vec<PolicyStatus>,
    findings: Vec<Finding>,
}

impl Mesh {
    /// The objects of the text, and no others, from now on.
    fn turn_into(&mut self, text: &str) -> Lists {
        let mut changes = Changes::new();
        let mut keys = BTreeSet::new();
        for document in weft_k8s_api::parse(text).expect("legal YAML").documents {
            let (key, before) = self.index.apply(Change::Put(document.object));
            keys.insert(key.clone());
            changes.insert(key, before);
        }
        for gone in self.keys.difference(&keys) {
            let (key, before) = self.index.apply(Change::Delete(gone.clone()));
            changes.insert(key, before);
        }
        self.keys = keys;
        lists(self.translator.translate(&self.index, &changes))
    }
}

impl Mesh {
    /// With a controller that is reached under these addresses.
    fn of_controller(own: &[&str]) -> Self {
        let own = own.iter().map(|address| address.parse().unwrap());
        let translator = Translator::new(
            VirtualAddresses::default(),
            Holders::default(),
            own.collect(),
        );
        Self {
            translator,
            ..Self::default()
        }
    }
}

fn lists(translation: &Translation) -> Lists {
    let pods = translation.enrollments.iter();
    let pods = pods.flat_map(|(node, pods)| pods.values().map(move |pod| (node, pod)));
    let mut policies: Vec<AuthorizationPolicy> = translation
        .policies
        .values()
        .map(|p| (**p).clone())
        .collect();
    // Those of AuthorizationPolicies first.
    policies.sort_by_key(|policy| policy.name.name.starts_with("weft_"));
    Lists {
        settings: translation.settings.clone(),
        workloads: translation
            .workloads
            .values()
            .map(|w| (**w).clone())
            .collect(),
        services: translation
            .services
            .values()
            .map(|s| (**s).clone())
            .collect(),
        policies,
        enrollments: pods
            .map(|(node, pod)| (node.clone(), (**pod).clone()))
            .collect(),
        identities: translation.identities.clone(),
        statuses: translation
            .statuses
            .values()
            .map(|s| (**s).clone())
            .collect(),
        findings: translation
            .findings
            .values()
            .flat_map(|f| f.iter().cloned())
            .collect(),
    }
}

/// Translates the objects of a text.
fn mesh(text: &str) -> Lists {
    Mesh::default().turn_into(text)
}

/// Findings as `object: field: effect`.
fn findings(translation: &Lists) -> Vec<String> {
    let line = |finding: &Finding| {
        let Finding {
            object,
            field,
            effect,
            ..
        } = finding;
        format!("{object}: {field}: {effect}")
    };
    translation.findings.iter().map(line).collect()
}

/// A service in the default namespace, with more fields for metadata and spec.
fn service(name: &str, metadata: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, {metadata}}}\nspec: {{{spec}}}\n---\n"
    )
}

/// A pod on node n1, with more fields for metadata, spec and status.
fn pod(name: &str, metadata: &str, spec: &str, status: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, {metadata}}}\nspec: {{nodeName: n1, {spec}}}\nstatus: {{{status}}}\n---\n"
    )
}
