//! A certificate authority that refuses, while the mesh runs.

use anyhow::ensure;
use serde_json::Value;
use weft_testkit::lab::place::write_atomically;
use weft_testkit::lab::program::kill_all;
use weft_testkit::load::Churn;
use weft_testkit::peer::Behaviour;
use weft_testkit::wait::{LONG, until};
use weft_testkit::{admin, load};
use weft_tests::lab::{Builder, TestLab};

use super::{logged, program};

/// Connections that show that a mesh works.
const STEADY: u64 = 50;

/// What the proxy of n2 says of the identity of b.
fn certificate(lab: &TestLab) -> anyhow::Result<Value> {
    let list = admin::get_json(&lab.lab().place().admin("n2", "proxy"), "/certificates")?;
    let all = list.as_array().cloned().unwrap_or_default();
    let of_b = |one: &Value| {
        one["identity"]
            .as_str()
            .is_some_and(|id| id.ends_with("/sa/b"))
    };
    let found = all.into_iter().find(of_b);
    found.ok_or_else(|| anyhow::anyhow!("none: {list}"))
}

/// The node n2 starts anew, without the keys of its former programs, while the controller does not know its token any more: its
/// proxy has configuration on disk and asks for certificates in vain. Its pods fail closed, with a reason that names
/// identity and cause; nobody else notices. When the node is known again, so are its pods.
#[test]
fn an_authority_that_refuses_is_told_of_and_its_pods_fail_closed_meanwhile() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = Builder::two_nodes()
        .pod("a", "n1")
        .pod("b", "n2")
        .pod("c", "n1")
        .up()
        .unwrap();
    let (_server, to_b) = lab.serve("b", Behaviour::Echo).unwrap();
    let (_other, to_c) = lab.serve("c", Behaviour::Echo).unwrap();
    until("the way", LONG, || load::echo(&lab.netns("a"), to_b, 10)).unwrap();
    let unconcerned = Churn::new(&lab.netns("a"), to_c).start().unwrap();

    // Both copies on disk know of b.
    let state = lab.lab().place().state("n2");
    for (file, word) in [
        (
            "agent/enrollments.config",
            &lab.lab().record().uids["default/b"][..],
        ),
        ("proxy/proxy.config", "Pod/default/b"),
    ] {
        until("the copy on disk", LONG, || {
            let bytes = std::fs::read(state.join(file))?;
            ensure!(String::from_utf8_lossy(&bytes).contains(word), "{file}");
            Ok(())
        })
        .unwrap();
    }
    let token = lab.lab().place().token("n2");
    let kept = token.with_extension("kept");
    std::fs::rename(&token, &kept).unwrap();
    // Shorter than any that the controller takes, which it says in its log.
    write_atomically(&token, b"short", 0o600).unwrap();
    let names = ["weft-node", "weft-agent", "weft-proxy"];
    kill_all(&names.map(|name| program(&lab, "n2", name))).unwrap();
    lab.lab_mut().restart_node("n2").unwrap();
    until("the refusal to show", LONG, || {
        let certificate = certificate(&lab)?;
        let error = certificate["lastError"].as_str().unwrap_or_default();
        ensure!(error.contains("token"), "{certificate}");
        ensure!(certificate["state"] == "pending", "{certificate}");
        Ok(())
    })
    .unwrap();
    let identity = "spiffe://cluster.local/ns/default/sa/b";
    logged(&lab, "n2", &["no certificate", identity, "token"]);
    // No way in, and no way out: b is refused, not sent in plaintext.
    assert!(load::echo(&lab.netns("a"), to_b, 10).is_err());
    assert!(load::echo(&lab.netns("b"), to_c, 10).is_err());
    logged(
        &lab,
        "n2",
        &["direction=\"outbound\"", "IDENTITY", identity],
    );
    unconcerned.wait_for(STEADY).unwrap();
    unconcerned.stop().unwrap().verdict().unwrap();

    std::fs::rename(&kept, &token).unwrap();
    until("the way again", LONG, || {
        load::echo(&lab.netns("a"), to_b, 10_000)?;
        load::echo(&lab.netns("b"), to_c, 10_000)
    })
    .unwrap();
}
