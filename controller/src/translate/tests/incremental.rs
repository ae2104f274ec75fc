//! The invariant that makes translating change by change safe: whatever the edits and their order, the outcome is that of translating everything anew.
//!
//! Few names, addresses and labels, so that objects collide all the time. A failure prints the seed and the edits of its step.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use weft_k8s_api::ObjectKey;

use super::total::{self, Memory};
use crate::index::{Changes, Index};
use crate::publish::Snapshot;
use crate::source::Change;
use crate::translate::{Holders, Translation, Translator, VirtualAddresses};

/// Each with a mesh of its own, so that rare states of the beginning come up often.
const MESHES: u64 = 50;
/// Together 5000 comparisons of about 11 000 edits.
const STEPS: usize = 100;
/// The controller's.
const OWN: &str = "10.96.0.9";

struct Author {
    random: StdRng,
}

impl Author {
    fn one<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words.choose(&mut self.random).unwrap()
    }

    fn number(&mut self, below: u32) -> u32 {
        self.random.random_range(0..below)
    }

    /// The text in one case of so many, else nothing.
    fn rarely(&mut self, cases: u32, text: &str) -> String {
        if self.number(cases) == 0 {
            text.to_owned()
        } else {
            String::new()
        }
    }

    fn namespace(&mut self) -> &'static str {
        self.one(&["default", "default", "one", "one", "weft-system"])
    }

    fn labels(&mut self) -> String {
        let mut labels = String::new();
        for (key, values) in [
            ("app", ["x", "v", "w"]),
            ("tier", ["front", "back", "x"]),
            ("weft.dev/use-waypoint", ["s0", "none", "s1"]),
            ("istio.io/dataplane-mode", ["ambient", "none", "ambient"]),
        ] {
            if self.number(2) == 0 {
                let value = self.one(&values);
                write!(labels, "{key}: {value}, ").unwrap();
            }
        }
        format!("labels: {{{labels}}}, ")
    }

    /// A selector of one or two labels.
    fn selector(&mut self) -> String {
        let app = self.one(&["x", "v", "w"]);
        let tier = self.one(&["front", "back"]);
        let both = format!("{{app: {app}, tier: {tier}}}");
        let app = format!("{{app: {app}}}");
        self.one(&[&app, &app, &both, "{tier: x}"]).to_owned()
    }

    fn times(&mut self) -> String {
        let created = self.one(&["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]);
        let created = format!("creationTimestamp: '{created}', ");
        self.rarely(2, &created) + &self.rarely(5, "deletionTimestamp: '2026-02-01T00:00:00Z', ")
    }

    /// Mostly one of pods; now and then one that services name, or are given.
    fn address(&mut self, of_pods: u32) -> String {
        match self.number(6) {
            0 => format!("10.96.0.{}", self.number(5)),
            _ => format!("10.0.0.{}", self.number(of_pods)),
        }
    }

    fn pod(&mut self) -> String {
        let (name, namespace) = (self.number(7), self.namespace());
        let (labels, times) = (self.labels(), self.times());
        let uid = self.rarely(6, "uid: same, ");
        let node = self.one(&["nodeName: a, ", "nodeName: a, ", "nodeName: b, ", ""]);
        let host = self.rarely(8, "hostNetwork: true, ");
        let account = self.one(&["s", "t"]);
        let port = self.one(&["8080", "9090"]);
        let named = self.one(&["http", "other"]);
        let ip = format!("podIP: {}, ", self.address(6));
        let ip = if self.number(8) == 0 {
            String::new()
        } else {
            ip
        };
        let second = self.address(6);
        let second = self.rarely(5, &format!("podIPs: [{{ip: {second}}}], "));
        let phase = self.one(&["", "", "phase: Succeeded", "phase: Pending"]);
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p{name}, namespace: {namespace}, {labels}{times}{uid}}}, spec: {{{node}{host}serviceAccountName: {account}, containers: [{{name: c, ports: [{{containerPort: {port}, name: {named}}}]}}]}}, status: {{{ip}{second}{phase}}}}}"
        )
    }

    fn service(&mut self) -> String {
        let (name, namespace) = (self.number(4), self.namespace());
        let (labels, times) = (self.labels(), self.times());
        let direct = self.rarely(3, "annotations: {weft.dev/allow-direct: 'true'}, ");
        let address = self.number(5);
        let explicit = format!("clusterIP: 10.96.0.{address}, ");
        let of_pods = format!("clusterIP: 10.0.0.{address}, ");
        let special = self.one(&["127.0.0.1", "'::'", "224.0.0.1", "fe80::1", OWN]);
        let two = format!("clusterIP: {special}, clusterIPs: [{special}, 10.96.0.{address}], ");
        let address = self.one(&[
            "",
            "",
            "",
            &explicit,
            &explicit,
            &of_pods,
            &two,
            "clusterIP: None, ",
        ]);
        let address = address.to_owned();
        let selector = format!("selector: {}, ", self.selector());
        let selector = self.one(&["", &selector, &selector]).to_owned();
        let port = self.one(&["80", "15008"]);
        let target = self.one(&["http", "other", "8080"]);
        let kind = self.rarely(9, "type: ExternalName, externalName: x.org, ");
        let unready = self.rarely(4, "publishNotReadyAddresses: true, ");
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: s{name}, namespace: {namespace}, {labels}{times}{direct}}}, spec: {{{address}{selector}{kind}{unready}ports: [{{port: {port}, targetPort: {target}, name: web}}]}}}}"
        )
    }

    fn slice(&mut self) -> String {
        let (name, namespace) = (self.number(3), self.namespace());
        let service = self.number(4);
        let mut endpoints = String::new();
        for _ in 0..self.number(4) {
            let address = self.address(9);
            let pod = self.number(7);
            let target = format!("targetRef: {{kind: Pod, name: p{pod}}}, ");
            let target = self.rarely(3, &target);
            let unready = self.rarely(4, "conditions: {ready: false}, ");
            write!(endpoints, "{{addresses: [{address}], {target}{unready}}}, ").unwrap();
        }
        let port = self.one(&["web", "else"]);
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: e{name}, namespace: {namespace}, labels: {{kubernetes.io/service-name: s{service}}}}}, addressType: IPv4, ports: [{{port: 9000, name: {port}}}], endpoints: [{endpoints}]}}"
        )
    }

    fn entry(&mut self) -> String {
        let (name, namespace) = (self.number(3), self.namespace());
        let (labels, times) = (self.labels(), self.times());
        let address = self.address(6);
        let network = self.rarely(3, "network: far, ");
        let port = self.rarely(2, "ports: {http: 81}, ");
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: w{name}, namespace: {namespace}, {labels}{times}}}, spec: {{address: {address}, {network}{port}}}}}"
        )
    }

    fn authorization(&mut self) -> String {
        let (name, namespace) = (self.number(4), self.namespace());
        let selector = format!("selector: {{matchLabels: {}}}, ", self.selector());
        let target = self.number(4);
        let target = format!("targetRefs: [{{kind: Service, name: s{target}}}], ");
        let about = self.one(&["", &selector, &selector, &target]).to_owned();
        let action = self.one(&["ALLOW", "DENY", "AUDIT", "CUSTOM"]);
        let provider = if action == "CUSTOM" {
            "provider: {name: p}, "
        } else {
            ""
        };
        let rule = self.one(&["{}", "{to: [{operation: {paths: ['/x']}}]}"]);
        let tried = self.one(&["true", "false", "perhaps"]);
        let tried = format!("annotations: {{istio.io/dry-run: '{tried}'}}, ");
        let tried = self.rarely(3, &tried);
        format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: a{name}, namespace: {namespace}, {tried}}}, spec: {{{about}action: {action}, {provider}rules: [{rule}]}}}}"
        )
    }

    fn peer(&mut self) -> String {
        let (name, namespace) = (self.number(3), self.namespace());
        let times = self.times();
        let mode = |author: &mut Self| author.one(&["STRICT", "PERMISSIVE", "UNSET", "DISABLE"]);
        let (all, port) = (mode(self), mode(self));
        let port = format!("portLevelMtls: {{8080: {{mode: {port}}}}}, ");
        let selector = format!("selector: {{matchLabels: {}}}, ", self.selector());
        let with_port = format!("{selector}{port}");
        let about = self.one(&["", &selector, &with_port]).to_owned();
        format!(
            "{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: q{name}, namespace: {namespace}, {times}}}, spec: {{{about}mtls: {{mode: {all}}}}}}}"
        )
    }

    fn surroundings(&mut self) -> String {
        let labels = self.labels();
        match self.number(8) {
            0 => {
                let setting = self.one(&[
                    "istioLabels: false",
                    "rootNamespace: one",
                    "accessLogEncoding: JSON",
                    "serviceCidr: 10.96.0.0/30",
                    "serviceCidr: 10.96.0.0/29",
                    "podCidrs: [10.96.0.2/31, 10.0.0.0/16]",
                    "podCidrs: [10.96.0.0/30]",
                    "trustDomain: other.org",
                ]);
                let namespace = self.one(&["weft-system", "one"]);
                format!(
                    "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: weft, namespace: {namespace}}}, data: {{mesh: '{setting}'}}}}"
                )
            }
            1..=3 => {
                let (node, zone) = (self.one(&["a", "b"]), self.one(&["z1", "z2"]));
                let kind = self.one(&["InternalIP", "InternalIP", "ExternalIP", "Hostname"]);
                let address = match self.number(3) {
                    0 => self.one(&["127.0.0.1", OWN]).to_owned(),
                    1 => format!("10.96.0.{}", self.number(5)),
                    _ => self.address(6),
                };
                let addresses = format!("{{type: {kind}, address: {address}}}");
                let addresses = self.rarely(2, &addresses);
                format!(
                    "{{apiVersion: v1, kind: Node, metadata: {{name: {node}, labels: {{topology.kubernetes.io/zone: {zone}}}}}, status: {{addresses: [{addresses}]}}}}"
                )
            }
            _ => {
                let namespace = self.namespace();
                format!(
                    "{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}, {labels}}}}}"
                )
            }
        }
    }

    fn object(&mut self) -> String {
        match self.number(12) {
            0..=3 => self.pod(),
            4..=5 => self.service(),
            6 => self.slice(),
            7 => self.entry(),
            8 => self.authorization(),
            9 => self.peer(),
            _ => self.surroundings(),
        }
    }

    /// A new, other or removed object, each with what it is now.
    fn edit(&mut self, known: &[ObjectKey]) -> (Change, String) {
        if self.number(3) == 0
            && let Some(key) = known.choose(&mut self.random)
        {
            return (Change::Delete(key.clone()), format!("without {key}"));
        }
        let text = self.object();
        let parsed = weft_k8s_api::parse(&text).unwrap_or_else(|e| panic!("{text}: {e:?}"));
        let object = parsed.documents.into_iter().next().unwrap().object;
        (Change::Put(object), text)
    }
}

