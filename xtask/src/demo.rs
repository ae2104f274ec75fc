//! `cargo xtask demo`: the mesh on real traffic, in a page.
//!
//! In: nothing but this checkout and root. Out: acts, each a claim and the traffic that shows it;
//! then everything is taken down, or with `--keep` left for looking around. A claim that does not
//! hold ends the demo with an error. Not here: how anything works (`docs/`).

use std::io::Write as _;

use anyhow::{Context as _, Result};
use weft_testkit::interrupt;
use weft_testkit::lab::file::LabFile;
use weft_testkit::lab::{Lab, Occupant, Options, down, occupant};

mod acts;
mod counts;
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
    shell::refuse_lab_in_use(NAME, "demo")?;
    shell::take_down_on_signals(NAME)?;
    setup::ensure(setup::Purpose::Demo)?;
    let build = shell::build_programs()?;
    shell::claim_lab_name(NAME, "demo")?;
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
    // A lab that does not come up undoes itself.
    let lab = Lab::up(&options, LabFile::parse(LAB)?).inspect_err(|_| {
        // Another demo may have been faster: then the files are its own.
        if occupant(NAME) == Occupant::Nobody {
            let _ = std::fs::remove_dir_all(&folder);
        }
    })?;
    let outcome = show(lab, &options, args.keep);
    if args.keep && outcome.is_ok() {
        return Ok(());
    }
    shell::progress("taking everything down");
    down(NAME)?;
    let _ = std::fs::remove_dir_all(&folder);
    outcome?;
    for line in [
        "",
        "Everything was taken down again. What to try next:",
        "  cargo xtask demo --keep       the same, left running to look around",
        "  cargo xtask lab up FILE       a mesh of your own (docs/lab.md)",
        "  cargo xtask bench l4          how fast it is on this machine",
    ] {
        tell(line);
    }
    Ok(())
}

/// A line of the demo. Whoever read it may be gone: the demo goes on to its end, where everything is taken down.
fn tell(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn show(lab: Lab, options: &Options, keep_it: bool) -> Result<()> {
    let mut stage = Stage::new(lab, options.base.clone())?;
    play(&mut stage)?;
    if keep_it {
        keep(stage)?;
    }
    Ok(())
}

fn play(stage: &mut Stage) -> Result<()> {
    let acts: [fn(&mut Stage) -> Result<()>; 7] = [
        acts::before,
        acts::enrol,
        acts::identities,
        acts::policy,
        acts::cut,
        acts::kill,
        counts::metrics,
    ];
    for (number, act) in acts.into_iter().enumerate() {
        interrupt::check()
            .and_then(|()| act(stage))
            .with_context(|| format!("act {}", number + 1))?;
    }
    Ok(())
}

fn keep(stage: Stage) -> Result<()> {
    let folder = stage.folder.clone();
    let mut lab = stage.into_lab();
    let words = ["lab", "watch", "--name", NAME].map(ToOwned::to_owned);
    lab.start_watcher(words.to_vec())?;
    let web = lab.pod("web")?.netns.clone();
    interrupt::check()?;
    for line in [
        String::new(),
        "The mesh is left running. Try:".to_owned(),
        format!("  nsenter --net=/run/netns/{web} curl -s http://10.96.0.80/"),
        format!("  cargo xtask lab status --name {NAME}"),
        format!(
            "  edit {} (or api.yaml beside it): it takes effect when saved",
            folder.join("lab.yaml").display()
        ),
        format!("  cargo xtask lab down --name {NAME}"),
    ] {
        tell(&line);
    }
    Ok(())
}
