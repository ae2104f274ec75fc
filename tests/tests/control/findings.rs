//! What the controller says of objects that do not get what they ask for.
//!
//! Method: files as their authors write them, and what `/status`, `/metrics` and a subscriber say then.

use serde_json::Value;
use weft_config::ProxyConfig;
use weft_runtime::Shutdown;
use weft_testkit::netns::Netns;
use weft_testkit::wait::{LONG, until};

use super::controller::Controller;
use super::{DENY, PODS};

fn service(name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {address}, ports: [{{port: 80}}]}}\n"
    )
}

/// Waits until the findings about an object are these, each told by this word.
fn findings(controller: &Controller, object: &str, words: &[&str]) -> Vec<Value> {
    until("the findings", LONG, || {
        let status = controller.status();
        let all = status["findings"].as_array().unwrap().iter();
        let found: Vec<Value> = all.filter(|of| of["object"] == object).cloned().collect();
        let says = |(finding, word): (&Value, &&str)| {
            let message = finding["message"].as_str().unwrap_or_default();
            message.contains(*word)
        };
        let fits = found.len() == words.len() && found.iter().zip(words).all(says);
        anyhow::ensure!(fits, "{found:#?}");
        Ok(found)
    })
    .unwrap()
}

/// Which service the address of both is told to be, over a connection of a proxy.
async fn owner(config: &ProxyConfig, want: &str) {
    let address = "10.96.1.1".parse().unwrap();
    let told = config.wait_for(LONG, |snapshot| {
        let service = snapshot.service_by_address("", address)?;
        (*service.short_name == *want).then_some(())
    });
    told.await
        .unwrap_or_else(|| panic!("{want} does not have the address"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_service_of_an_address_is_told_and_takes_nothing_until_the_first_lets_go() {
    let controller =
        Controller::with(&[("pods.yaml", PODS), ("z.yaml", &service("z", "10.96.1.1"))]);
    let shutdown = Shutdown::new();
    let config = ProxyConfig::start(controller.client("n1"), &shutdown).unwrap();
    owner(&config, "z").await;
    // Before z by name, and in a file that is read before z's.
    controller.write("a.yaml", &service("a", "10.96.1.1"));
    let told = findings(
        &controller,
        "Service default/a",
        &["10.96.1.1 is used by Service default/z"],
    );
    assert_eq!(told[0]["reason"], "Conflicted");
    assert_eq!(told[0]["field"], "spec.clusterIPs");
    assert!(
        controller
            .admin("/metrics")
            .contains("weft_address_conflicts 1")
    );
    // The finding and the snapshot are of one translation: no other owner is on its way.
    owner(&config, "z").await;
    // Nor does a restart give it to another.
    shutdown.stop();
    let controller = controller.restart();
    findings(&controller, "Service default/a", &["Service default/z"]);
    let shutdown = Shutdown::new();
    let config = ProxyConfig::start(controller.client("n1"), &shutdown).unwrap();
    owner(&config, "z").await;

    controller.write("z.yaml", &service("z", "10.96.1.2"));
    owner(&config, "a").await;
    findings(&controller, "Service default/a", &[]);
    assert!(
        controller
            .admin("/metrics")
            .contains("weft_address_conflicts 0")
    );
    shutdown.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_no_service_may_have_is_refused_and_so_is_the_controllers_own() {
    let own = "192.0.2.1";
    let text = service("s", own).replace(
        "ports",
        &format!("clusterIPs: ['::1', {own}, 10.96.1.1], ports"),
    );
    let files = [("pods.yaml", PODS), ("s.yaml", text.as_str())];
    let controller = Controller::with_flags(&files, &["--server-name", own]);
    let told = findings(
        &controller,
        "Service default/s",
        &[
            "::1 is a loopback address",
            "192.0.2.1 is the controller's own address",
        ],
    );
    assert_eq!(told[0]["reason"], "InvalidAddress");
    let services = &controller.status()["services"];
    let of = |name: &str| {
        let mut all = services.as_array().unwrap().iter();
        all.find(|service| service["name"] == name).unwrap()["addresses"].clone()
    };
    assert_eq!(of("s"), serde_json::json!(["10.96.1.1"]));
}

#[test]
fn a_controller_that_listens_everywhere_refuses_the_addresses_of_its_machine() {
    if !weft_tests::is_root() {
        return;
    }
    let machine = Machine::new();
    let names = "clusterIPs: [192.0.2.1, 198.51.100.1, 192.0.2.2, 192.0.2.3, 10.96.1.1], ports";
    let text = service("s", "192.0.2.1").replace("ports", names);
    let flags = ["--listen", "0.0.0.0:0"];
    let controller = Controller::inside(&machine.0, &[("s.yaml", &text)], &flags);
    findings(
        &controller,
        "Service default/s",
        &[
            "192.0.2.1 is the controller's own address",
            "198.51.100.1 is the controller's own address",
        ],
    );
    let services = &controller.status()["services"];
    let addresses = services[0]["addresses"].to_string();
    assert_eq!(addresses, r#"["192.0.2.2","192.0.2.3","10.96.1.1"]"#);
}

/// A network namespace with two addresses of its own and two of Services: one on an interface that is down, as kube-proxy with
/// IPVS puts it on every node, one on a dummy that is up, as kube-router does. Not every kernel has the dummy driver, so a veth
/// with its flags stands for it. Deleted when dropped.
struct Machine(Netns);

impl Machine {
    fn new() -> Self {
        let this = Self(Netns::create(format!("own{}", std::process::id())).unwrap());
        let lines = "link add eth0 type veth peer name vips
address add 192.0.2.1/24 dev eth0
address add 198.51.100.1/24 dev eth0
link set eth0 up
address add 192.0.2.2/32 dev vips
link add dummy0 type veth peer name other
link set dummy0 arp off multicast off up
address add 192.0.2.3/32 dev dummy0
";
        this.0.ip_batch(lines).unwrap();
        this
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.delete();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_valid_policy_beside_a_broken_object_is_told_that_it_is_not_in_use() {
    let broken = "apiVersion: v1\nkind: Service\nmetadata: {name: broken}\nspec: {portz: []}\n";
    let never = format!("{broken}---{DENY}");
    let controller = Controller::with(&[("pods.yaml", PODS), ("never.yaml", &never)]);
    let condition = |words: &[&str]| {
        until("the status of the policy", LONG, || {
            let status = controller.status();
            let mut policies = status["policies"].as_array().unwrap().iter();
            let policy = policies.find(|policy| policy["name"] == "p");
            let condition = policy.map(|policy| policy["conditions"][0].clone());
            let condition = condition.unwrap_or_default();
            let message = condition["message"].as_str().unwrap_or_default();
            let found = words.iter().all(|word| message.contains(word));
            anyhow::ensure!(found, "{condition:#}");
            Ok(condition)
        })
        .unwrap()
    };
    let told = condition(&[
        "never.yaml, line 6: valid, but not in use as written",
        "Service default/broken in line 4 of this file is broken",
        "nothing of this file is used",
    ]);
    assert_eq!(
        (&told["status"], &told["reason"]),
        (&"False".into(), &"Invalid".into())
    );
    // Once in force, it stays in force as it was, and that is said of an edit beside an error.
    controller.write("never.yaml", DENY);
    assert_eq!(
        condition(&["enforced by every node proxy"])["status"],
        "True"
    );
    let edited = never.replace("evil", "worse");
    controller.write("never.yaml", &edited);
    let told = condition(&["not in use as written", "the last good state"]);
    assert_eq!(told["status"], "False");
    // One that says what is in force has nothing to be told of.
    controller.write("never.yaml", &never);
    assert_eq!(
        condition(&["enforced by every node proxy"])["status"],
        "True"
    );
    controller.problem("spec.portz");
}
