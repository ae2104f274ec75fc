//! Waiting until a lab does what its file says.
//!
//! In: the lab. Out: nothing, or an error that names the pod and what it still lacks. Not here:
//! causing any of it.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail, ensure};
use serde_json::Value;

use crate::admin;
use crate::interrupt::Interrupted;
use crate::lab::instance::Lab;
use crate::lab::plan::{PlannedPod, controller_address};
use crate::lab::program::{Running, tail};
use crate::lab::report;
use crate::lab::source::Resources;
use crate::lab::start::CONTROLLER_PORT;
use crate::wait::{LONG, SHORT, in_vain, until, until_done};

/// Bound of one attempt to connect to the controller.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Lines of a log in a message.
const LOG_LINES: usize = 5;

/// Waits until the controller answers.
pub(crate) fn wait_for_controller(lab: &Lab) -> Result<()> {
    let address = SocketAddr::new(controller_address().into(), CONTROLLER_PORT);
    let place = lab.place();
    until("the controller", LONG, || {
        let running = lab.record().controller.is_some_and(Running::alive);
        if !running {
            return Err(ended("the controller", &place.log("controller")));
        }
        ensure!(
            place.root_certificate().exists(),
            "it wrote no root certificate yet"
        );
        lab.topology().controller().enter(|| {
            TcpStream::connect_timeout(&address, CONNECT_LIMIT)
                .with_context(|| format!("it does not listen on {address}"))?;
            Ok(())
        })
    })
}

/// The error of waiting for a program that nobody starts again.
pub(crate) fn ended(program: &str, log: &Path) -> Error {
    in_vain(format!(
        "{program} ended; its last words in {}: {}",
        log.display(),
        tail(log, LOG_LINES)
    ))
}

/// Waits until every pod of the mesh is enrolled and has its certificate, and every other one is
/// left alone.
pub(crate) fn wait(lab: &Lab) -> Result<()> {
    wait_for_services(lab)?;
    let plan = &lab.record().plan;
    for node in plan.nodes.iter().filter(|node| !node.external) {
        lab.say(&format!("waiting for the pods of {}", node.name));
        for pod in plan.pods.iter().filter(|pod| pod.entry.node == node.name) {
            until(&format!("pod {}", pod.entry.key()), LONG, || {
                check_pod(lab, pod)
            })?;
        }
    }
    Ok(())
}

/// Waits until the controller has read every Service of the resources; one that it refuses is told
/// in its status and waited for no longer.
fn wait_for_services(lab: &Lab) -> Result<()> {
    let resources = Resources::read(&lab.record().base, &lab.record().file.resources)?;
    let wanted = resources.of_kind("Service");
    until("the controller to read the services", SHORT, || {
        let status = report::controller_status(lab)?;
        let known = status["services"].as_array().cloned().unwrap_or_default();
        let problems = status["source"]["problems"].to_string() + &status["findings"].to_string();
        for (namespace, name) in &wanted {
            let read = known
                .iter()
                .any(|service| service["name"] == **name && service["namespace"] == **namespace);
            ensure!(
                read || problems.contains(name.as_str()),
                "it does not know {namespace}/{name}"
            );
        }
        Ok(())
    })
}

/// Waits until a node's holder has agent and proxy again.
pub(crate) fn wait_for_holder(lab: &Lab, node: &str) -> Result<()> {
    until_done(&format!("weft-node of {node}"), LONG, || {
        check_holder(lab, node)?;
        admin::get(&lab.place().admin(node, "node"), "/healthz/ready")?;
        Ok(())
    })
}

/// Waits until the mesh has let go of a pod. Where no agent runs there is nobody to wait for.
pub(crate) fn wait_until_left(lab: &Lab, pod: &PlannedPod, uid: &str) -> Result<()> {
    let socket = lab.place().admin(&pod.entry.node, "agent");
    if admin::get(&socket, "/pods").is_err() {
        return Ok(());
    }
    until(
        &format!("the mesh to let go of {}", pod.entry.key()),
        SHORT,
        || {
            ensure!(
                pod_of_agent(&socket, uid)?.is_none(),
                "it is still enrolled"
            );
            Ok(())
        },
    )
}

/// Waits until a node's holder has let go of a pod as well, some seconds after the mesh: until then peers that have not heard reach
/// it. A holder that has ended holds nothing. One that never lets go, because no agent runs to tell it, is told as a warning: who
/// waits goes on.
pub(crate) fn wait_until_released(lab: &Lab, pod: &PlannedPod, uid: &str) -> Result<()> {
    let node = &pod.entry.node;
    let socket = lab.place().admin(node, "node");
    let holder = lab.record().nodes.get(node);
    let what = format!("the node to let go of {}", pod.entry.key());
    lab.say(&format!("waiting for {what}"));
    let outcome = until(&what, LONG, || {
        if !holder.is_some_and(|holder| holder.alive()) {
            return Ok(());
        }
        let dump = admin::get_json(&socket, "/config_dump")?;
        let held = dump["pods"].as_array().context("it lists no pods")?;
        ensure!(held.iter().all(|pod| pod["uid"] != uid), "it holds it");
        Ok(())
    });
    match outcome {
        Err(error) if !error.is::<Interrupted>() => {
            lab.say(&format!("warning: {error:#}"));
            Ok(())
        }
        other => other,
    }
}

/// Nobody starts a node's `weft-node` again, as the kubelet would.
fn check_holder(lab: &Lab, node: &str) -> Result<()> {
    match lab.record().nodes.get(node) {
        Some(running) if !running.alive() => Err(ended(
            &format!("weft-node of {node}"),
            &lab.place().log(&format!("{node}.node")),
        )),
        _ => Ok(()),
    }
}

fn check_pod(lab: &Lab, pod: &PlannedPod) -> Result<()> {
    let node = &pod.entry.node;
    let place = lab.place();
    check_holder(lab, node)?;
    let uid = lab
        .record()
        .uids
        .get(&pod.entry.key())
        .map_or("", String::as_str);
    let found = pod_of_agent(&place.admin(node, "agent"), uid)?;
    if !pod.entry.mesh {
        ensure!(found.is_none(), "it is still enrolled");
        return Ok(());
    }
    let log = place.node_logs(node);
    let Some(found) = found else {
        bail!(
            "its agent does not know it; see {}",
            log.join("agent.log").display()
        );
    };
    ensure!(
        found["state"] == "enrolled",
        "it is {} ({}); see {}",
        found["state"],
        found["reason"],
        log.join("agent.log").display()
    );
    let identity = format!(
        "/ns/{}/sa/{}\"",
        pod.entry.namespace, pod.entry.service_account
    );
    let certificates = admin::get(&place.admin(node, "proxy"), "/certificates")?;
    ensure!(
        certificates.contains(&identity),
        "its proxy has no certificate for {identity}; see {}",
        log.join("proxy.log").display()
    );
    Ok(())
}

/// What an agent says of a pod; nothing when the pod is none of its business.
fn pod_of_agent(socket: &Path, uid: &str) -> Result<Option<Value>> {
    let pods = admin::get_json(socket, "/pods")?;
    let list = pods.as_array().context("/pods is no list")?;
    Ok(list.iter().find(|pod| pod["uid"] == uid).cloned())
}
