//! A large mesh: what it costs to start, to tell of one change, and to come back when nothing has changed.
//!
//! Method: a generated source, the real program, subscribers that want everything, edits of one object each. Nothing is asserted about time;
//! `WEFT_TEST_LONG=1` makes it 100 000 pods and 10 000 services, and `WEFT_TEST_CONTROLLER=PATH` takes another build of the program:
//!
//! ```text
//! cargo build --release -p weft-controller
//! WEFT_TEST_LONG=1 WEFT_TEST_CONTROLLER=$PWD/target/release/weft-controller cargo test -p weft-tests --test control scale -- --nocapture
//! ```

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::timeout;
use weft_proto::resource::{ADDRESS, AUTHORIZATION};

use super::controller::Controller;
use super::mesh::{Size, pod_file, policy, service};
use super::subscriber::{Subscriber, Told, Versions};

/// Ten times what the largest step takes.
const BOUND: Duration = Duration::from_mins(10);

struct Plan {
    size: Size,
    subscribers: usize,
    edits: usize,
}

fn plan() -> Plan {
    if std::env::var_os("WEFT_TEST_LONG").is_some() {
        let size = Size {
            pods: 100_000,
            services: 10_000,
            policies: 1000,
        };
        return Plan {
            size,
            subscribers: 10,
            edits: 100,
        };
    }
    let size = Size {
        pods: 2000,
        services: 200,
        policies: 20,
    };
    Plan {
        size,
        subscribers: 3,
        edits: 9,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scale_one_change_is_all_that_is_told_in_a_large_mesh() {
    let Plan {
        size,
        subscribers,
        edits,
    } = plan();
    let started = Instant::now();
    let controller = Controller::over(|source| size.write(source));
    println!(
        "{size:?}: serving {:.1} s after its source was written",
        controller.started().as_secs_f64()
    );
    println!(
        "  (writing it took the rest of {:.1} s)",
        started.elapsed().as_secs_f64()
    );
    println!("  memory: {}", controller.memory());

    let mut open = Vec::new();
    let mut has = Versions::new();
    let mut full = 0;
    let before = Instant::now();
    for index in 0..subscribers {
        let node = format!("node{index}");
        open.push(Subscriber::open(&controller.client(&node), &Versions::new()).await);
    }
    for (index, subscriber) in open.iter_mut().enumerate() {
        let first = timeout(BOUND, subscriber.first())
            .await
            .expect("the whole mesh");
        full = first.iter().map(|told| told.bytes).sum();
        let addresses = first.iter().find(|told| told.type_url == ADDRESS).unwrap();
        assert_eq!(addresses.names.len(), size.addresses());
        if index == 0 {
            has = versions(first);
        }
    }
    println!(
        "{subscribers} subscribers told of everything, {} kB each, in {:.1} s; memory: {}",
        full / 1000,
        before.elapsed().as_secs_f64(),
        controller.memory()
    );

    let back = Subscriber::open(&controller.client("node0"), &has).await;
    let again = reconnected(back).await;
    println!("reconnect with nothing changed: {again} bytes of {full}");
    assert!(again * 100 <= full, "{again} bytes of {full}");

    let mut random = StdRng::seed_from_u64(7);
    let mut delays = Vec::new();
    for edit in 0..edits {
        let (type_url, name, written) = write(&controller, size, edit, &mut random);
        for subscriber in &mut open {
            let told = timeout(BOUND, subscriber.next()).await.expect("the change");
            let names: Vec<&str> = told.names.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(
                (told.type_url.as_str(), names),
                (type_url, vec![name.as_str()])
            );
            delays.push(told.at - written);
        }
    }
    delays.sort();
    let at = |share: usize| delays[(delays.len() * share / 100).min(delays.len() - 1)];
    println!(
        "{edits} edits to {subscribers} subscribers: p50 {:?}, p99 {:?}, max {:?}; memory: {}",
        at(50),
        at(99),
        delays[delays.len() - 1],
        controller.memory()
    );
}

/// One edit: the type and name of the one resource that it changes, and when it was written.
fn write(
    controller: &Controller,
    size: Size,
    edit: usize,
    random: &mut StdRng,
) -> (&'static str, String, Instant) {
    let (file, text) = match edit % 3 {
        // Another address for one of the pods of a file that has not been edited yet.
        0 if edit / 3 < size.pod_files() => {
            let file = edit / 3;
            let pods = size.pods_of(file);
            let pod = random.random_range(pods);
            let written = controller.write(&pod_file(file), &size.pod_file(file, Some(pod)));
            return (ADDRESS, size.pod_uid(pod), written);
        }
        0 | 1 => ("service", service(0)),
        _ => ("policy", policy(0, "ALLOW").replace("policy0", "app0")),
    };
    // About no pod: otherwise these would be told of as well.
    let name = format!("added{edit}");
    let text = text.replace("app: app0", "app: nobody");
    let text = text.replace("name: app0", &format!("name: {name}"));
    let written = controller.write(&format!("{file}-{edit}.yaml"), &text);
    if file == "policy" {
        (AUTHORIZATION, format!("ns0/{name}"), written)
    } else {
        (
            ADDRESS,
            format!("ns0/{name}.ns0.svc.cluster.local"),
            written,
        )
    }
}

async fn reconnected(mut subscriber: Subscriber) -> usize {
    let first = timeout(BOUND, subscriber.first()).await.expect("answers");
    let names: usize = first.iter().map(|told| told.names.len()).sum();
    assert_eq!(names, 0, "nothing has changed");
    first.iter().map(|told| told.bytes).sum()
}

fn versions(first: Vec<Told>) -> Versions {
    let mut versions = Versions::new();
    for told in first {
        let type_url = [ADDRESS, AUTHORIZATION, weft_proto::resource::SETTINGS]
            .into_iter()
            .find(|known| *known == told.type_url)
            .unwrap();
        let names = told.names.into_iter();
        let names = names.map(|(name, version)| (name, version.expect("nothing is removed")));
        versions.insert(type_url, names.collect());
    }
    versions
}
