//! A first sync and a reconnect at the size that the mesh is built for, over real TLS. Prints; asserts only that all arrives.

use std::time::Instant;

use weft_proto::resource::{ADDRESS, AUTHORIZATION, SETTINGS};

use super::{FakeController, Fixture, Origin, ProxyConfig, Stream, until, versions, workload};

const WORKLOADS: usize = 100_000;
/// About a megabyte.
const PER_RESPONSE: usize = 4000;

async fn serve(stream: &mut Stream) {
    stream.push(AUTHORIZATION, Vec::new(), &[]).await;
    stream.push(SETTINGS, Vec::new(), &[]).await;
    for from in (0..WORKLOADS).step_by(PER_RESPONSE) {
        let part = (from..from + PER_RESPONSE).map(|index| workload(&format!("w{index}"), "1"));
        stream.push_part(ADDRESS, part.collect()).await;
    }
    stream.push(ADDRESS, Vec::new(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_of_100_000_workloads_is_synced_kept_and_named_on_return() {
    let fixture = Fixture::new();
    let mut controller = FakeController::start(&fixture.authority).await;
    let config = fixture.start(&controller);
    let mut stream = controller.stream().await;
    stream.subscriptions(3).await;
    let begin = Instant::now();
    serve(&mut stream).await;
    until(&config, |snapshot| {
        (snapshot.workloads().len() == WORKLOADS).then_some(())
    })
    .await;
    println!("first sync: {:?}", begin.elapsed());

    let begin = Instant::now();
    stream.push(ADDRESS, vec![workload("w7", "2")], &[]).await;
    until(&config, |snapshot| {
        (super::revision_of(snapshot, "w7")? == "2").then_some(())
    })
    .await;
    println!("one change, acknowledged: {:?}", begin.elapsed());

    drop(stream);
    let begin = Instant::now();
    let mut stream = controller.stream().await;
    let requests = stream.subscriptions(3).await;
    assert_eq!(versions(&requests, ADDRESS).len(), WORKLOADS);
    println!("reconnect, every version named: {:?}", begin.elapsed());

    let file = fixture.path("proxy.config");
    super::disk::appears(&file).await;
    let begin = Instant::now();
    let restarted = ProxyConfig::start(fixture.settings(&controller), &fixture.shutdown).unwrap();
    until(&restarted, |snapshot| {
        (snapshot.origin() == Origin::Disk).then_some(())
    })
    .await;
    assert_eq!(restarted.snapshot().workloads().len(), WORKLOADS);
    println!(
        "restart from disk: {:?}; file of {} KB",
        begin.elapsed(),
        std::fs::metadata(file).unwrap().len() / 1000
    );
}
