//! `cargo xtask setup`.

/// Arguments of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Runs the verb.
pub(crate) fn run(_args: &Args) -> anyhow::Result<()> {
    anyhow::bail!("not built into this checkout")
}
