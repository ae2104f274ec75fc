//! From `up` to `down` on the command line: the JSON, edits while it runs, crashes.

use rustix::process::Signal;
use weft_testkit::lab::program::Running;

use super::*;

const FILE: &str = "nodes: [{name: n1}, {name: n2}]
pods:
- {name: a, serviceAccount: a, node: n1, ip: 10.77.0.10}
- {name: b, node: n2, ip: 10.77.0.11, labels: {app: b}, run: [weft-peer, echo, --port, '7000']}
resources: [svc.yaml]
";
const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: b}
spec: {clusterIP: 10.96.0.5, selector: {app: b}, ports: [{port: 80, targetPort: 7000}]}
";

fn pid(value: &Value) -> Running {
    let pid = i32::try_from(value.as_i64().expect("a pid")).unwrap();
    Running::of(pid).expect("a process that runs")
}

#[test]
fn the_document_tells_everything_that_an_outside_program_needs() {
    if !has_xtask() {
        return;
    }
    let lab = CommandLine::new("json");
    lab.write("svc.yaml", SERVICE);
    let document = lab.up(FILE).unwrap();
    assert!(
        document["controller"]["address"]
            .as_str()
            .unwrap()
            .starts_with("https://")
    );
    for path in [
        &document["controller"]["rootCert"],
        &document["controller"]["admin"],
        &document["controller"]["log"],
        &document["nodes"][0]["token"],
        &document["nodes"][0]["node"]["admin"],
        &document["nodes"][0]["agent"]["admin"],
        &document["nodes"][0]["proxy"]["admin"],
        &document["nodes"][1]["proxy"]["log"],
    ] {
        assert!(Path::new(path.as_str().unwrap()).exists(), "{path}");
    }
    for program in ["nodePid", "agentPid", "proxyPid"] {
        pid(&document["nodes"][0][program]);
    }
    assert_eq!(document["pods"][0]["ip"], "10.77.0.10");
    assert_eq!(document["pods"][0]["pid"], Value::Null);
    pid(&document["pods"][1]["pid"]);
    assert_eq!(document["services"][0]["addresses"][0], "10.96.0.5");
    assert_eq!(document["gateways"], serde_json::json!([]));
    let a = Netns::named(document["pods"][0]["netns"].as_str().unwrap());
    load::echo(&a, "10.96.0.5:80".parse().unwrap(), 5000).unwrap();
    let metrics = weft_testkit::admin::get_tcp(
        &Netns::named(document["nodes"][0]["netns"].as_str().unwrap()),
        "127.0.0.1:15020".parse().unwrap(),
        "/metrics",
    )
    .unwrap();
    assert!(
        metrics.contains("istio_tcp_connections_opened_total"),
        "{metrics}"
    );
    assert!(lab.lab(&["down"]).status.success());
    lab.assert_nothing_left();
}

#[test]
fn edits_take_effect_and_bad_ones_change_nothing() {
    if !has_xtask() {
        return;
    }
    let lab = CommandLine::new("edit");
    lab.write("svc.yaml", SERVICE);
    let document = lab.up(FILE).unwrap();
    let proxy = pid(&document["nodes"][0]["proxyPid"]);

    lab.write("lab.yaml", "nodes: [{name: n1}]\nbogus: 1\n");
    until("the bad edit to show", LONG, || {
        let status = lab.status();
        let error = status["edit"]["error"].as_str().unwrap_or_default();
        anyhow::ensure!(error.contains("bogus"), "{}", status["edit"]);
        Ok(())
    })
    .unwrap();
    let a = Netns::named(document["pods"][0]["netns"].as_str().unwrap());
    load::echo(&a, "10.96.0.5:80".parse().unwrap(), 100).unwrap();

    // A pod more, and one that leaves the mesh.
    let more = FILE.replace(
        "node: n1, ip: 10.77.0.10}",
        "node: n1, ip: 10.77.0.10, mesh: false}",
    ) + "settings: {}\n";
    let more = more.replace(
        "resources:",
        "- {name: c, node: n1, run: [weft-peer, echo, --port, '7000']}\nresources:",
    );
    lab.write("lab.yaml", &more);
    until("the good edit to take effect", LONG, || {
        let status = lab.status();
        anyhow::ensure!(
            status["edit"]["applied"] == true && status["pods"].as_array().unwrap().len() == 3,
            "{}",
            status["edit"]
        );
        Ok(())
    })
    .unwrap();
    let status = lab.status();
    pid(&status["pods"][2]["pid"]);
    assert_eq!(
        pid(&status["nodes"][0]["proxyPid"]),
        proxy,
        "nothing was restarted"
    );

    // A policy in a resource: it shows, and it holds.
    lab.write(
        "svc.yaml",
        &(SERVICE.to_owned()
            + "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec: {selector: {matchLabels: {app: b}}, action: DENY, rules: [{}]}
"),
    );
    let c = Netns::named(status["pods"][2]["netns"].as_str().unwrap());
    until("the policy to hold", LONG, || {
        let policies = lab.status()["policies"].to_string();
        anyhow::ensure!(policies.contains("nobody"), "{policies}");
        anyhow::ensure!(
            load::echo(&c, "10.77.0.11:7000".parse().unwrap(), 100).is_err(),
            "it is still let in"
        );
        Ok(())
    })
    .unwrap();
}

#[test]
fn down_leaves_nothing_whatever_has_crashed() {
    if !has_xtask() {
        return;
    }
    let lab = CommandLine::new("crash");
    lab.write("svc.yaml", SERVICE);
    let document = lab.up(FILE).unwrap();
    for program in ["nodePid", "agentPid"] {
        pid(&document["nodes"][0][program]).signal(Signal::KILL);
    }
    pid(&document["controller"]["pid"]).signal(Signal::KILL);
    // The records are lost as well.
    std::fs::remove_file(Path::new("/run/weft-lab").join(&lab.name).join("lab.json")).unwrap();
    let output = lab.lab(&["down"]);
    assert!(output.status.success(), "{output:?}");
    lab.assert_nothing_left();
    // Once more is no error, and the name is free again.
    assert!(lab.lab(&["down"]).status.success());
    lab.up(FILE).unwrap();
}

#[test]
fn a_lab_of_that_name_is_not_made_twice() {
    if !has_xtask() {
        return;
    }
    let lab = CommandLine::new("twice");
    lab.write("svc.yaml", SERVICE);
    lab.up(FILE).unwrap();
    let error = lab.up(FILE).unwrap_err();
    assert!(error.contains("lab down"), "{error}");
    // The first one is untouched.
    assert_eq!(lab.status()["pods"].as_array().unwrap().len(), 2);
}

#[test]
fn an_external_node_gets_a_token_and_no_programs() {
    if !has_xtask() {
        return;
    }
    let lab = CommandLine::new("ext");
    let document = lab
        .up("nodes: [{name: n1}, {name: n2, external: true}]
pods: [{name: a, node: n1}, {name: b, node: n2}]
")
        .unwrap();
    let external = &document["nodes"][1];
    assert!(Path::new(external["token"].as_str().unwrap()).exists());
    assert_eq!(external["nodePid"], Value::Null);
    assert_eq!(external["proxyPid"], Value::Null);
    let socket = document["controller"]["admin"].as_str().unwrap();
    let dump = weft_testkit::admin::get(Path::new(socket), "/config_dump").unwrap();
    assert!(dump.contains("Pod/default/b"), "{dump}");
}
