//! `cargo xtask ebpf`.

/// Arguments of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Runs the verb.
pub(crate) fn run(_args: &Args) -> anyhow::Result<()> {
    anyhow::bail!("not built into this checkout")
}

/// Fails when the object in the repository was not built from the sources beside it.
pub(crate) fn verify() -> anyhow::Result<()> {
    anyhow::bail!("not built into this checkout")
}
