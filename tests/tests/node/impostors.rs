//! Whom the node program believes, and what it answers to those it does not.

use std::path::Path;

use weft_node_api::{Hello, Message, NackReason, Role, VERSION, connect};

use super::{Output, build_folder, command_line, program, run_in, status, two_pods};

/// Greets as `role` and returns the first answer.
fn greet(socket: &Path, role: Role, version: u32) -> Message {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let channel = connect(socket).unwrap();
        let hello = Message::Hello(Hello { version, role });
        channel.send(1, &hello, &[]).await.unwrap();
        channel.receive().await.unwrap().message
    })
}

#[test]
fn who_was_not_started_as_agent_or_proxy_is_refused() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = two_pods();
    let socket = lab.lab().place().run("n1").join("node.sock");
    let before = status(&lab).unwrap();
    // Root, but not the process that was started.
    for role in [Role::Agent, Role::Proxy] {
        let answer = greet(&socket, role, VERSION);
        assert!(
            matches!(
                &answer,
                Message::Nack {
                    reason: NackReason::Malformed,
                    ..
                }
            ),
            "{answer:?}"
        );
    }
    let answer = greet(&socket, Role::Node, VERSION + 2);
    assert!(
        matches!(
            &answer,
            Message::Nack {
                reason: NackReason::Version { ours: VERSION },
                ..
            }
        ),
        "{answer:?}"
    );
    assert_eq!(status(&lab).unwrap(), before, "nothing changed");
}

#[test]
fn a_second_node_program_is_refused_and_told_how_to_take_over() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = two_pods();
    let line = command_line(program(&lab, "weft-node"));
    let output = run_in(&lab.lab().topology().node("n1"), &line);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("--takeover"), "{}", text(&output));
    assert_eq!(status(&lab).unwrap()["ready"], true);
}

#[test]
fn a_configuration_that_cannot_work_ends_with_64_and_one_line() {
    let program = build_folder().join("weft-node");
    let check = |arguments: &[&str], word: &str| {
        let output = std::process::Command::new(&program)
            .args(arguments)
            .env_clear()
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        let text = text(&output);
        assert_eq!(text.trim_end().lines().count(), 1, "{text}");
        assert!(text.contains(word), "{text}");
    };
    let base = [
        "--node=n",
        "--root-cert=/dev/null",
        "--token-file=/dev/null",
    ];
    check(&[], "--node");
    check(
        &[&base[..], &["--controller=http://c:1"]].concat(),
        "https://",
    );
    check(
        &[&base[..], &["--controller=https://c:1", "--proxy=/nowhere"]].concat(),
        "/nowhere",
    );
    check(
        &[&base[..], &["--controller=https://c:1", "--proxy-uid=0"]].concat(),
        "--proxy-uid",
    );
    check(
        &[&base[..], &["--controller=https://c:1", "--run-dir=run"]].concat(),
        "--run-dir",
    );
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
