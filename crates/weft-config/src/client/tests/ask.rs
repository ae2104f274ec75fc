//! Readers who ask about an address.

use std::net::IpAddr;

use tonic::Status;
use weft_proto::resource::{ADDRESS, AUTHORIZATION, SETTINGS, pack};
use weft_proto::wire::discovery::Resource;
use weft_proto::wire::workload::{Address, Workload, address::Type};
use weft_runtime::{Shutdown, spawn};

use super::server::{FakeController, resource};
use super::{Fixture, LIMIT, registry_only, serve_first};
use crate::ProxyConfig;

const ADDRESS_OF_C: [u8; 4] = [10, 0, 0, 3];
const NAME_OF_C: &str = "/10.0.0.3";

fn at(name: &str, address: [u8; 4]) -> Resource {
    let uid = format!("Kubernetes//Pod/default/{name}");
    let message = Workload {
        uid: uid.clone(),
        name: name.to_owned(),
        namespace: "default".to_owned(),
        addresses: vec![address.to_vec()],
        ..Workload::default()
    };
    let message = Address {
        r#type: Some(Type::Workload(message)),
    };
    resource(&uid, "1", pack(ADDRESS, &message))
}

/// Waits in the background for the address to be known, as long as a test may take.
fn waiting(config: &ProxyConfig) -> tokio::task::JoinHandle<bool> {
    let config = config.clone();
    spawn(&Shutdown::new(), "waiting", async move {
        config
            .wait_for_address("", IpAddr::from(ADDRESS_OF_C), LIMIT * 10)
            .await
    })
}

async fn outcome(waiting: tokio::task::JoinHandle<bool>) -> bool {
    tokio::time::timeout(LIMIT, waiting).await.unwrap().unwrap()
}

#[tokio::test]
async fn the_answer_that_there_is_no_such_address_ends_the_wait() {
    let fixture = Fixture::new();
    let mut controller = FakeController::start(&fixture.authority).await;
    let config = fixture.start(&controller);
    let mut stream = controller.stream().await;
    serve_first(&mut stream).await;
    config.synced().await;
    let (one, two) = (waiting(&config), waiting(&config));
    let question = stream.request().await;
    assert_eq!(question.type_url, ADDRESS);
    assert_eq!(question.resource_names_subscribe, [NAME_OF_C]);
    stream.push(ADDRESS, Vec::new(), &[NAME_OF_C]).await;
    assert!(!outcome(one).await && !outcome(two).await);
    assert_eq!(
        config.snapshot().workloads().len(),
        2,
        "nothing was removed"
    );
    // The next question takes the old one back.
    let again = config.clone();
    let other = IpAddr::from([10, 0, 0, 4]);
    let again = spawn(&Shutdown::new(), "again", async move {
        again.wait_for_address("", other, LIMIT * 10).await
    });
    let question = stream.request().await;
    assert_eq!(question.resource_names_subscribe, ["/10.0.0.4"]);
    assert_eq!(question.resource_names_unsubscribe, [NAME_OF_C]);
    again.abort();
}

#[tokio::test]
async fn an_entry_that_comes_by_itself_or_as_the_answer_is_found() {
    let fixture = Fixture::new();
    let mut controller = FakeController::start(&fixture.authority).await;
    let config = fixture.start(&controller);
    let mut stream = controller.stream().await;
    serve_first(&mut stream).await;
    config.synced().await;
    let wait = waiting(&config);
    stream.request().await;
    // In parts, the answer in the first: nobody looks before the last has come.
    let nobody = at("x", [10, 0, 0, 9]);
    stream.push_part(ADDRESS, vec![nobody]).await;
    assert!(!wait.is_finished());
    stream.push(ADDRESS, vec![at("c", ADDRESS_OF_C)], &[]).await;
    assert!(outcome(wait).await);
    // Known: nobody is asked.
    assert!(outcome(waiting(&config)).await);
}

#[tokio::test]
async fn a_complete_state_on_a_new_stream_is_an_answer_and_is_asked_for_as_a_whole() {
    let fixture = Fixture::new();
    let mut controller = FakeController::start(&fixture.authority).await;
    let config = fixture.start(&controller);
    let mut stream = controller.stream().await;
    serve_first(&mut stream).await;
    config.synced().await;
    let wait = waiting(&config);
    stream.request().await;
    stream.fail(Status::unavailable("restarting")).await;
    let mut stream = controller.stream().await;
    // Subscribed to everything, not to the name alone.
    for request in stream.subscriptions(3).await {
        assert!(request.resource_names_subscribe.is_empty());
    }
    stream.push(AUTHORIZATION, Vec::new(), &[]).await;
    stream.push(SETTINGS, vec![registry_only()], &[]).await;
    assert!(!wait.is_finished());
    stream
        .push(ADDRESS, vec![at("a", [10, 0, 0, 1])], &[])
        .await;
    assert!(!outcome(wait).await);
}
