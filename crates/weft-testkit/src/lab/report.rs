//! The JSON document that describes a running lab.
//!
//! In: the lab and its programs as they are now. Out: one JSON value in the documented form; the
//! same one from `up` and from `status`, where the latter adds conditions. Not here: waiting.

use serde_json::{Value, json};

use anyhow::Result;

use crate::admin;
use crate::lab::instance::Lab;
use crate::lab::program::{Running, of_lab};
use crate::lab::start::{CONTROLLER_METRICS_PORT, controller_url};

/// Metrics ports of the programs of a node, each in the node's own namespace.
const METRICS_PORTS: [(&str, u16); 3] = [("node", 15023), ("agent", 15025), ("proxy", 15020)];

/// The document.
pub fn describe(lab: &Lab) -> Value {
    let record = lab.record();
    let nodes: Vec<Value> = record
        .plan
        .nodes
        .iter()
        .map(|node| describe_node(lab, &node.name, node.external))
        .collect();
    let pods: Vec<Value> = record
        .plan
        .pods
        .iter()
        .map(|pod| {
            let program = record.pods.get(&pod.entry.key());
            json!({
                "name": pod.entry.name,
                "namespace": pod.entry.namespace,
                "node": pod.entry.node,
                "netns": pod.netns,
                "ip": pod.addresses.first(),
                "ips": pod.addresses,
                "pid": program.filter(|running| running.alive()).map(|running| running.pid),
            })
        })
        .collect();
    json!({
        "controller": describe_controller(lab),
        "nodes": nodes,
        "pods": pods,
        "services": services(lab),
        "gateways": [],
    })
}

/// The document with the conditions of policies and the fate of the last edit.
pub fn status(lab: &Lab) -> Value {
    let mut document = describe(lab);
    document["edit"] = match &lab.record().edit_error {
        Some(error) => json!({"applied": false, "error": error}),
        None => json!({"applied": true}),
    };
    match controller_status(lab) {
        Ok(controller) => {
            document["policies"] = controller["policies"].clone();
            document["findings"] = controller["findings"].clone();
            document["source"] = controller["source"].clone();
        }
        Err(error) => document["controllerError"] = json!(format!("{error:#}")),
    }
    document
}

/// The newest program of that name on a node: while one is being replaced, the successor.
pub fn program_of_node(lab: &Lab, node: &str, program: &str) -> Option<Running> {
    let inode = lab.topology().node(node).inode().ok()?;
    of_lab(lab.place().name(), &[inode])
        .into_iter()
        .filter(|running| running.name() == program && running.is_inside(inode))
        .max_by_key(|running| (running.started, running.pid))
}

fn describe_controller(lab: &Lab) -> Value {
    let place = lab.place();
    json!({
        "pid": lab.record().controller.filter(|running| running.alive()).map(|running| running.pid),
        "address": controller_url(),
        "rootCert": place.root_certificate(),
        "netns": lab.topology().controller().name(),
        "admin": place.controller_admin(),
        "metrics": format!("http://127.0.0.1:{CONTROLLER_METRICS_PORT}/metrics"),
        "log": place.log("controller"),
    })
}

fn describe_node(lab: &Lab, node: &str, external: bool) -> Value {
    let place = lab.place();
    let mut document = json!({
        "name": node,
        "netns": lab.topology().node(node).name(),
        "nodePid": null,
        "agentPid": null,
        "proxyPid": null,
        "token": place.token(node),
    });
    if external {
        document["external"] = json!(true);
        return document;
    }
    for (program, port) in METRICS_PORTS {
        let running = program_of_node(lab, node, &format!("weft-{program}"));
        document[format!("{program}Pid")] = json!(running.map(|running| running.pid));
        let log = if program == "node" {
            place.log(&format!("{node}.node"))
        } else {
            place.node_logs(node).join(format!("{program}.log"))
        };
        document[program] = json!({
            "admin": place.admin(node, program),
            "metrics": format!("http://127.0.0.1:{port}/metrics"),
            "log": log,
        });
    }
    document
}

/// What the controller says of services, policies and its source.
pub fn controller_status(lab: &Lab) -> Result<Value> {
    admin::get_json(&lab.place().controller_admin(), "/status")
}

fn services(lab: &Lab) -> Value {
    // A controller that is away is told by its pid.
    controller_status(lab).map_or_else(|_| json!([]), |status| status["services"].clone())
}
