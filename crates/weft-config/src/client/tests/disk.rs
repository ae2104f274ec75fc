//! What the disk is for, and what it must never do.

use std::path::Path;

use super::{Authority, FakeController, Fixture, LIMIT, Shutdown, Stream, serve_first, until};
use crate::{Origin, ProxyConfig};

/// A fixture whose client has written its first complete state, and was stopped with its controller.
async fn written() -> (Fixture, crate::ConfigSettings) {
    let mut fixture = Fixture::new();
    let mut controller = FakeController::start(&fixture.authority).await;
    let settings = fixture.settings(&controller);
    let _config = fixture.start(&controller);
    let mut stream = controller.stream().await;
    serve_first(&mut stream).await;
    appears(&fixture.path("proxy.config")).await;
    fixture.shutdown.stop();
    fixture.shutdown = Shutdown::new();
    controller.stop().await;
    (fixture, settings)
}

/// The rename that puts the file in place has no event that a test could wait for.
pub(super) async fn appears(path: &Path) {
    let look = async {
        while !path.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, look)
        .await
        .expect("the state is written");
}

async fn error_of(config: &ProxyConfig) -> String {
    let look = async {
        loop {
            if let Some(error) = config.status().disk_error {
                return error;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, look)
        .await
        .expect("the file is reported")
}

/// A controller that the settings point to.
async fn revived(fixture: &Fixture, settings: &crate::ConfigSettings) -> (FakeController, Stream) {
    let address = settings.controller.strip_prefix("https://").unwrap();
    let mut controller =
        FakeController::start_at(&fixture.authority, address.parse().unwrap()).await;
    let stream = controller.stream().await;
    (controller, stream)
}

#[tokio::test]
async fn a_restart_serves_the_last_good_state_while_the_controller_is_away() {
    let (fixture, settings) = written().await;
    let config = ProxyConfig::start(settings.clone(), &fixture.shutdown).unwrap();
    tokio::time::timeout(LIMIT, config.ready()).await.unwrap();
    let snapshot = config.snapshot();
    assert_eq!(snapshot.origin(), Origin::Disk);
    assert_eq!(snapshot.workloads().len(), 2);
    assert!(snapshot.settings_known());

    // The controller is back: only what changed is asked for.
    let (_controller, mut stream) = revived(&fixture, &settings).await;
    let requests = stream.subscriptions(3).await;
    assert_eq!(super::versions(&requests, super::ADDRESS).len(), 2);
    for request in requests {
        stream.push(&request.type_url, Vec::new(), &[]).await;
    }
    until(&config, |snapshot| {
        (snapshot.origin() == Origin::Live).then_some(())
    })
    .await;
    assert_eq!(config.snapshot().workloads().len(), 2);
}

#[tokio::test]
async fn a_damaged_file_is_reported_and_harmless() {
    let (fixture, settings) = written().await;
    let path = fixture.path("proxy.config");
    let good = std::fs::read(&path).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for bad in [
        Vec::new(),
        b"garbage".repeat(100),
        good[..good.len() - 1].to_vec(),
        flipped,
    ] {
        std::fs::write(&path, &bad).unwrap();
        let run = fixture.shutdown.child();
        let config = ProxyConfig::start(settings.clone(), &run).unwrap();
        assert!(error_of(&config).await.contains("proxy.config"));
        assert_eq!(config.snapshot().origin(), Origin::Empty);
        run.stop();
    }
    // And replaced once the controller has spoken.
    let config = ProxyConfig::start(settings.clone(), &fixture.shutdown).unwrap();
    let (_controller, mut stream) = revived(&fixture, &settings).await;
    serve_first(&mut stream).await;
    tokio::time::timeout(LIMIT, config.synced()).await.unwrap();
    let look = async {
        while config.status().disk_error.is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, look)
        .await
        .expect("the file is written again");
}

#[tokio::test]
async fn the_state_of_another_node_is_not_taken() {
    let (fixture, mut settings) = written().await;
    settings.node = "n2".into();
    let config = ProxyConfig::start(settings, &fixture.shutdown).unwrap();
    assert!(error_of(&config).await.contains("n1"));
    assert_eq!(config.snapshot().origin(), Origin::Empty);
}

#[tokio::test]
async fn a_disk_that_takes_nothing_costs_the_copy_alone() {
    let fixture = Fixture::new();
    let authority: &Authority = &fixture.authority;
    let mut controller = FakeController::start(authority).await;
    let mut settings = fixture.settings(&controller);
    // A folder where the next file would be written can neither be written nor removed, whoever tries.
    let full = fixture.path("full");
    std::fs::create_dir_all(full.join("proxy.next")).unwrap();
    settings.state_dir = Some(full);
    let config = ProxyConfig::start(settings, &fixture.shutdown).unwrap();
    let mut stream = controller.stream().await;
    serve_first(&mut stream).await;
    tokio::time::timeout(LIMIT, config.synced()).await.unwrap();
    assert!(error_of(&config).await.contains("check space"));
    assert_eq!(config.snapshot().workloads().len(), 2);
}

#[tokio::test]
async fn a_copy_that_cannot_be_replaced_goes() {
    let (fixture, settings) = written().await;
    let copy = fixture.path("proxy.config");
    let next = fixture.path("proxy.next");
    std::fs::create_dir_all(&next).unwrap();
    let config = ProxyConfig::start(settings.clone(), &fixture.shutdown).unwrap();
    let (_controller, mut stream) = revived(&fixture, &settings).await;
    serve_first(&mut stream).await;
    tokio::time::timeout(LIMIT, config.synced()).await.unwrap();
    assert!(error_of(&config).await.contains("check space"));
    assert!(!copy.exists(), "it may allow what is denied by now");
}
