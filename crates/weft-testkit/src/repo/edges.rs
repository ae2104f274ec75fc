//! Which crate may depend on which: the borders of the workspace.
//!
//! In: `cargo metadata`. Out: one line for every edge that is on no list. Development
//! dependencies are free: they build no program. Not here: licences and advisories (`deny.toml`).

use std::path::Path;

use anyhow::{Context as _, Result};
use cargo_metadata::{DependencyKind, MetadataCommand};

/// Crates of the workspace, and what of the workspace each may depend on. Programs depend on
/// crates, never on each other.
const INTERNAL: &[(&str, &[&str])] = &[
    ("weft-types", &[]),
    ("weft-ebpf-abi", &[]),
    ("weft-runtime", &[]),
    ("weft-bpf", &["weft-ebpf-abi", "weft-types"]),
    ("weft-policy", &["weft-types"]),
    ("weft-balance", &["weft-types"]),
    ("weft-proto", &["weft-types"]),
    ("weft-telemetry", &["weft-types"]),
    ("weft-k8s-api", &["weft-types"]),
    ("weft-node-api", &["weft-types", "weft-runtime"]),
    (
        "weft-config",
        &["weft-types", "weft-proto", "weft-runtime", "weft-telemetry"],
    ),
    (
        "weft-identity",
        &["weft-types", "weft-proto", "weft-runtime"],
    ),
    ("weft-hbone", &["weft-types", "weft-runtime"]),
    (
        "weft-testkit",
        &["weft-types", "weft-proto", "weft-identity"],
    ),
    ("weft-ebpf", &["weft-ebpf-abi"]),
    (
        "weft-node",
        &[
            "weft-types",
            "weft-node-api",
            "weft-bpf",
            "weft-ebpf-abi",
            "weft-runtime",
            "weft-telemetry",
        ],
    ),
    (
        "weft-agent",
        &[
            "weft-types",
            "weft-node-api",
            "weft-bpf",
            "weft-ebpf-abi",
            "weft-runtime",
            "weft-config",
            "weft-proto",
            "weft-telemetry",
        ],
    ),
    (
        "weft-proxy",
        &[
            "weft-types",
            "weft-policy",
            "weft-balance",
            "weft-node-api",
            "weft-bpf",
            "weft-ebpf-abi",
            "weft-runtime",
            "weft-config",
            "weft-proto",
            "weft-identity",
            "weft-hbone",
            "weft-telemetry",
        ],
    ),
    (
        "weft-controller",
        &[
            "weft-types",
            "weft-proto",
            "weft-identity",
            "weft-runtime",
            "weft-k8s-api",
            "weft-telemetry",
        ],
    ),
    ("weft-tests", &["weft-testkit"]),
    ("xtask", &["weft-testkit"]),
];

/// Dependencies that have a home: who may name them directly.
const HOMES: &[(&str, &[&str])] = &[
    // The proxy, which parses what strangers send, never links the eBPF loader.
    ("aya", &["weft-agent"]),
    ("aya-log", &["weft-agent"]),
    ("aya-ebpf", &["weft-ebpf"]),
    ("aya-log-ebpf", &["weft-ebpf"]),
    // Keys and certificates.
    ("rustls", &["weft-identity", "weft-testkit"]),
    ("tokio-rustls", &["weft-identity", "weft-testkit"]),
    ("rustls-webpki", &["weft-identity"]),
    ("aws-lc-rs", &["weft-identity"]),
    ("rcgen", &["weft-identity", "weft-testkit"]),
    ("x509-parser", &["weft-identity", "weft-testkit"]),
    // Kubernetes.
    (
        "k8s-openapi",
        &["weft-k8s-api", "weft-controller", "weft-testkit"],
    ),
    ("kube", &["weft-k8s-api", "weft-controller", "weft-testkit"]),
    // HTTP and gRPC.
    ("h2", &["weft-hbone", "weft-testkit"]),
    (
        "hyper",
        &["weft-runtime", "weft-proxy", "weft-controller", "xtask"],
    ),
    ("prost", &["weft-proto", "weft-testkit"]),
    (
        "tonic",
        &[
            "weft-proto",
            "weft-config",
            "weft-identity",
            "weft-controller",
            "weft-testkit",
        ],
    ),
    // Errors without a type stay at the edge.
    (
        "anyhow",
        &[
            "weft-node",
            "weft-agent",
            "weft-proxy",
            "weft-controller",
            "weft-testkit",
            "weft-tests",
            "xtask",
        ],
    ),
    // Privileges.
    ("seccompiler", &["weft-runtime"]),
    ("caps", &["weft-runtime"]),
    ("prometheus-client", &["weft-telemetry", "weft-proxy"]),
    ("imbl", &["weft-config", "weft-controller"]),
];

/// An edge of the workspace: who depends on what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// A crate of the workspace.
    pub from: String,
    /// A crate of the workspace or of others.
    pub to: String,
}

/// Every edge that is on no list.
pub fn findings(root: &Path) -> Result<Vec<String>> {
    Ok(judge(&edges(root)?))
}

/// Every direct edge of the workspace's crates, development dependencies left out.
pub fn edges(root: &Path) -> Result<Vec<Edge>> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo metadata failed")?;
    Ok(metadata
        .workspace_packages()
        .iter()
        .flat_map(|package| {
            package
                .dependencies
                .iter()
                .filter(|dependency| dependency.kind != DependencyKind::Development)
                .map(|dependency| Edge {
                    from: package.name.to_string(),
                    to: dependency.name.clone(),
                })
        })
        .collect())
}

/// Compares edges with the lists. Pure.
pub fn judge(edges: &[Edge]) -> Vec<String> {
    edges.iter().filter_map(judge_one).collect()
}

fn judge_one(edge: &Edge) -> Option<String> {
    let Edge { from, to } = edge;
    let list = |table: &'static [(&str, &[&str])], name: &str| {
        table
            .iter()
            .find(|(other, _)| *other == name)
            .map(|(_, list)| *list)
    };
    if list(INTERNAL, to).is_some() {
        return match list(INTERNAL, from) {
            None => Some(format!("{from} is not on the list of crates (edges.rs)")),
            Some(allowed) if allowed.contains(&to.as_str()) => None,
            Some(_) => Some(format!("{from} must not depend on {to}")),
        };
    }
    let home = list(HOMES, to)?;
    (!home.contains(&from.as_str())).then(|| {
        format!(
            "{from} must not depend on {to}, whose home is {}",
            home.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(from: &str, to: &str) -> Vec<String> {
        judge(&[Edge {
            from: from.to_owned(),
            to: to.to_owned(),
        }])
    }

    #[test]
    fn edges_across_a_border_are_found() {
        assert!(edge("weft-proxy", "weft-hbone").is_empty());
        assert!(edge("weft-proxy", "tokio").is_empty());
        for (from, to) in [
            ("weft-proxy", "aya"),
            ("weft-proxy", "weft-agent"),
            ("weft-agent", "weft-identity"),
            ("weft-node", "weft-hbone"),
            ("weft-hbone", "rustls"),
            ("weft-types", "weft-policy"),
            ("weft-policy", "anyhow"),
        ] {
            assert_eq!(edge(from, to).len(), 1, "{from} -> {to}");
        }
    }
}
