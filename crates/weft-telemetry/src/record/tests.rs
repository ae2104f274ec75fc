//! The line formats, field by field.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use weft_types::ServiceName;

use super::{ConnectionRecord, Direction, Party, ResponseFlag, Security, ServiceLabel};

fn record() -> ConnectionRecord {
    ConnectionRecord {
        id: 7,
        direction: Direction::Outbound,
        source: Party {
            address: Some("10.0.0.1:4000".parse().unwrap()),
            workload: None,
            identity: Some("spiffe://cluster.local/ns/default/sa/a".parse().unwrap()),
        },
        destination: Party {
            address: Some("10.0.0.2:15008".parse().unwrap()),
            workload: None,
            identity: None,
        },
        hbone_target: Some("10.0.0.2:80".to_owned()),
        service: Some(ServiceLabel {
            name: ServiceName::new("default", "web.default.svc.cluster.local"),
            short_name: Arc::from("web"),
        }),
        security: Security::MutualTls,
        started: UNIX_EPOCH,
        duration: Duration::from_millis(12),
        bytes_sent: 5,
        bytes_received: 3,
        flag: ResponseFlag::None,
        error: None,
    }
}

#[test]
fn a_text_line_has_the_fields_in_order_and_leaves_out_what_is_unknown() {
    let mut line = String::new();
    record().write_text(&mut line);
    assert_eq!(
        line,
        "1970-01-01T00:00:00.012000Z info access connection complete src.addr=10.0.0.1:4000 \
         src.identity=\"spiffe://cluster.local/ns/default/sa/a\" dst.hbone_addr=10.0.0.2:80 \
         dst.service=\"web.default.svc.cluster.local\" dst.addr=10.0.0.2:15008 direction=\"outbound\" \
         connection.id=7 security=\"mutual_tls\" bytes_sent=5 bytes_recv=3 duration=\"12ms\"\n"
    );
}

#[test]
fn a_value_cannot_forge_a_second_line_or_field() {
    let mut record = record();
    record.flag = ResponseFlag::Connect;
    record.error = Some("boom\" x=1\ninfo access \u{1b}[2J".to_owned());
    let mut text = String::new();
    record.write_text(&mut text);
    assert_eq!(text.matches('\n').count(), 1);
    assert!(
        text.contains(r#"error="boom\" x=1\ninfo access \u{1b}[2J""#),
        "{text}"
    );
    assert!(text.contains(" error access "), "{text}");

    let mut json = String::new();
    record.write_json(&mut json);
    assert_eq!(json.matches('\n').count(), 1);
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["error"], "boom\" x=1\ninfo access \u{1b}[2J");
    assert_eq!(value["response_flags"], "CONNECT");
    assert_eq!(value["bytes_sent"], 5);
    assert_eq!(value["src.addr"], "10.0.0.1:4000");
    assert_eq!(value["scope"], "access");
}
