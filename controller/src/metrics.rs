//! What the controller counts, in Istio's names where it has them.

use std::fmt;
use std::sync::Arc;

use weft_k8s_api::Kind;
use weft_runtime::limit_counts;
use weft_telemetry::Metrics;
use weft_telemetry::prometheus_client::collector::Collector;
use weft_telemetry::prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use weft_telemetry::prometheus_client::metrics::MetricType;
use weft_telemetry::prometheus_client::metrics::counter::Counter;
use weft_telemetry::prometheus_client::metrics::family::Family;
use weft_telemetry::prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use weft_types::{NodeName, SpiffeId};

use crate::issue::IssueEvents;
use crate::limits;
use crate::publish::{PublishEvents, Subscribers};
use crate::translate::Reason;
use crate::view::Views;

/// Istio's names have no `_total`, which this library gives to every counter: as gauges they keep the names that dashboards ask for.
type Count = Gauge;
type ByType = Family<Vec<(&'static str, String)>, Count>;

/// Counters of both services.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    pushes: ByType,
    rejects: ByType,
    requests: Count,
    issued: Count,
    unauthenticated: Count,
    refused: Counter,
}

/// The registry with everything in it.
pub(crate) fn registry(
    counters: &Counters,
    subscribers: Subscribers,
    views: Views,
) -> Arc<Metrics> {
    let mut metrics = Metrics::new("controller", env!("CARGO_PKG_VERSION"));
    metrics.read_limits(|| limit_counts(&limits::ALL));
    let registry = metrics.registry();
    let Counters {
        pushes,
        rejects,
        requests,
        issued,
        unauthenticated,
        refused,
    } = counters.clone();
    registry.register("pilot_xds_pushes", "Responses sent to subscribers", pushes);
    registry.register(
        "pilot_total_xds_rejects",
        "Responses that subscribers rejected",
        rejects,
    );
    registry.register(
        "citadel_server_csr_count",
        "Certificates asked for",
        requests,
    );
    registry.register(
        "citadel_server_success_cert_issuance_count",
        "Certificates issued",
        issued,
    );
    let help = "Certificate requests with an unknown token";
    registry.register(
        "citadel_server_authentication_failure_count",
        help,
        unauthenticated,
    );
    let help = "Certificate requests refused for other reasons than the token";
    registry.register("weft_certificate_refusals", help, refused);
    registry.register_collector(Box::new(State { subscribers, views }));
    Arc::new(metrics)
}

impl PublishEvents for Counters {
    fn pushed(&self, type_url: &str) {
        self.pushes.get_or_create(&label(type_url)).inc();
    }

    fn rejected(&self, type_url: &str) {
        self.rejects.get_or_create(&label(type_url)).inc();
    }
}

/// Types that are not served have no series of their own: a client chooses them.
fn label(type_url: &str) -> Vec<(&'static str, String)> {
    use weft_proto::resource::{ADDRESS, AUTHORIZATION, ENROLLMENT, SETTINGS};
    let known = [ADDRESS, AUTHORIZATION, ENROLLMENT, SETTINGS].contains(&type_url);
    let name = if known {
        type_url.rsplit('/').next().unwrap_or(type_url)
    } else {
        "unknown"
    };
    vec![("type", name.to_owned())]
}

impl IssueEvents for Counters {
    fn issued(&self, _node: &NodeName, _identity: &SpiffeId) {
        self.requests.inc();
        self.issued.inc();
    }

    fn refused(&self, _node: Option<&NodeName>, code: tonic::Code) {
        self.requests.inc();
        if code == tonic::Code::Unauthenticated {
            self.unauthenticated.inc();
        } else {
            self.refused.inc();
        }
    }
}

/// Sizes, read when scraped.
#[derive(Debug)]
struct State {
    subscribers: Subscribers,
    views: Views,
}

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: usize| {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let descriptor = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            gauge.encode(descriptor)
        };
        gauge("pilot_xds", "Open streams", self.subscribers.count())?;
        let Some(view) = self.views.newest() else {
            return Ok(());
        };
        let translation = &view.translation;
        gauge(
            "weft_workloads",
            "Workloads published",
            translation.workloads.len(),
        )?;
        gauge(
            "weft_services",
            "Services published",
            translation.services.len(),
        )?;
        gauge(
            "weft_policies",
            "Policies published",
            translation.policies.len(),
        )?;
        gauge(
            "weft_source_problems",
            "Problems of the source",
            view.problems.len(),
        )?;
        gauge(
            "weft_findings",
            "Fields not honoured",
            translation.findings.values().map(|of| of.len()).sum(),
        )?;
        let claimants = translation.findings.iter().filter(|(key, _)| {
            let kinds = [Kind::Service, Kind::Pod, Kind::WorkloadEntry];
            kinds.contains(&key.kind)
        });
        let said = claimants.flat_map(|(_, of)| of.iter());
        gauge(
            "weft_address_conflicts",
            "Addresses that an object names and another has",
            said.filter(|finding| finding.reason == Reason::Conflicted)
                .count(),
        )
    }
}
