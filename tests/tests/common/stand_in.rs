//! A control plane that a test edits by hand, in the place of a lab's controller.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::Value;
use weft_identity::{Authority, AuthorityOptions};
use weft_proto::resource::ENROLLMENT;
use weft_runtime::SystemClock;
use weft_testkit::admin;
use weft_testkit::ads::{self, Ads, Configuration, Resources};
use weft_testkit::netns::runtime;
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::TestLab;
use weft_types::TrustDomain;

/// Ends the controller of a lab with nodes `n1` and `n2`, and serves in its place what it served. When this returns, n1's proxy
/// listens to it: what is removed later is told on a stream that knew it, and on no other.
pub(crate) fn take_over(lab: &TestLab) -> Ads {
    let before = streams(lab).unwrap().0;
    let control = serve_in_its_place(lab);
    until("n1 to be synced anew", LONG, || {
        let (now, connection) = streams(lab)?;
        ensure!(
            now > before && connection == "Synced",
            "{now:?}, {connection}"
        );
        Ok(())
    })
    .unwrap();
    control
}

/// How many streams n1's proxy has had, and what has become of the last one.
fn streams(lab: &TestLab) -> Result<(Option<u64>, Value)> {
    let socket = lab.lab().place().admin("n1", "proxy");
    let controller = &admin::get_json(&socket, "/config_dump")?["controller"];
    let connection = controller["connection"].clone();
    Ok((controller["streams"].as_u64(), connection))
}

fn serve_in_its_place(lab: &TestLab) -> Ads {
    let report = weft_testkit::lab::report::describe(lab.lab());
    let url = report["controller"]["address"].as_str().unwrap().to_owned();
    let root = std::fs::read_to_string(report["controller"]["rootCert"].as_str().unwrap()).unwrap();
    let netns = lab.lab().topology().controller();
    let mut configuration = Configuration::default();
    for node in ["n1", "n2"] {
        let token = token(lab, node);
        let (url, root, of_token) = (url.clone(), root.clone(), token.clone());
        let copied = netns
            .spawn("copy", move || {
                runtime()?.block_on(ads::copy(&url, &root, &of_token))
            })
            .unwrap();
        let copied = copied.join().unwrap().unwrap();
        // Enrolments differ from token to token; what is equal for all is served to all, so that one edit is enough.
        let (own, all) = copied
            .0
            .into_iter()
            .partition(|((of, _), _)| of == ENROLLMENT);
        configuration.tokens.insert(token, Resources(own));
        configuration.everyone = Resources(all);
    }
    let controller = lab.lab().record().controller.unwrap();
    controller.signal(rustix::process::Signal::TERM);
    assert!(controller.wait(LONG), "the controller ends when asked to");
    let authority = Authority::load_or_create(
        &lab.lab().place().controller(),
        TrustDomain::new("cluster.local").unwrap(),
        AuthorityOptions::default(),
        Arc::new(SystemClock),
    )
    .unwrap();
    let listen = url.strip_prefix("https://").unwrap().parse().unwrap();
    Ads::start(&netns, listen, authority, configuration).unwrap()
}

/// What a node shows the control plane.
pub(crate) fn token(lab: &TestLab, node: &str) -> String {
    let token = std::fs::read_to_string(lab.lab().place().token(node)).unwrap();
    token.trim().to_owned()
}
