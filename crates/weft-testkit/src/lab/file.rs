//! The lab file: what a person writes, parsed strictly.
//!
//! In: YAML text. Out: [`LabFile`], or an error that names the field and its line. Not here:
//! whether names and addresses fit together (`plan`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

mod words;

/// Nodes, pods, resources and settings of a lab.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LabFile {
    /// The nodes.
    #[serde(default)]
    pub nodes: Vec<NodeEntry>,
    /// The pods.
    #[serde(default)]
    pub pods: Vec<PodEntry>,
    /// Files and folders of YAML, relative to the lab file: what `kubectl apply` would take.
    #[serde(default)]
    pub resources: Vec<String>,
    /// Mesh-wide settings; their fields are checked by the controller.
    #[serde(default)]
    pub settings: serde_json::Map<String, serde_json::Value>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NodeEntry {
    /// Its name.
    pub name: String,
    /// No Weft program runs there; its pods are published as enrolled and a token is issued.
    #[serde(default)]
    pub external: bool,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PodEntry {
    /// Its name.
    pub name: String,
    /// Its namespace.
    #[serde(default = "default_word")]
    pub namespace: String,
    /// Its service account.
    #[serde(default = "default_word")]
    pub service_account: String,
    /// The node that it runs on.
    pub node: String,
    /// Its only address; short for `ips` with one entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// Its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
    /// An existing network namespace to adopt; without it one is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Its labels.
    #[serde(default, deserialize_with = "words::labels")]
    pub labels: BTreeMap<String, String>,
    /// Whether it is in the mesh.
    #[serde(default = "yes")]
    pub mesh: bool,
    /// Program and arguments to run in it.
    #[serde(
        default,
        deserialize_with = "words::command",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub run: Vec<String>,
}

// === impl LabFile ===

impl LabFile {
    /// Parses the text of a lab file.
    pub fn parse(text: &str) -> Result<Self> {
        let file: Self = serde_saphyr::from_str(text).map_err(|error| {
            // The first line says what and where; the rest is a drawing of the place.
            let text = error.to_string();
            anyhow::anyhow!("{}", text.trim_start_matches("error: ").trim_end())
        })?;
        if file.nodes.is_empty() {
            bail!("nodes: a lab needs at least one node");
        }
        Ok(file)
    }

    /// Reads a lab file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no lab file", path.display()))
    }
}

// === impl PodEntry ===

impl PodEntry {
    /// A pod with the defaults of the file format.
    pub fn new(name: &str, node: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: default_word(),
            service_account: default_word(),
            node: node.to_owned(),
            ip: None,
            ips: Vec::new(),
            netns: None,
            labels: BTreeMap::new(),
            mesh: true,
            run: Vec::new(),
        }
    }

    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

fn default_word() -> String {
    "default".to_owned()
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_documented_format() {
        let file = LabFile::parse("nodes: [{name: n1}]\npods:\n- {name: a, node: n1}\n").unwrap();
        assert_eq!(file.pods, vec![PodEntry::new("a", "n1")]);
        assert!(!file.nodes[0].external);
    }

    #[test]
    fn an_unknown_field_is_named_with_its_line() {
        let error = LabFile::parse(
            "nodes: [{name: n1}]\npods:\n- {name: a, node: n1}\n- {name: b, nod: n1}\n",
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains("nod"), "{error}");
        assert!(error.contains("line 4"), "{error}");
    }

    fn refused(fields: &str) -> String {
        let text = format!("nodes: [{{name: n1}}]\npods:\n- name: a\n  node: n1\n{fields}");
        LabFile::parse(&text).unwrap_err().to_string()
    }

    #[test]
    fn a_label_that_kubernetes_would_refuse_is_named_with_its_line_and_what_is_allowed() {
        for (label, words) in [
            ("app!: web", ["app!", "label key"]),
            ("/app: web", ["/app", "label key"]),
            ("Example.com/app: web", ["Example.com/app", "label key"]),
            ("app: my web", ["my web", "label value"]),
            ("app: -web", ["-web", "label value"]),
            (&format!("app: {}", "x".repeat(64)), ["xxx", "63"]),
            (&format!("{}: web", "x".repeat(64)), ["xxx", "63"]),
        ] {
            let error = refused(&format!("  labels:\n    good: '1'\n    {label}\n"));
            for word in words.into_iter().chain(["line 7", "letters"]) {
                assert!(error.contains(word), "{error:?} does not name {word:?}");
            }
        }
    }

    #[test]
    fn a_label_without_a_value_is_refused_with_its_line() {
        let error = refused("  labels:\n    app:\n");
        assert!(error.contains("line 6") && error.contains("''"), "{error}");
    }

    #[test]
    fn labels_of_kubernetes_are_taken() {
        let text = "nodes: [{name: n1}]\npods:\n- name: a\n  node: n1\n  labels: {app.kubernetes.io/name: Web_1.2, x: ''}\n";
        let file = LabFile::parse(text).unwrap();
        assert_eq!(file.pods[0].labels["app.kubernetes.io/name"], "Web_1.2");
        assert_eq!(file.pods[0].labels["x"], "");
    }

    #[test]
    fn a_command_without_a_program_is_refused() {
        for run in ["['']", "['', --port, '80']", "\n  - ''"] {
            let error = refused(&format!("  run: {run}\n"));
            assert!(
                error.contains("run") && error.contains("program"),
                "{error}"
            );
            assert!(
                error.contains("line 5") || error.contains("line 6"),
                "{error}"
            );
        }
        let error = refused("  run: [sh, \"a\\0b\"]\n");
        assert!(error.contains("NUL"), "{error}");
    }

    #[test]
    fn a_file_without_nodes_is_refused() {
        let error = LabFile::parse("pods: []").unwrap_err().to_string();
        assert!(error.contains("at least one node"), "{error}");
    }
}
