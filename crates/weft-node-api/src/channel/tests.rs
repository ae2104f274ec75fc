//! The channel between real sockets: packets, descriptors, peers that break the rules.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use super::{ChannelError, bind, connect};
use crate::message::{DESCRIPTORS_MAX, Message};

fn me() -> (u32, u32) {
    (
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    )
}

fn file() -> Arc<OwnedFd> {
    Arc::new(tempfile::tempfile().unwrap().into())
}

#[tokio::test]
async fn a_packet_carries_as_many_descriptors_as_the_protocol_allows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.sock");
    let acceptor = bind(&path, 0o600, me()).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let client = connect(&path).unwrap();
    let server = acceptor.accept().await.unwrap();
    assert_eq!(server.peer().pid, std::process::id() as i32);
    assert_eq!(server.peer().uid, me().0);

    let files: Vec<_> = (0..DESCRIPTORS_MAX).map(|_| file()).collect();
    client.send(7, &Message::StoreKeys, &files).await.unwrap();
    let packet = server.receive().await.unwrap();
    assert_eq!((packet.id, packet.message), (7, Message::StoreKeys));
    assert_eq!(packet.descriptors.len(), DESCRIPTORS_MAX);

    let one_more: Vec<_> = (0..=DESCRIPTORS_MAX).map(|_| file()).collect();
    let refused = client.send(8, &Message::Ready, &one_more).await;
    assert!(matches!(refused, Err(ChannelError::Io(_))), "{refused:?}");

    drop(client);
    let end = server.receive().await;
    assert!(matches!(end, Err(ChannelError::Closed)), "{end:?}");
}

#[tokio::test]
async fn what_is_not_a_packet_ends_the_connection_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.sock");
    let acceptor = bind(&path, 0o600, me()).unwrap();
    let client = connect(&path).unwrap();
    let server = acceptor.accept().await.unwrap();
    rustix::net::send(
        client.socket.get_ref(),
        b"{\"id\":1}",
        rustix::net::SendFlags::empty(),
    )
    .unwrap();
    let outcome = server.receive().await;
    assert!(matches!(outcome, Err(ChannelError::Peer(_))), "{outcome:?}");
}