#[test]
fn change_by_change_is_the_same_as_everything_anew() {
    let (mut conflicts, mut hosts, mut ranges) = (0, 0, 0);
    for seed in 0..MESHES {
        let mut author = Author {
            random: StdRng::seed_from_u64(seed),
        };
        let own: BTreeSet<IpAddr> = [OWN.parse().unwrap()].into();
        let mut index = Index::default();
        let mut translator =
            Translator::new(VirtualAddresses::default(), Holders::default(), own.clone());
        let (mut memory, mut snapshot) = (Memory::default(), Snapshot::default());
        for step in 0..STEPS {
            let mut changes = Changes::new();
            let mut edits = Vec::new();
            // Mostly a few, now and then many at once, as a restart of the source brings them.
            let count = [1, 1, 2, 5][author.number(4) as usize];
            let known: Vec<ObjectKey> = index.all().into_keys().collect();
            for _ in 0..count {
                let (change, text) = author.edit(&known);
                let (key, before) = index.apply(change);
                changes.entry(key).or_insert(before);
                edits.push(text);
            }
            let got = translator.translate(&index, &changes);
            let want = total::translate(&index, &own, &mut memory);
            let place = format!("seed {seed}, step {step}: {edits:#?}");
            compare(got, &want, &place);
            let given = translator.virtual_addresses().entries();
            let kept = memory.virtual_addresses.entries();
            assert!(given.eq(kept), "cluster IPs, {place}");
            let held = translator.virtual_addresses().held();
            assert!(held.eq(memory.virtual_addresses.held()), "held, {place}");
            conflicts += told_of_services(&want, "used by Service ");
            hosts += told_of_services(&want, "used by Node ");
            ranges += told_of_services(&want, "within podCidrs");
            snapshot = snapshot.next(translator.translate(&index, &Changes::new()));
            let anew = Snapshot::default().next(&want);
            assert!(snapshot.publishes_the_same(&anew), "snapshot, {place}");
        }
    }
    let all = [conflicts, hosts, ranges];
    assert!(all.iter().min() > Some(&100), "too few refusals: {all:?}");
    assert!(conflicts > 500, "only {conflicts} conflicts");
}

/// Findings about addresses of services that say this.
fn told_of_services(translation: &Translation, words: &str) -> usize {
    let all = translation.findings.values().flat_map(|of| of.iter());
    all.filter(|finding| finding.object.starts_with("Service ") && finding.message.contains(words))
        .count()
}

fn compare(got: &Translation, want: &Translation, place: &str) {
    assert_eq!(got.settings, want.settings, "{place}");
    assert_eq!(got.services, want.services, "{place}");
    assert_eq!(got.workloads, want.workloads, "{place}");
    assert_eq!(got.policies, want.policies, "{place}");
    assert_eq!(got.enrollments, want.enrollments, "{place}");
    assert_eq!(got.identities, want.identities, "{place}");
    assert_eq!(got.statuses, want.statuses, "{place}");
    assert_eq!(got.findings, want.findings, "{place}");
}
