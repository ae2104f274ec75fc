//! A control plane that a test edits by hand, in the place of a lab's controller.

use std::sync::Arc;

use weft_identity::{Authority, AuthorityOptions};
use weft_proto::resource::ENROLLMENT;
use weft_runtime::SystemClock;
use weft_testkit::ads::{self, Ads, Configuration, Resources};
use weft_testkit::netns::runtime;
use weft_testkit::wait;
use weft_tests::lab::TestLab;
use weft_types::TrustDomain;

/// Ends the controller of a lab with nodes `n1` and `n2`, and serves in its place what it served.
pub(crate) fn take_over(lab: &TestLab) -> Ads {
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
    assert!(
        controller.wait(wait::LONG),
        "the controller ends when asked to"
    );
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
