//! Text as nobody would write it: whatever parses also translates, and nothing panics on the way.

use std::path::Path;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::index::Index;
use crate::publish::Snapshot;
use crate::source::Change;
use crate::translate::Translator;

/// Two seconds of a slow machine.
const ROUNDS: usize = 4_000;

const MORE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: p, uid: u, labels: {app: a}, annotations: {weft.dev/netns: /x}, deletionTimestamp: '2026-01-01T00:00:00Z'}
spec: {nodeName: n, hostNetwork: true, serviceAccountName: s, containers: [{name: c, ports: [{containerPort: 1, name: http}]}]}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Service
metadata: {name: s, labels: {weft.dev/use-waypoint: s}}
spec: {clusterIP: 10.96.0.1, selector: {app: a}, ports: [{port: 80, targetPort: http, name: n, protocol: TCP}], ipFamilies: [IPv6]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: e, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
ports: [{port: 80, name: n}]
endpoints: [{addresses: [10.0.0.1, 10.0.0.3], conditions: {ready: true}, targetRef: {kind: Pod, name: p}}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: w}
spec: {address: 10.0.0.2, ports: {n: 81}, locality: a/b/c, weight: 1}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: weft, namespace: weft-system}
data: {mesh: 'serviceCidr: 10.96.0.0/31'}
";

fn corpus() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/translate/tests/golden");
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let yaml = files.filter(|path| {
        path.extension()
            .is_some_and(|extension| extension == "yaml")
    });
    let mut texts: Vec<String> = yaml
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    texts.sort();
    texts.push(MORE.to_owned());
    texts
}

/// One word of the corpus in the place of another, or a character more or less.
fn mutate(random: &mut StdRng, text: &str, words: &[String]) -> String {
    let mut parts: Vec<String> = text
        .split_inclusive([' ', '\n', ',', '{', '[', '}', ']'])
        .map(str::to_owned)
        .collect();
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..parts.len());
        match random.random_range(0..4) {
            0 => parts[at] = words.choose(random).unwrap().clone(),
            1 => drop(parts.remove(at)),
            2 => parts[at].insert(0, *b"-0*:\"9/".choose(random).unwrap() as char),
            _ => parts.insert(at, words.choose(random).unwrap().clone()),
        }
        if parts.is_empty() {
            parts.push(String::new());
        }
    }
    parts.concat()
}

#[test]
fn whatever_parses_also_translates() {
    let mut random = StdRng::seed_from_u64(20_261_121);
    let texts = corpus();
    let words: Vec<String> = texts
        .iter()
        .flat_map(|text| text.split_inclusive([' ', '\n', ',', '}', ']']))
        .map(str::to_owned)
        .collect();
    let mut snapshot = Snapshot::default();
    let mut translated = 0;
    for _ in 0..ROUNDS {
        let original = texts.choose(&mut random).unwrap();
        let text = mutate(&mut random, original, &words);
        let Ok(parsed) = weft_k8s_api::parse(&text) else {
            continue;
        };
        let mut index = Index::default();
        for document in parsed.documents {
            index.apply(Change::Put(document.object));
        }
        let mut translator = Translator::default();
        snapshot = snapshot.next(translator.translate(&index, &index.all()));
        translated += 1;
    }
    assert!(
        translated > ROUNDS / 20,
        "only {translated} texts were legal"
    );
}
