//! Counting, flushing, and the cap on series.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use weft_types::ServiceName;

use super::{ConnectionMetrics, SERIES_MAX, SeriesLabels};
use crate::record::{Direction, Party, ResponseFlag, Security, ServiceLabel};
use crate::registry::Metrics;

fn labels(service: &str) -> SeriesLabels {
    let source = Party {
        identity: Some("spiffe://cluster.local/ns/default/sa/a".parse().unwrap()),
        ..Party::default()
    };
    let service = ServiceLabel {
        name: ServiceName::new("default", format!("{service}.default.svc.cluster.local")),
        short_name: service.into(),
    };
    SeriesLabels::new(
        Direction::Outbound,
        &source,
        &Party::default(),
        Some(&service),
        Security::MutualTls,
    )
}

fn scrape(metrics: &Arc<ConnectionMetrics>) -> String {
    let mut all = Metrics::new("test", "0");
    all.registry()
        .register_collector(Box::new(Arc::clone(metrics)));
    all.encode()
}

fn value(text: &str, name: &str, containing: &str) -> Option<String> {
    let prefix = format!("{name}{{");
    let line = text
        .lines()
        .find(|line| line.starts_with(&prefix) && line.contains(containing))?;
    Some(line.rsplit_once(' ')?.1.to_owned())
}

#[test]
fn a_connection_shows_while_it_lives_and_after_with_istio_s_labels() {
    let metrics = Arc::new(ConnectionMetrics::default());
    let mut connection = metrics.open(labels("web"));
    connection.flush(100, 10);
    connection.flush(150, 10);

    let text = scrape(&metrics);
    let check = |name, want: Option<&str>| {
        assert_eq!(
            value(&text, name, "web").as_deref(),
            want,
            "{name} in\n{text}"
        );
    };
    check("istio_tcp_connections_opened_total", Some("1"));
    check("istio_tcp_sent_bytes_total", Some("150"));
    check("istio_tcp_received_bytes_total", Some("10"));
    check("istio_tcp_sockets_open", Some("1"));
    check("istio_tcp_connections_closed_total", None);
    for label in [
        "reporter=\"source\"",
        "source_principal=\"spiffe://cluster.local/ns/default/sa/a\"",
        "source_workload=\"unknown\"",
        "destination_principal=\"unknown\"",
        "destination_service=\"web.default.svc.cluster.local\"",
        "destination_service_name=\"web\"",
        "destination_service_namespace=\"default\"",
        "request_protocol=\"tcp\"",
        "response_flags=\"-\"",
        "connection_security_policy=\"mutual_tls\"",
    ] {
        assert!(text.contains(label), "{label} in\n{text}");
    }

    connection.flush(151, 11);
    connection.close(ResponseFlag::None);
    let text = scrape(&metrics);
    assert_eq!(
        value(&text, "istio_tcp_sent_bytes_total", "web").as_deref(),
        Some("151")
    );
    assert_eq!(
        value(&text, "istio_tcp_connections_closed_total", "web").as_deref(),
        Some("1")
    );
    assert_eq!(
        value(&text, "istio_tcp_sockets_open", "web").as_deref(),
        Some("0")
    );
}

#[test]
fn failures_and_cuts_carry_their_flag() {
    let metrics = Arc::new(ConnectionMetrics::default());
    metrics.fail(&labels("web"), ResponseFlag::Connect);
    metrics.open(labels("web")).close(ResponseFlag::Deny);
    let text = scrape(&metrics);
    let failed = value(
        &text,
        "istio_tcp_connections_failed_total",
        "response_flags=\"CONNECT\"",
    );
    let closed = value(
        &text,
        "istio_tcp_connections_closed_total",
        "response_flags=\"DENY\"",
    );
    assert_eq!(
        (failed.as_deref(), closed.as_deref()),
        (Some("1"), Some("1")),
        "{text}"
    );
}

#[test]
fn the_number_of_series_is_bounded_and_an_open_one_stays() {
    let metrics = Arc::new(ConnectionMetrics::default());
    let open = metrics.open(labels("held"));
    for n in 0..SERIES_MAX * 2 {
        metrics.fail(&labels(&format!("s{n}")), ResponseFlag::Connect);
        assert!(metrics.series.read().unwrap().len() <= SERIES_MAX + 1);
    }
    assert!(value(&scrape(&metrics), "istio_tcp_sockets_open", "held").is_some());
    assert_eq!(metrics.overflows.load(Ordering::Relaxed), 0);

    let held: Vec<_> = (0..SERIES_MAX)
        .map(|n| metrics.open(labels(&format!("h{n}"))))
        .collect();
    assert!(metrics.series.read().unwrap().len() <= SERIES_MAX + 1);
    assert!(metrics.overflows.load(Ordering::Relaxed) > 0);
    drop((held, open));
}
