//! The JSON document that describes a running lab.
//!
//! In: the lab and its programs as they are now. Out: one JSON value in the documented form, from `up` and `status` with
//! conditions, and in words what it says of mistakes. Not here: waiting.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use anyhow::Result;

use crate::admin;
use crate::lab::edit;
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
            let runs = program.filter(|running| running.alive());
            let log = lab.place().pod_log(&pod.entry.namespace, &pod.entry.name);
            json!({
                "name": pod.entry.name,
                "namespace": pod.entry.namespace,
                "node": pod.entry.node,
                "netns": pod.netns,
                "ip": pod.addresses.first(),
                "ips": pod.addresses,
                "pid": runs.map(|running| running.pid),
                "ended": program.is_some() && runs.is_none(),
                "log": program.map(|_| log),
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
    document["edit"] = edit::describe(lab);
    match controller_status(lab) {
        Ok(controller) => {
            document["policies"] = controller["policies"].clone();
            document["findings"] = controller["findings"].clone();
            document["source"] = controller["source"].clone();
            lab.name_originals(&mut document["source"]["problems"]);
        }
        Err(error) => document["controllerError"] = json!(format!("{error:#}")),
    }
    document
}

/// What a document with conditions says of objects that do not get what they ask for.
pub fn warnings(document: &Value) -> Vec<String> {
    let list = |pointer: &str| {
        let values = document.pointer(pointer).and_then(Value::as_array);
        values.into_iter().flatten()
    };
    let word = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let mut policies = BTreeMap::new();
    for policy in list("/policies") {
        let conditions = policy["conditions"].as_array().into_iter().flatten();
        for condition in conditions.filter(|condition| condition["status"] == "False") {
            let [kind, namespace, name] =
                ["kind", "namespace", "name"].map(|key| word(policy, key));
            let [what, message] = ["type", "message"].map(|key| word(condition, key));
            policies.insert(
                format!("{kind} {namespace}/{name}"),
                format!("not {}: {message}", what.to_lowercase()),
            );
        }
    }
    // What is said of a policy stands in its condition already.
    let others = list("/source/problems")
        .chain(list("/findings"))
        .filter(|other| !policies.contains_key(&word(other, "object")))
        .map(|other| {
            let line = other["line"].as_u64().filter(|line| *line > 0);
            let line = line.map(|line| format!("line {line}")).unwrap_or_default();
            let [object, file, field] = ["object", "file", "field"].map(|key| word(other, key));
            let place = [object, file, line, field, word(other, "message")];
            let place: Vec<&str> = place.iter().map(String::as_str).collect();
            let known: Vec<&str> = place.into_iter().filter(|text| !text.is_empty()).collect();
            format!("{}; {}", known.join(": "), word(other, "effect"))
        });
    let refused = policies
        .iter()
        .map(|(policy, text)| format!("{policy}: {text}"));
    refused.chain(others).collect()
}

/// What a document says of programs that have ended and that nobody starts again by himself. While an edit is being applied,
/// it may be the one that ends a pod's program, before it says so: then nothing is told of pods.
pub fn ended(document: &Value) -> Vec<String> {
    let again = "take the lab down and up again";
    let list = |key: &str| document[key].as_array().into_iter().flatten();
    let controller = std::iter::once(&document["controller"]).map(|controller| {
        let who = "the controller".to_owned();
        (controller, who, &controller["log"], again)
    });
    let nodes = list("nodes").map(|node| {
        let who = format!("weft-node of {}", text(&node["name"]));
        (node, who, &node["node"]["log"], again)
    });
    let edit = &document["edit"];
    let is_edited = edit["pending"] == true && edit["watched"] == true;
    let pods = list("pods").filter(|_| !is_edited).map(|pod| {
        let [namespace, name] = [&pod["namespace"], &pod["name"]].map(text);
        let who = format!("what `run` started in pod {namespace}/{name}");
        (pod, who, &pod["log"], "the next edit starts it again")
    });
    controller
        .chain(nodes)
        .chain(pods)
        .filter(|(program, ..)| program["ended"] == true)
        .map(|(_, who, log, what_to_do)| {
            format!("{who} has ended, see {}; {what_to_do}", text(log))
        })
        .collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
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
    let started = lab.record().controller;
    let runs = started.filter(|running| running.alive());
    json!({
        "pid": runs.map(|running| running.pid),
        "ended": started.is_some() && runs.is_none(),
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
    let started = lab.record().nodes.get(node);
    for (program, port) in METRICS_PORTS {
        // A `weft-node` that has been replaced and still drains does not stand for one that has ended.
        let running = program_of_node(lab, node, &format!("weft-{program}")).filter(|running| {
            program != "node" || started.is_none_or(|newest| running.started >= newest.started)
        });
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
    document["ended"] = json!(started.is_some() && document["nodePid"].is_null());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_pods_program_nothing_is_told_while_an_edit_is_being_applied() {
        let told = |pending: bool, watched: bool| {
            ended(&json!({
                "controller": {"ended": true, "log": "c.log"},
                "pods": [{"name": "a", "namespace": "default", "ended": true, "log": "a.log"}],
                "edit": {"pending": pending, "watched": watched},
            }))
        };
        let controller = "the controller has ended, see c.log; take the lab down and up again";
        assert_eq!(told(true, true), [controller]);
        for told in [told(false, true), told(true, false)] {
            assert_eq!(told.len(), 2, "{told:?}");
            assert!(told[1].contains("default/a has ended"), "{told:?}");
        }
    }
}
