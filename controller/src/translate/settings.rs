//! The mesh settings: ConfigMap `weft`, key `mesh`.

use weft_k8s_api::mesh::SETTINGS_CONFIG_MAP;
use weft_k8s_api::{Kind, MeshConfig, ObjectKey, parse_mesh_config};

use weft_types::TrustDomain;

use super::finding::{Findings, Note, Reason};
use crate::index::Index;

/// The settings that hold: those of the default root namespace, or else the first by namespace.
///
/// The trust domain is that of the first call for as long as the controller runs.
pub(super) fn mesh(
    index: &Index,
    trust_domain: &mut Option<TrustDomain>,
    findings: &mut Findings,
) -> MeshConfig {
    let mut mesh = read(index, findings);
    let first = trust_domain.get_or_insert_with(|| mesh.node.trust_domain.clone());
    if *first != mesh.node.trust_domain {
        let root = mesh.root_namespace.as_str();
        let key = ObjectKey::new(Kind::ConfigMap, root, SETTINGS_CONFIG_MAP);
        findings.add(
            &key,
            Note {
                field: "data.mesh.trustDomain",
                reason: Reason::UnsupportedField,
                message: "the authority signs for one trust domain from start to end".to_owned(),
                effect: "the old one holds until the controller is started anew",
            },
        );
        mesh.node.trust_domain = first.clone();
    }
    mesh
}

fn read(index: &Index, findings: &mut Findings) -> MeshConfig {
    let root = MeshConfig::default().root_namespace;
    let chosen = index
        .settings
        .iter()
        .find(|(name, _)| *name.namespace == *root)
        .or_else(|| index.settings.iter().next());
    let Some((chosen, map)) = chosen else {
        return MeshConfig::default();
    };
    for other in index.settings.keys().filter(|name| *name != chosen) {
        let key = ObjectKey::new(
            Kind::ConfigMap,
            other.namespace.as_ref(),
            SETTINGS_CONFIG_MAP,
        );
        findings.add(
            &key,
            Note {
                field: "data.mesh",
                reason: Reason::Conflicted,
                message: format!("the settings are those of namespace {}", chosen.namespace),
                effect: "this object is not used",
            },
        );
    }
    let text = map.data.as_ref().and_then(|data| data.get("mesh"));
    let parsed = parse_mesh_config(text.map_or("", String::as_str));
    parsed.expect("parsing the ConfigMap has parsed its settings as well")
}
