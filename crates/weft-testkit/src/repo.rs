//! What must hold for the repository itself: dependency edges, one graph of features, sizes, file heads, no module cycles.
//!
//! In: the workspace's root. Out: findings, one line each; none when all is well. The same checks
//! are `cargo xtask check` and a test. Not here: formatting, lints, and the eBPF object.

pub mod cycles;
pub mod edges;
pub mod features;
pub mod limits;
pub mod sizes;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Folders that hold no sources of ours.
const SKIPPED: [&str; 3] = ["target", ".git", "node_modules"];

/// Every Rust file of the workspace, with paths relative to its root.
pub fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder)
            .with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                if !SKIPPED.contains(&name.as_ref()) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path.strip_prefix(root).unwrap_or(&path).to_owned());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The lines of a file before its tests.
pub(crate) fn production(text: &str) -> &str {
    let end = text
        .match_indices("#[cfg(test)]")
        .find(|(at, _)| text[*at..].lines().nth(1).is_some_and(is_module))
        .map_or(text.len(), |(at, _)| at);
    &text[..end]
}

fn is_module(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("mod ") || line.starts_with("pub(crate) mod ") || line.starts_with("#[")
}

/// Whether a file holds nothing but tests.
pub(crate) fn is_test_file(path: &Path) -> bool {
    path.components().any(|part| {
        let part = part.as_os_str();
        part == "tests" || part == "tests.rs" || part == "benches" || part == "examples"
    })
}
