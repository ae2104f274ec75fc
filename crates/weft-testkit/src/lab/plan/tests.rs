//! The plan: what it settles, what it refuses.

use super::*;

fn around(adopted: &BTreeMap<String, Option<Vec<IpAddr>>>) -> Surroundings<'_> {
    Surroundings {
        lab: "t",
        adopted,
        ipv6: true,
        before: None,
    }
}

fn planned(text: &str) -> Result<Plan> {
    plan(&LabFile::parse(text)?, &around(&BTreeMap::new()))
}

fn refused(text: &str, word: &str) {
    let error = planned(text).unwrap_err().to_string();
    assert!(error.contains(word), "{error:?} does not name {word:?}");
}

#[test]
fn pods_without_address_get_one_of_each_family() {
    let plan =
        planned("nodes: [{name: n1}]\npods: [{name: a, node: n1}, {name: b, node: n1}]").unwrap();
    assert_eq!(plan.pods[0].addresses[0].to_string(), "10.77.1.1");
    assert_eq!(plan.pods[0].addresses[1].to_string(), "fd77::101");
    assert_eq!(plan.pods[1].addresses[0].to_string(), "10.77.1.2");
    assert_eq!(plan.pods[0].netns, "weft.t.pod.default.a");
}

#[test]
fn an_assigned_address_avoids_one_that_a_later_pod_asks_for() {
    let plan = planned(
        "nodes: [{name: n1}]\npods: [{name: a, node: n1}, {name: b, node: n1, ip: 10.77.1.1}]",
    )
    .unwrap();
    assert_eq!(plan.pods[0].addresses[0].to_string(), "10.77.1.2");
    assert_eq!(
        plan.pods[1].addresses,
        vec!["10.77.1.1".parse::<IpAddr>().unwrap()]
    );
}

#[test]
fn pods_keep_their_addresses_when_one_before_them_goes() {
    let nothing = BTreeMap::new();
    let first =
        planned("nodes: [{name: n1}]\npods: [{name: a, node: n1}, {name: b, node: n1}]").unwrap();
    let file =
        LabFile::parse("nodes: [{name: n1}]\npods: [{name: c, node: n1}, {name: b, node: n1}]")
            .unwrap();
    let second = plan(
        &file,
        &Surroundings {
            before: Some(&first),
            ..around(&nothing)
        },
    )
    .unwrap();
    assert_eq!(second.pods[1].addresses, first.pods[1].addresses);
    assert_ne!(second.pods[0].addresses, first.pods[0].addresses);
}

#[test]
fn mistakes_are_named() {
    refused("nodes: [{name: n1}, {name: n1}]", "twice");
    refused("nodes: [{name: N1}]", "N1");
    refused("nodes: [{name: n1}]\npods: [{name: a, node: n2}]", "n2");
    refused(
        "nodes: [{name: n1}]\npods: [{name: a, node: n1}, {name: a, node: n1}]",
        "default/a",
    );
    refused(
        "nodes: [{name: n1}]\npods: [{name: a, node: n1, ip: 10.77.0.9}, {name: b, node: n1, ip: 10.77.0.9}]",
        "10.77.0.9 is used twice",
    );
    refused(
        "nodes: [{name: n1}]\npods: [{name: a, node: n1, ip: 10.77.0.9, ips: [10.77.0.10]}]",
        "not both",
    );
    refused(
        "nodes: [{name: n1}]\npods: [{name: a, node: n1, netns: nope}]",
        "nope",
    );
    refused(
        "nodes: [{name: n1}]\npods: [{name: a, node: n1, ip: 10.77.255.1}]",
        "kept for the lab",
    );
    for address in [
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "169.254.0.1",
        "'::ffff:10.77.0.9'",
        "'fe80::1'",
    ] {
        refused(
            &format!("nodes: [{{name: n1}}]\npods: [{{name: a, node: n1, ip: {address}}}]"),
            "no address that a pod can have",
        );
    }
}

#[test]
fn an_adopted_namespace_gives_its_addresses_unless_told_which() {
    let mut adopted = BTreeMap::new();
    adopted.insert(
        "lab".to_owned(),
        Some(vec![
            "192.0.2.7".parse().unwrap(),
            "2001:db8::7".parse().unwrap(),
        ]),
    );
    let file =
        LabFile::parse("nodes: [{name: n1}]\npods: [{name: a, node: n1, netns: lab}]").unwrap();
    let all = plan(&file, &around(&adopted)).unwrap();
    assert_eq!(all.pods[0].addresses.len(), 2);
    assert!(all.pods[0].adopted);
    let ranges = [
        "10.77.0.0/16",
        "fd77::/64",
        "192.0.2.7/32",
        "2001:db8::7/128",
    ];
    assert_eq!(pod_ranges(&all.pods), ranges);

    let file = LabFile::parse(
        "nodes: [{name: n1}]\npods: [{name: a, node: n1, netns: lab, ip: 192.0.2.7}]",
    )
    .unwrap();
    assert_eq!(
        plan(&file, &around(&adopted)).unwrap().pods[0]
            .addresses
            .len(),
        1
    );

    let file = LabFile::parse(
        "nodes: [{name: n1}]\npods: [{name: a, node: n1, netns: lab, ip: 192.0.2.8}]",
    )
    .unwrap();
    let error = plan(&file, &around(&adopted)).unwrap_err().to_string();
    assert!(error.contains("192.0.2.8"), "{error}");
}
