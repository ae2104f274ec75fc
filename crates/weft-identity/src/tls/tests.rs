//! Real handshakes in memory, between our side and a peer that sends whatever a case says.

use std::sync::Arc;

use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use weft_types::SpiffeId;

use super::{HANDSHAKE_BYTES_MAX, HANDSHAKE_TIMEOUT, TlsError, TlsStream, accept, connect};
use crate::credentials::Credentials;
use crate::testing::{Root, WEB, id};
use crate::verify::ChainError;

mod bad;
mod stranger;

const DB: &str = "spiffe://cluster.local/ns/default/sa/db";
const PIPE: usize = 1 << 20;

type Stream = TlsStream<DuplexStream>;

async fn handshake(
    client: &Credentials,
    server: &Credentials,
    expected: &[SpiffeId],
) -> (Result<Stream, TlsError>, Result<Stream, TlsError>) {
    let (near, far) = duplex(PIPE);
    tokio::join!(connect(client, expected, near), accept(server, far))
}

#[tokio::test]
async fn both_sides_learn_whom_they_talk_to() {
    let root = Root::new("root");
    let (web, db) = (root.credentials(WEB), root.credentials(DB));
    let (client, server) = handshake(&web, &db, &[id(DB)]).await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    assert_eq!(client.peer_identity(), &id(DB));
    assert_eq!(server.peer_identity(), &id(WEB));
    assert_eq!(client.cipher_suite(), "TLS13_AES_128_GCM_SHA256");
    assert_eq!(client.key_exchange(), "X25519MLKEM768");
    assert!(client.peer_not_after().is_some());

    let (sent, received) = (vec![7; 300_000], &mut vec![0; 300_000]);
    let (wrote, read) = tokio::join!(
        async {
            client.write_all(&sent).await?;
            client.shutdown().await
        },
        server.read_exact(received)
    );
    wrote.unwrap();
    read.unwrap();
    assert_eq!(&sent, received);
    assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0, "a clean end");
}

#[tokio::test]
async fn an_end_without_close_notify_is_an_error() {
    let root = Root::new("root");
    let (web, db) = (root.credentials(WEB), root.credentials(DB));
    let (client, server) = handshake(&web, &db, &[id(DB)]).await;
    drop(client);
    let error = server.unwrap().read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn the_client_refuses_an_identity_that_it_did_not_expect() {
    let root = Root::new("root");
    let (web, db) = (root.credentials(WEB), root.credentials(DB));
    for expected in [vec![], vec![id(WEB)]] {
        let (client, server) = handshake(&web, &db, &expected).await;
        assert!(
            matches!(client, Err(TlsError::Peer(ChainError::Unexpected { ref got, .. })) if *got == id(DB)),
            "{client:?}"
        );
        assert!(matches!(server, Err(TlsError::Alert(_))), "{server:?}");
    }
    let (client, _) = handshake(&web, &db, &[id(WEB), id(DB)]).await;
    client.expect("one of several expected identities");
}

#[tokio::test]
async fn an_alias_of_the_trust_domain_is_accepted_only_when_configured() {
    let foreign = "spiffe://old.example/ns/default/sa/db";
    let root = Root::new("root");
    let (web, db) = (root.credentials(WEB), root.credentials(foreign));
    let (client, _) = handshake(&web, &db, &[id(foreign)]).await;
    assert!(matches!(
        client,
        Err(TlsError::Peer(ChainError::TrustDomain(_)))
    ));
    let web = web.with_aliases(&[id(foreign).trust_domain().clone()]);
    let db = db.with_aliases(&[id(WEB).trust_domain().clone()]);
    let (client, server) = handshake(&web, &db, &[id(foreign)]).await;
    client.unwrap();
    server.unwrap();
}

#[tokio::test]
async fn configurations_are_made_once_for_each_pair() {
    let root = Root::new("root");
    let web = root.credentials(WEB);
    let first = super::client_config(&web, &[id(DB)]).unwrap();
    let again = super::client_config(&web, &[id(DB)]).unwrap();
    let other = super::client_config(&web, &[id(WEB)]).unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    assert!(!Arc::ptr_eq(&first, &other));
    let server = super::server_config(&web).unwrap();
    assert!(Arc::ptr_eq(&server, &super::server_config(&web).unwrap()));
    let rotated = root.credentials(WEB);
    let rotated = super::client_config(&rotated, &[id(DB)]).unwrap();
    assert!(!Arc::ptr_eq(&first, &rotated), "a rotation starts afresh");
}

#[tokio::test]
async fn nothing_is_sent_that_names_the_destination_and_nothing_is_resumed() {
    let root = Root::new("root");
    let config = super::client_config(&root.credentials(WEB), &[id(DB)]).unwrap();
    let ClientConfig {
        enable_sni,
        enable_early_data,
        ref alpn_protocols,
        ..
    } = *config;
    assert!(!enable_sni && !enable_early_data);
    assert_eq!(alpn_protocols, &[b"h2".to_vec()]);
    let server = super::server_config(&root.credentials(DB)).unwrap();
    assert_eq!(server.send_tls13_tickets, 0);
    assert_eq!(server.max_early_data_size, 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_dropped_after_ten_seconds() {
    let root = Root::new("root");
    let (near, _far) = duplex(PIPE);
    let started = tokio::time::Instant::now();
    let accepted = accept(&root.credentials(DB), near).await;
    assert!(matches!(accepted, Err(TlsError::Timeout)));
    assert_eq!(started.elapsed(), HANDSHAKE_TIMEOUT);
}

#[tokio::test]
async fn a_stranger_that_sends_too_much_is_dropped_early() {
    let root = Root::new("root");
    let (near, mut far) = duplex(PIPE);
    // One handshake message announced as 64 KB, which rustls alone would buffer in full.
    let mut hello = vec![0x01, 0x00, 0xff, 0x00];
    hello.resize(HANDSHAKE_BYTES_MAX + 16_384, 0);
    for chunk in hello.chunks(16_000) {
        let mut record = vec![22, 3, 1];
        record.extend((chunk.len() as u16).to_be_bytes());
        record.extend(chunk);
        far.write_all(&record).await.unwrap();
    }
    let accepted = accept(&root.credentials(DB), near).await;
    assert!(
        matches!(&accepted, Err(TlsError::Protocol(reason)) if reason.contains("too many bytes")),
        "{accepted:?}"
    );
}

#[tokio::test]
async fn plain_text_is_refused() {
    let root = Root::new("root");
    let (near, mut far) = duplex(PIPE);
    far.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let accepted = accept(&root.credentials(DB), near).await;
    assert!(
        matches!(accepted, Err(TlsError::Protocol(_))),
        "{accepted:?}"
    );
}
