//! From `up` to `down` on the command line: the JSON, edits while it runs, crashes.

use std::io::{BufRead as _, BufReader, Read as _};

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
fn an_edit_that_is_waited_for_shows_as_pending() {
    if !has_xtask() {
        return;
    }
    let lab = CommandLine::new("pend");
    lab.write("svc.yaml", SERVICE);
    lab.up(FILE).unwrap();
    let record = weft_testkit::lab::Lab::open(&lab.name, |_| ()).unwrap();
    let watcher = record.record().watcher.unwrap();
    let expect = |what: &str, edit: Value| {
        until(what, LONG, || {
            let status = lab.status();
            anyhow::ensure!(status["edit"] == edit, "{}", status["edit"]);
            Ok(())
        })
        .unwrap();
    };
    let applied =
        |pending: bool| serde_json::json!({"applied": true, "pending": pending, "watched": true});
    expect("the file to be seen", applied(false));
    // Nobody applies what is edited now, be it the file or a resource.
    assert!(watcher.signal(Signal::STOP));
    lab.write("lab.yaml", &(FILE.to_owned() + "settings: {}\n"));
    assert_eq!(lab.status()["edit"], applied(true));
    lab.write("lab.yaml", FILE);
    assert_eq!(lab.status()["edit"], applied(false));
    lab.write("svc.yaml", &SERVICE.replace("port: 80", "port: 81"));
    assert_eq!(lab.status()["edit"], applied(true));
    assert!(watcher.signal(Signal::CONT));
    expect("the edit to take effect", applied(false));
    // Without the watcher an edit waits for ever, and that shows.
    assert!(watcher.signal(Signal::KILL));
    lab.write("lab.yaml", &(FILE.to_owned() + "settings: {}\n"));
    expect(
        "the end of the watcher to show",
        serde_json::json!({"applied": true, "pending": true, "watched": false}),
    );
}

#[test]
fn status_tells_of_programs_that_have_ended_and_that_nobody_starts_again() {
    if !has_xtask() {
        return;
    }
    let lab = CommandLine::new("dead");
    lab.write("svc.yaml", SERVICE);
    let document = lab.up(FILE).unwrap();
    let status = || {
        let output = lab.lab(&["status"]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        (document, errors)
    };
    let (before, errors) = status();
    assert_eq!(errors, "", "a warning of a lab that is well");
    let programs = [
        ("/controller", "/pid", "the controller has ended"),
        ("/nodes/0", "/nodePid", "weft-node of n1 has ended"),
        ("/pods/1", "/pid", "in pod default/b has ended"),
    ];
    for (place, pid_of, _) in programs {
        assert_eq!(before.pointer(place).unwrap()["ended"], false, "{place}");
        let running = pid(document.pointer(&format!("{place}{pid_of}")).unwrap());
        assert!(running.signal(Signal::KILL));
        assert!(running.wait(LONG), "it does not end");
    }
    let (after, errors) = status();
    for (place, pid_of, words) in programs {
        assert_eq!(after.pointer(place).unwrap()["ended"], true, "{place}");
        let pid = after.pointer(&format!("{place}{pid_of}")).unwrap();
        assert_eq!(*pid, Value::Null, "{place}");
        let line = errors.lines().find(|line| line.contains(words));
        let line = line.unwrap_or_else(|| panic!("{words:?} is not in {errors}"));
        let (_, log) = line.split_once("see ").unwrap();
        let (log, what_to_do) = log.split_once("; ").unwrap();
        assert!(Path::new(log).exists(), "{line}");
        assert!(what_to_do.contains("again"), "{line}");
    }
    assert_eq!(errors.lines().count(), programs.len(), "{errors}");
    // Whoever runs is not among them, nor is a pod without a program.
    assert_eq!(after["nodes"][1]["ended"], false);
    assert_eq!(after["pods"][0]["ended"], false);
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
fn of_two_that_take_a_lab_down_one_waits_for_the_other() {
    if !has_xtask() {
        return;
    }
    let lab = CommandLine::new("downs");
    lab.write("svc.yaml", SERVICE);
    lab.up(FILE).unwrap();
    // Another command on the lab: both wait for it.
    let place = weft_testkit::lab::place::Place::of(&lab.name);
    let lock = place.lock().unwrap();
    let downs = [(); 2].map(|()| {
        let mut command = lab.command(&["down"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        errors.read_line(&mut line).unwrap();
        assert!(line.contains("waiting for another command"), "{line}");
        (child, errors)
    });
    assert!(place.root().join("lab.json").exists());
    drop(lock);
    let words = downs.map(|(mut child, mut errors)| {
        let mut text = String::new();
        errors.read_to_string(&mut text).unwrap();
        assert!(child.wait().unwrap().success(), "{text}");
        text
    });
    let late = words
        .iter()
        .filter(|text| text.contains("taken down by another"));
    assert_eq!(late.count(), 1, "{words:?}");
    lab.assert_nothing_left();
    // And one that comes when there is nothing says so.
    let output = lab.lab(&["down"]);
    assert!(output.status.success(), "{output:?}");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("there is no lab named"), "{errors}");
}

#[test]
fn up_warns_of_what_the_controller_refused_and_its_document_has_it() {
    if !has_xtask() {
        return;
    }
    let lab = CommandLine::new("warn");
    let policy = "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec: {selecter: {matchLabels: {app: b}}, action: DENY, rules: [{}]}
";
    lab.write("svc.yaml", &(SERVICE.to_owned() + policy));
    let path = lab.write("lab.yaml", FILE);
    let output = lab.lab(&["up", path.to_str().unwrap()]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    let warnings: Vec<&str> = errors
        .lines()
        .filter(|line| {
            line.starts_with("warning: AuthorizationPolicy default/nobody: not accepted")
        })
        .collect();
    assert_eq!(warnings.len(), 1, "{errors}");
    assert!(warnings[0].contains("selecter"), "{errors}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let status = lab.status();
    for field in ["policies", "findings", "source"] {
        assert!(!document[field].is_null(), "{field}: {document}");
        assert_eq!(document[field], status[field], "{field}");
    }
    assert_eq!(document["edit"]["applied"], true);
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
