//! YAML in, words of the mesh out.

mod enroll;
mod golden;
mod hostile;
mod service;

use super::{Memory, Translation, translate};
use crate::index::Index;
use crate::source::Change;

/// Translates the objects of a text.
fn mesh(text: &str) -> Translation {
    mesh_after(&mut Memory::default(), text)
}

fn mesh_after(memory: &mut Memory, text: &str) -> Translation {
    let mut index = Index::default();
    for document in weft_k8s_api::parse(text).expect("legal YAML").documents {
        index.apply(Change::Put(document.object));
    }
    translate(&index, memory)
}

/// Findings as `object: field: effect`.
fn findings(translation: &Translation) -> Vec<String> {
    let line = |finding: &super::Finding| {
        let super::Finding {
            object,
            field,
            effect,
            ..
        } = finding;
        format!("{object}: {field}: {effect}")
    };
    translation.findings.iter().map(line).collect()
}

/// A pod on node n1, with more fields for metadata, spec and status.
fn pod(name: &str, metadata: &str, spec: &str, status: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, {metadata}}}\nspec: {{nodeName: n1, {spec}}}\nstatus: {{{status}}}\n---\n"
    )
}
