//! `cargo xtask ebpf`: builds the eBPF object anew and puts it into the repository, with a hash of its sources inside.
//!
//! In: `ebpf/`, `crates/weft-ebpf-abi/` and the build profile. Out: `node-proxy/agent/bpf/weft.bpf.o`, which is all
//! that `cargo build` needs, so that nobody but the author of a hook needs nightly, bpf-linker and LLVM.
//! [`verify`] tells whether object and sources belong together. Not here: loading the object (the agent).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::shell;

/// Where the object lives, from the workspace's root.
pub(crate) const OBJECT: &str = "node-proxy/agent/bpf/weft.bpf.o";

/// Folders whose files decide what the object is.
const SOURCES: [&str; 2] = ["ebpf", "crates/weft-ebpf-abi"];

/// What stands before the hash in the object; `weft_ebpf_abi::SOURCE_HASH_MARK`, which this crate does not depend on.
const MARK: &[u8] = b"weft-ebpf-sources-sha256:";

/// Instruction set v3 has compare-exchange (kernel 5.12); BTF describes the maps.
const FLAGS: [&str; 2] = ["-Ctarget-cpu=v3", "-Clink-arg=--btf"];

/// The LLVM that nightly and bpf-linker must agree on.
const LLVM: &str = "22";

const BPF_LINKER: &str = "0.13.0";

/// Arguments of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only tell whether the object in the repository belongs to the sources
    #[arg(long)]
    check: bool,
    /// Install nightly Rust, LLVM and bpf-linker where they are missing
    #[arg(long)]
    install: bool,
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.check {
        return verify();
    }
    ensure_toolchain(args.install)?;
    let hash = source_hash()?;
    let built = build(&hash)?;
    strip(&built)?;
    let object = shell::root().join(OBJECT);
    fs::create_dir_all(object.parent().expect("a path with folders"))?;
    fs::copy(&built, &object).with_context(|| format!("cannot write {}", object.display()))?;
    verify()?;
    shell::progress(&format!(
        "{OBJECT}: {} bytes, sources {hash}",
        fs::metadata(&object)?.len()
    ));
    Ok(())
}

/// Fails when the object in the repository was not built from the sources beside it.
pub(crate) fn verify() -> Result<()> {
    let object = shell::root().join(OBJECT);
    let bytes = fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    let want = source_hash()?;
    let found = bytes
        .windows(MARK.len())
        .position(|window| window == MARK)
        .and_then(|at| bytes.get(at + MARK.len()..at + MARK.len() + want.len()))
        .with_context(|| {
            format!("{OBJECT} carries no hash of its sources: run `cargo xtask ebpf`")
        })?;
    if found != want.as_bytes() {
        bail!(
            "{OBJECT} was built from other sources than these ({} instead of {want}): run `cargo xtask ebpf` and commit the result",
            String::from_utf8_lossy(found)
        );
    }
    Ok(())
}

/// Hash of everything that decides what the object is: sources, manifests, profiles and flags.
pub(crate) fn source_hash() -> Result<String> {
    let root = shell::root();
    let mut files = Vec::new();
    for folder in SOURCES {
        collect(&root.join(folder), &mut files)?;
    }
    files.sort();
    let mut hasher = Sha256::new();
    for file in files {
        let name = file.strip_prefix(&root).expect("collected below the root");
        part(&mut hasher, name.to_string_lossy().as_bytes());
        part(
            &mut hasher,
            &fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?,
        );
    }
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    for section in ["[profile.release]", "[profile.ebpf]"] {
        part(&mut hasher, section_of(&manifest, section)?.as_bytes());
    }
    part(&mut hasher, FLAGS.concat().as_bytes());
    Ok(format!("{:x}", hasher.finalize()))
}

/// Length first, so that no two lists of parts look the same.
fn part(hasher: &mut Sha256, bytes: &[u8]) {
    hasher.update((bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|ending| ending == "rs" || ending == "toml")
        {
            files.push(path);
        }
    }
    Ok(())
}

/// From a section's head to the line break before the next one.
fn section_of<'a>(manifest: &'a str, head: &str) -> Result<&'a str> {
    let start = manifest
        .find(head)
        .with_context(|| format!("Cargo.toml has no {head}"))?;
    let rest = &manifest[start..];
    Ok(rest[1..].find("\n[").map_or(rest, |end| &rest[..=end]))
}

fn build(hash: &str) -> Result<PathBuf> {
    let root = shell::root();
    let target = root.join("target/ebpf");
    shell::step(
        "building the eBPF object",
        // Not `$CARGO`: that one is the stable cargo that runs us.
        Command::new("cargo")
            .current_dir(&root)
            .args([
                "+nightly",
                "build",
                "--quiet",
                "--manifest-path",
                "ebpf/Cargo.toml",
            ])
            .args([
                "--bin",
                "weft-ebpf",
                "--features",
                "kernel",
                "--profile",
                "ebpf",
            ])
            .args(["--target", "bpfel-unknown-none", "-Zbuild-std=core"])
            .env("CARGO_TARGET_DIR", &target)
            .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&root)?)
            .env("WEFT_EBPF_SOURCE_HASH", hash)
            .env_remove("RUSTFLAGS")
            .env_remove("RUSTC")
            .env_remove("RUSTUP_TOOLCHAIN"),
    )?;
    Ok(target.join("bpfel-unknown-none/ebpf/weft-ebpf"))
}

