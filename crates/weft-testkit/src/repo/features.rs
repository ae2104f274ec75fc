//! Whether automation, programs and tests compile every dependency the same way.
//!
//! In: `cargo tree` for each of the builds that a fresh clone makes. Out: one line for every dependency that two of them
//! would compile with different features, and so twice. What keeps them equal is the feature `one-graph` of `weft-testkit`.
//! Not here: which versions there are (`deny.toml`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The builds of a fresh clone: a name, and what `cargo tree` takes to show them.
const BUILDS: &[(&str, &[&str])] = &[
    ("cargo xtask", &["--edges=normal,build", "-p=xtask"]),
    (
        "the programs",
        &[
            "--edges=normal,build",
            "-p=weft-node",
            "-p=weft-agent",
            "-p=weft-proxy",
            "-p=weft-controller",
            "-p=weft-testkit",
        ],
    ),
    ("the tests", &["--edges=normal,build,dev", "--workspace"]),
];

/// Builds by the features that they ask for, by dependency.
type Variants = BTreeMap<String, BTreeMap<String, BTreeSet<&'static str>>>;

/// Dependencies that would be compiled more than once.
pub fn findings(root: &Path) -> Result<Vec<String>> {
    let mut variants = Variants::new();
    for (build, arguments) in BUILDS {
        collect(&mut variants, build, &tree(root, arguments)?);
    }
    Ok(differing(&variants))
}

/// One line for each place in the graph: `name version|feature,feature|`, a path behind the version of our own crates.
fn tree(root: &Path, arguments: &[&str]) -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root)
        .args(["tree", "--prefix=none", "--format={p}|{f}|"])
        .args(arguments)
        .output()
        .context("cannot run cargo tree")?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).context("cargo tree wrote no text")
}

fn collect(variants: &mut Variants, build: &'static str, tree: &str) {
    for line in tree.lines() {
        let mut parts = line.split('|');
        let (Some(package), Some(features)) = (parts.next(), parts.next()) else {
            continue;
        };
        // Our own crates differ on purpose: the fakes of the testkit are for tests alone.
        if package.contains("(/") {
            continue;
        }
        let of_package = variants.entry(package.to_owned()).or_default();
        let of_features = of_package.entry(features.to_owned()).or_default();
        of_features.insert(build);
    }
}

fn differing(variants: &Variants) -> Vec<String> {
    let several = variants.iter().filter(|(_, by)| by.len() > 1);
    let line = |(package, by): (&String, &BTreeMap<String, BTreeSet<&str>>)| {
        let ways: Vec<String> = by
            .iter()
            .map(|(features, builds)| {
                let builds: Vec<&str> = builds.iter().copied().collect();
                format!("[{features}] for {}", builds.join(" and "))
            })
            .collect();
        format!(
            "{package} is compiled {} times: {}; name the missing features in crates/weft-testkit/Cargo.toml",
            ways.len(),
            ways.join(", ")
        )
    };
    several.map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::{Variants, collect, differing};

    #[test]
    fn a_dependency_with_two_sets_of_features_is_found_and_our_own_crates_are_not() {
        let mut variants = Variants::new();
        let ours = "weft-testkit v0.1.0 (/somewhere/crates/weft-testkit)";
        collect(
            &mut variants,
            "cargo xtask",
            &format!("log v0.4.1||\nsyn v2.0.1 (proc-macro)|full|\n{ours}||\n"),
        );
        assert!(differing(&variants).is_empty());
        collect(
            &mut variants,
            "the tests",
            &format!("log v0.4.1|alloc,std| (*)\nsyn v2.0.1 (proc-macro)|full|\n{ours}|fakes|\n"),
        );
        let found = differing(&variants);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(
            "log v0.4.1 is compiled 2 times: [] for cargo xtask, [alloc,std] for the tests"
        ));
    }
}
