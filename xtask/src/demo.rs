//! `cargo xtask demo`: the mesh on real traffic, in a page.
//!
//! In: nothing but this checkout and root. Out: acts, each a claim and the traffic that shows it;
//! then everything is taken down, or with `--keep` left for looking around. A claim that does not
//! hold ends the demo with an error. Not here: how anything works (`docs/`).

use anyhow::{Context as _, Result};
use weft_testkit::lab::file::LabFile;
use weft_testkit::lab::program::keep_descriptors_here;
use weft_testkit::lab::{Lab, Options, down};

mod acts;
mod stage;

use crate::{setup, shell};
use stage::Stage;

/// Name of the demo's lab.
const NAME: &str = "demo";

/// Arguments of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave everything running at the end
    #[arg(long)]
    keep: bool,
}

/// Two nodes, four pods of three service accounts. Nobody is in the mesh at first.
const LAB: &str = "\
nodes: [{name: n1}, {name: n2}]
pods:
- {name: web, serviceAccount: web, node: n1, ip: 10.77.0.10, labels: {app: web}, mesh: false}
- {name: api-1, serviceAccount: api, node: n1, ip: 10.77.0.11, labels: {app: api}, mesh: false,
   run: [weft-peer, http, --port, '8080', --name, api-1]}
- {name: api-2, serviceAccount: api, node: n2, ip: 10.77.0.12, labels: {app: api}, mesh: false,
   run: [weft-peer, http, --port, '8080', --name, api-2]}
- {name: batch, serviceAccount: batch, node: n2, ip: 10.77.0.13, labels: {app: batch}, mesh: false}
resources: [api.yaml]
";

/// A Service with two endpoints. Nothing but the mesh serves its address here.
const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: api, namespace: default}
spec:
  clusterIP: 10.96.0.80
  selector: {app: api}
  ports: [{name: http, port: 80, targetPort: 8080}]
";

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    shell::require_root("demo")?;
    setup::ensure(setup::Purpose::Demo)?;
    let build = shell::build_programs()?;
    keep_descriptors_here();
    // What an interrupted demo left is taken away first.
    down(NAME)?;
    let folder = shell::root().join("target/weft-demo");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    std::fs::write(folder.join("lab.yaml"), LAB)?;
    std::fs::write(folder.join("api.yaml"), SERVICE)?;
    let options = Options {
        name: NAME.to_owned(),
        build,
        file_path: Some(folder.join("lab.yaml")),
        base: folder.clone(),
        progress: shell::progress,
    };
    let lab = Lab::up(&options, LabFile::parse(LAB)?)?;
    let mut stage = Stage::new(lab, folder.clone())?;
    let outcome = play(&mut stage);
    if args.keep && outcome.is_ok() {
        return keep(stage);
    }
    drop(stage);
    down(NAME)?;
    let _ = std::fs::remove_dir_all(&folder);
    outcome?;
    println!();
    println!("Everything was taken down again. What to try next:");
    println!("  cargo xtask demo --keep       the same, left running to look around");
    println!("  cargo xtask lab up FILE       a mesh over your own namespaces (docs/lab.md)");
    println!("  cargo xtask bench l4          how fast it is on this machine");
    Ok(())
}

fn play(stage: &mut Stage) -> Result<()> {
    acts::before(stage).context("act 1")?;
    acts::enrol(stage).context("act 2")?;
    acts::identities(stage).context("act 3")?;
    acts::policy(stage).context("act 4")?;
    acts::cut(stage).context("act 5")?;
    acts::kill(stage).context("act 6")?;
    acts::metrics(stage).context("act 7")
}

fn keep(stage: Stage) -> Result<()> {
    let folder = stage.folder.clone();
    let mut lab = stage.into_lab();
    let words = ["lab", "watch", "--name", NAME].map(ToOwned::to_owned);
    lab.start_watcher(words.to_vec())?;
    let web = lab.pod("web")?.netns.clone();
    println!();
    println!("The mesh is left running. Try:");
    println!("  nsenter --net=/run/netns/{web} curl -s http://10.96.0.80/");
    println!("  cargo xtask lab status --name {NAME}");
    println!(
        "  edit {} (or api.yaml beside it): it takes effect when saved",
        folder.join("lab.yaml").display()
    );
    println!("  cargo xtask lab down --name {NAME}");
    Ok(())
}