/// [`FLAGS`], and no path of the building machine in the line information.
fn rustflags(root: &Path) -> Result<String> {
    let sysroot = shell::output(
        Command::new("rustc")
            .args(["+nightly", "--print", "sysroot"])
            .env_remove("RUSTUP_TOOLCHAIN"),
    )?;
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let mut flags: Vec<String> = FLAGS.map(String::from).to_vec();
    flags.push(format!("--remap-path-prefix={}=weft", root.display()));
    flags.push(format!("--remap-path-prefix={}=rust", sysroot.trim()));
    if let Some(home) = home {
        flags.push(format!("--remap-path-prefix={}=cargo", home.display()));
    }
    Ok(flags.join("\u{1f}"))
}

/// Takes the DWARF out, a third of a megabyte that nothing reads; BTF stays.
fn strip(object: &Path) -> Result<()> {
    let strip = llvm_tool("llvm-strip")
        .context("llvm-strip not found: run `cargo xtask ebpf --install`")?;
    shell::run(Command::new(strip).arg("--strip-debug").arg(object))?;
    let objcopy = llvm_tool("llvm-objcopy")
        .context("llvm-objcopy not found: run `cargo xtask ebpf --install`")?;
    // Relocations of BTF serve a linker, and there is none after this.
    shell::run(
        Command::new(objcopy)
            .args(["--remove-section=.rel.BTF", "--remove-section=.rel.BTF.ext"])
            .arg(object),
    )
}

fn llvm_tool(name: &str) -> Option<PathBuf> {
    let versioned = PathBuf::from(format!("/usr/lib/llvm-{LLVM}/bin/{name}"));
    if versioned.exists() {
        return Some(versioned);
    }
    succeeds(Command::new(name).arg("--version")).then(|| name.into())
}

/// Checks for nightly with its sources, LLVM and bpf-linker; installs what is missing if told to.
pub(crate) fn ensure_toolchain(install: bool) -> Result<()> {
    let nightly = succeeds(
        Command::new("rustc")
            .args(["+nightly", "--version"])
            .env_remove("RUSTUP_TOOLCHAIN"),
    );
    let sources = nightly && has_core_sources();
    let llvm = llvm_tool("llvm-strip").is_some() && llvm_tool("llvm-objcopy").is_some();
    let linker = succeeds(Command::new("bpf-linker").arg("--version"));
    let missing: Vec<&str> = [
        (nightly, "nightly Rust"),
        (sources, "its component rust-src"),
        (llvm, "LLVM's tools"),
        (linker, "bpf-linker"),
    ]
    .into_iter()
    .filter_map(|(there, name)| (!there).then_some(name))
    .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !install {
        bail!(
            "missing for the eBPF object: {}; `cargo xtask ebpf --install` installs them",
            missing.join(", ")
        );
    }
    if !sources {
        shell::step(
            "installing nightly Rust with its sources",
            Command::new("rustup").args([
                "toolchain",
                "install",
                "nightly",
                "--profile",
                "minimal",
                "--component",
                "rust-src",
            ]),
        )?;
    }
    if !llvm || !linker {
        let packages = [
            format!("llvm-{LLVM}-dev"),
            format!("llvm-{LLVM}"),
            "libzstd-dev".into(),
            "zlib1g-dev".into(),
        ];
        shell::step(
            "installing LLVM",
            Command::new("apt-get")
                .args(["install", "-y", "-qq"])
                .args(&packages),
        )?;
    }
    if !linker {
        build_linker()?;
    }
    Ok(())
}

fn build_linker() -> Result<()> {
    shell::step(
        "building bpf-linker (some minutes)",
        Command::new("cargo")
            .args([
                "install",
                "bpf-linker",
                "--version",
                BPF_LINKER,
                "--locked",
                "--no-default-features",
            ])
            .args(["--features", &format!("llvm-{LLVM}")])
            .env("LLVM_PREFIX", format!("/usr/lib/llvm-{LLVM}"))
            .env_remove("RUSTUP_TOOLCHAIN"),
    )
}

fn has_core_sources() -> bool {
    let sysroot = Command::new("rustc")
        .args(["+nightly", "--print", "sysroot"])
        .env_remove("RUSTUP_TOOLCHAIN")
        .output();
    sysroot.is_ok_and(|output| {
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Path::new(&path)
            .join("lib/rustlib/src/rust/library/core")
            .is_dir()
    })
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::section_of;

    #[test]
    fn a_section_ends_where_the_next_begins() {
        let manifest = "[a]\nx = 1\n\n[b]\ny = [1]\n[c]\n";
        assert_eq!(section_of(manifest, "[b]").unwrap(), "[b]\ny = [1]");
        assert_eq!(section_of(manifest, "[c]").unwrap(), "[c]\n");
        assert!(section_of(manifest, "[d]").is_err());
    }
}
