//! Somebody owns node 1: its token, its sockets, the keys in its memory. What it gets is its own pods' and nothing else.
//!
//! Everything goes over TLS to the controller that runs, as its own clients would, with headers and names of the owner's choice.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use weft_identity::PrivateKey;
use weft_proto::resource::{ADDRESS, AUTHORIZATION, ENROLLMENT, SETTINGS};
use weft_testkit::ads::caller::{Caller, Code, Refusal, Subscribe};
use weft_testkit::load;
use weft_testkit::netns::runtime;
use weft_testkit::peer::Behaviour;
use weft_tests::lab::{Builder, TestLab};

use crate::keys::stolen;
use crate::mesh::{self, HBONE, ask};

/// Pods a and c on the node that is owned, b and d on another one, e on a third without programs.
fn lab() -> TestLab {
    Builder::two_nodes()
        .external_node("n3")
        .pod("a", "n1")
        .pod("c", "n1")
        .pod("b", "n2")
        .pod("d", "n2")
        .pod("e", "n3")
        .up()
        .unwrap()
}

fn token(lab: &TestLab, node: &str) -> String {
    let text = std::fs::read_to_string(lab.lab().place().token(node)).unwrap();
    text.trim().to_owned()
}

/// Runs calls from a node's namespace.
fn call<T: Send, F: Future<Output = T>>(
    lab: &TestLab,
    node: &str,
    work: impl FnOnce(Caller) -> F + Send,
) -> T {
    let address = mesh::controller_address(lab);
    let root = std::fs::read_to_string(lab.lab().place().root_certificate()).unwrap();
    let netns = lab.lab().topology().node(node);
    let called = netns.enter(|| {
        runtime()?.block_on(async {
            let caller = Caller::connect(&address, &root).await?;
            Ok(work(caller).await)
        })
    });
    called.unwrap()
}

fn request(identity: &str) -> String {
    let named = identity.parse().unwrap_or_else(|_| mesh::identity("a"));
    PrivateKey::generate().unwrap().request(&named).unwrap()
}

fn code<T>(answer: Result<T, Refusal>) -> Code {
    answer.map_or_else(|(code, _)| code, |_| Code::Ok)
}

/// The pods that a token's Enrollment holds, by their uids.
fn uids(lab: &TestLab, pods: &[&str]) -> BTreeSet<String> {
    let uids = &lab.lab().record().uids;
    let of = |pod: &&str| uids[&format!("default/{pod}")].clone();
    pods.iter().map(of).collect()
}

#[test]
fn a_token_gives_certificates_of_its_own_node_s_live_pods() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = lab();
    let bearer = format!("Bearer {}", token(&lab, "n1"));
    let sign = |lab: &TestLab, identity: &str| {
        let csr = request(identity);
        call(lab, "n1", async |caller| {
            code(caller.certificate(&[&bearer], identity, &csr).await)
        })
    };
    let of = |account: &str| mesh::identity(account).to_string();
    // The control: what is its own, it gets.
    assert_eq!(sign(&lab, &of("a")), Code::Ok);
    assert_eq!(sign(&lab, &of("c")), Code::Ok);
    for account in ["b", "d", "e", "default", "nobody", "weft-controller", "A"] {
        assert_eq!(
            sign(&lab, &of(account)),
            Code::PermissionDenied,
            "{account}"
        );
    }
    for identity in [
        "spiffe://evil.example/ns/default/sa/a",
        "spiffe://cluster.local/ns/kube-system/sa/a",
        "spiffe://cluster.local/ns/weft-system/sa/weft-controller",
    ] {
        assert_eq!(sign(&lab, identity), Code::PermissionDenied, "{identity}");
    }
    for identity in ["", "a", "spiffe://cluster.local/ns/default/sa/a/x", "*"] {
        assert_eq!(sign(&lab, identity), Code::InvalidArgument, "{identity:?}");
    }
    // A request that names another pod in its own words gets neither.
    let forged = request(&of("b"));
    let answer = call(&lab, "n1", async |caller| {
        code(caller.certificate(&[&bearer], &of("a"), &forged).await)
    });
    assert_eq!(answer, Code::InvalidArgument);
    // A pod that has gone takes its identity along.
    lab.change(|file| file.pods.retain(|pod| pod.name != "c"))
        .unwrap();
    assert_eq!(sign(&lab, &of("c")), Code::PermissionDenied);
    assert_eq!(sign(&lab, &of("a")), Code::Ok);
}

#[test]
fn a_token_shows_enrolments_of_its_own_node_whatever_its_bearer_says() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = lab();
    let bearer = format!("Bearer {}", token(&lab, "n1"));
    let others: Vec<String> = uids(&lab, &["b", "d", "e"]).into_iter().collect();
    call(&lab, "n1", async |caller| {
        let subscribe = async |node: &str, type_url: &str, names: &[&str]| {
            let wanted = Subscribe {
                node,
                type_url,
                names,
            };
            caller.subscribe(&[&bearer], &wanted).await
        };
        for node in [
            "",
            "n1",
            "n2",
            "ztunnel~0.0.0.0~weft-n2.weft-system~weft-system.svc.cluster.local",
        ] {
            let names = subscribe(node, ENROLLMENT, &[]).await.unwrap();
            let names: BTreeSet<String> = names.into_iter().collect();
            assert_eq!(names, uids(&lab, &["a", "c"]), "as {node:?}");
        }
        for uid in &others {
            let answer = subscribe("n2", ENROLLMENT, &[uid]).await;
            assert_eq!(code(answer), Code::PermissionDenied, "{uid}");
        }
        // What every node may know, it knows.
        let addresses = subscribe("n1", ADDRESS, &[]).await.unwrap();
        assert!(
            addresses.iter().any(|name| name.ends_with("/b")),
            "{addresses:?}"
        );
    });
}

