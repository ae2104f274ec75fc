//! The command lines of a lab's programs.
//!
//! In: the lab. Out: running programs, each in its namespace. Not here: waiting until they serve.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::lab::instance::Lab;
use crate::lab::place::{Place, write_atomically};
use crate::lab::plan::{PlannedPod, controller_address};
use crate::lab::program::{Running, Start};
use crate::netns::Netns;

/// The controller's port, in a namespace where nothing else listens.
pub(crate) const CONTROLLER_PORT: u16 = 15012;
/// The controller's metrics, there as well.
pub(crate) const CONTROLLER_METRICS_PORT: u16 = 15014;

/// The controller as the nodes reach it.
pub(crate) fn controller_url() -> String {
    format!("https://{}:{CONTROLLER_PORT}", controller_address())
}

/// Starts the controller.
pub(crate) fn controller(lab: &Lab) -> Result<Running> {
    let place = lab.place();
    let flags = [
        ("--source", path(&place.source())),
        (
            "--listen",
            format!("{}:{CONTROLLER_PORT}", controller_address()),
        ),
        ("--state-dir", path(&place.controller())),
        ("--tokens", path(&place.tokens())),
        ("--root-cert-out", path(&place.root_certificate())),
        ("--admin-socket", path(&place.controller_admin())),
        (
            "--metrics-address",
            format!("0.0.0.0:{CONTROLLER_METRICS_PORT}"),
        ),
    ];
    start(
        lab,
        &lab.topology().controller(),
        "weft-controller",
        &flags,
        &[],
        "controller",
    )
}

/// Starts a node's `weft-node`, which starts agent and proxy.
pub(crate) fn node(lab: &Lab, name: &str) -> Result<Running> {
    start_node(lab, name, &[])
}

/// Starts the `weft-node` that takes everything over from the one that runs.
pub(crate) fn successor(lab: &Lab, name: &str) -> Result<Running> {
    start_node(lab, name, &["--takeover".to_owned()])
}

fn start_node(lab: &Lab, name: &str, more: &[String]) -> Result<Running> {
    let place = lab.place();
    let flags = [
        ("--node", name.to_owned()),
        ("--run-dir", path(&place.run(name))),
        ("--state-dir", path(&place.state(name))),
        ("--controller", controller_url()),
        ("--root-cert", path(&place.root_certificate())),
        ("--token-file", path(&place.token(name))),
        ("--bpffs", path(&place.bpffs())),
        ("--log-dir", path(&place.node_logs(name))),
    ];
    let netns = lab.topology().node(name);
    start(
        lab,
        &netns,
        "weft-node",
        &flags,
        more,
        &format!("{name}.node"),
    )
}

/// What a pod's `run` amounts to: a name without a slash may be a program of this build.
pub(crate) fn command_line(lab: &Lab, pod: &PlannedPod) -> Vec<String> {
    let mut words = pod.entry.run.clone();
    if let Some(program) = words.first_mut()
        && !program.contains('/')
    {
        let own = lab.record().programs.join(&*program);
        if own.exists() {
            *program = path(&own);
        }
    }
    words
}

/// Starts what a pod's `run` names.
pub(crate) fn pod(lab: &Lab, pod: &PlannedPod) -> Result<Running> {
    let mut words = command_line(lab, pod).into_iter();
    let program = words.next().context("run is empty")?;
    let key = pod.entry.key();
    Start {
        lab: lab.place().name(),
        netns: Some(&Netns::named(pod.netns.clone())),
        program: PathBuf::from(program),
        arguments: words.collect(),
        log: lab.place().pod_log(&pod.entry.namespace, &pod.entry.name),
    }
    .start()
    .with_context(|| format!("pod {key}: run"))
}

/// Makes a node's token unless it has one.
pub(crate) fn token(place: &Place, node: &str) -> Result<()> {
    let path = place.token(node);
    if path.exists() {
        return Ok(());
    }
    let token = format!(
        "{:032x}{:032x}",
        rand::random::<u128>(),
        rand::random::<u128>()
    );
    write_atomically(&path, token.as_bytes(), 0o600)
}

fn start(
    lab: &Lab,
    netns: &Netns,
    program: &str,
    flags: &[(&str, String)],
    more: &[String],
    log: &str,
) -> Result<Running> {
    Start {
        lab: lab.place().name(),
        netns: Some(netns),
        program: lab.record().programs.join(program),
        arguments: flags
            .iter()
            .flat_map(|(flag, value)| [(*flag).to_owned(), value.clone()])
            .chain(more.iter().cloned())
            .collect(),
        log: lab.place().log(log),
    }
    .start()
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