#[test]
fn without_a_token_that_is_known_nothing_is_told() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = lab();
    let (of_n1, of_n2) = (token(&lab, "n1"), token(&lab, "n2"));
    let upper = of_n1.to_uppercase();
    // A node that has left: its token was good once.
    lab.change(|file| {
        file.pods.retain(|pod| pod.node != "n3");
        file.nodes.retain(|node| node.name != "n3");
    })
    .unwrap();
    let cases: Vec<(&str, Vec<String>)> = vec![
        ("none", vec![]),
        ("empty", vec![String::new()]),
        ("empty bearer", vec!["Bearer ".to_owned()]),
        ("unknown", vec![format!("Bearer {}", "0".repeat(64))]),
        ("cut", vec![format!("Bearer {}", &of_n1[..63])]),
        ("longer", vec![format!("Bearer {of_n1}0")]),
        ("another case", vec![format!("Bearer {upper}")]),
        ("another scheme", vec![format!("Basic {of_n1}")]),
        ("no scheme", vec![of_n1.clone()]),
        ("both nodes", vec![format!("Bearer {of_n1} {of_n2}")]),
        (
            "two headers",
            vec![format!("Bearer {of_n1}"), format!("Bearer {of_n2}")],
        ),
    ];
    let identity = mesh::identity("a").to_string();
    let csr = request(&identity);
    call(&lab, "n1", async |caller| {
        for (name, headers) in &cases {
            // An upper-case token is the same one where it has no letters.
            if *name == "another case" && upper == of_n1 {
                continue;
            }
            let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
            let signed = caller.certificate(&headers, &identity, &csr).await;
            let (refused, message) = signed.unwrap_err();
            assert_eq!(refused, Code::Unauthenticated, "{name}");
            assert!(!message.contains(&of_n1[..16]), "{name}: {message}");
            for type_url in [ADDRESS, AUTHORIZATION, ENROLLMENT, SETTINGS] {
                let wanted = Subscribe {
                    node: "n1",
                    type_url,
                    names: &[],
                };
                let told = caller.subscribe(&headers, &wanted).await;
                assert_eq!(code(told), Code::Unauthenticated, "{name} {type_url}");
            }
        }
        // The control: the same call with the token.
        let good = format!("Bearer {of_n1}");
        caller.certificate(&[&good], &identity, &csr).await.unwrap();
    });
}

#[test]
fn a_token_that_is_withdrawn_is_worth_nothing() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = lab();
    let path = lab.lab().place().token("n3");
    let bearer = format!("Bearer {}", token(&lab, "n3"));
    let identity = mesh::identity("e").to_string();
    let csr = request(&identity);
    let sign = || {
        call(&lab, "n3", async |caller| {
            code(caller.certificate(&[&bearer], &identity, &csr).await)
        })
    };
    assert_eq!(sign(), Code::Ok);
    std::fs::remove_file(path).unwrap();
    weft_testkit::wait::until("the withdrawal", weft_testkit::wait::LONG, || {
        let code = sign();
        anyhow::ensure!(code == Code::Unauthenticated, "{code:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_controller_reads_no_token_that_comes_in_clear() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = lab();
    let address = mesh::controller_address(&lab);
    let address: SocketAddr = address.strip_prefix("https://").unwrap().parse().unwrap();
    let node = lab.lab().topology().node("n1");
    for words in [
        format!(
            "POST /istio.v1.auth.IstioCertificateService/CreateCertificate HTTP/1.1\r\nhost: c\r\nauthorization: Bearer {}\r\n\r\n",
            token(&lab, "n1")
        )
        .into_bytes(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
    ] {
        let mut stream = load::connect(&node, address).unwrap();
        stream.write_all(&words).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        // Nothing, or an alert.
        assert!(answer.is_empty() || answer[0] == 0x15, "{answer:02x?}");
    }
}

#[test]
fn stolen_keys_speak_for_pods_of_their_node_and_from_their_addresses_only() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = lab();
    let (server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    let keys = stolen(&lab, "n1", 2);
    let accounts: BTreeSet<String> = keys
        .iter()
        .map(|one| one.identity().service_account().to_owned())
        .collect();
    let own: BTreeSet<String> = ["a", "c"].map(str::to_owned).into();
    assert_eq!(accounts, own, "what its memory holds");
    // From any address that belongs to another workload, they open nothing. The thief has a pod of its own node n3 to call from.
    let at = SocketAddr::new(lab.v4("b"), HBONE);
    for one in &keys {
        let status = ask(&lab, ("e", one), (at, "b"), &to.to_string()).unwrap();
        assert_eq!(status, 401, "{} from e", one.identity());
    }
    assert_eq!(server.seen(), []);
    // The control: the key that belongs to e opens the door from there.
    let own = mesh::credentials(&lab, "n3", "e");
    let status = ask(&lab, ("e", &own), (at, "b"), &to.to_string()).unwrap();
    assert_eq!(status, 200);
}
