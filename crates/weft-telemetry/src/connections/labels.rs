//! The labels of `istio_tcp_*`: from the parties of a connection to text.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use weft_types::SpiffeId;

use crate::record::{Direction, Party, ResponseFlag, Security, ServiceLabel};

/// What Istio writes for a value that is not known.
const UNKNOWN: &str = "unknown";

/// One set of labels. Values are shared with the configuration, so that making one copies no text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SeriesLabels {
    direction: Direction,
    source: PartyLabels,
    destination: PartyLabels,
    service: Option<ServiceLabel>,
    security: Security,
    flag: ResponseFlag,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct PartyLabels {
    workload: Option<WorkloadLabels>,
    identity: Option<SpiffeId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct WorkloadLabels {
    workload: Arc<str>,
    namespace: Arc<str>,
    canonical_name: Arc<str>,
    canonical_revision: Arc<str>,
    cluster: Arc<str>,
    region: Arc<str>,
    zone: Arc<str>,
}

impl SeriesLabels {
    /// Labels of a connection.
    pub fn new(
        direction: Direction,
        source: &Party,
        destination: &Party,
        service: Option<&ServiceLabel>,
        security: Security,
    ) -> Self {
        Self {
            direction,
            source: PartyLabels::of(source),
            destination: PartyLabels::of(destination),
            service: service.cloned(),
            security,
            flag: ResponseFlag::None,
        }
    }

    /// The same with how the connection ended.
    pub(super) fn with_flag(&self, flag: ResponseFlag) -> Self {
        Self {
            flag,
            ..self.clone()
        }
    }

    /// Where connections count when there are too many series.
    pub(super) fn overflow() -> Self {
        Self {
            direction: Direction::Outbound,
            source: PartyLabels::default(),
            destination: PartyLabels::default(),
            service: None,
            security: Security::Unknown,
            flag: ResponseFlag::None,
        }
    }
}

impl PartyLabels {
    fn of(party: &Party) -> Self {
        Self {
            workload: party.workload.as_ref().map(|workload| WorkloadLabels {
                workload: Arc::clone(&workload.workload_name),
                namespace: Arc::clone(&workload.namespace),
                canonical_name: Arc::clone(&workload.canonical_name),
                canonical_revision: Arc::clone(&workload.canonical_revision),
                cluster: Arc::clone(&workload.cluster),
                region: Arc::clone(&workload.locality.region),
                zone: Arc::clone(&workload.locality.zone),
            }),
            identity: party.identity.clone(),
        }
    }

    /// Writes the labels of one end; `names` in the order of [`SOURCE`].
    fn encode(&self, names: [&str; 10], set: &mut LabelSetEncoder<'_>) -> Result<(), Error> {
        let workload = self.workload.as_ref();
        let text = |value: Option<&Arc<str>>| -> Arc<str> {
            value
                .filter(|value| !value.is_empty())
                .map_or_else(|| Arc::from(UNKNOWN), Arc::clone)
        };
        let principal = self.identity.as_ref().map(|id| id.to_string().into());
        let values = [
            text(workload.map(|w| &w.workload)),
            text(workload.map(|w| &w.namespace)),
            text(principal.as_ref()),
            text(workload.map(|w| &w.canonical_name)),
            text(workload.map(|w| &w.canonical_revision)),
            text(workload.map(|w| &w.cluster)),
            text(workload.map(|w| &w.canonical_name)),
            text(workload.map(|w| &w.canonical_revision)),
            text(workload.map(|w| &w.region)),
            text(workload.map(|w| &w.zone)),
        ];
        for (name, value) in names.into_iter().zip(values) {
            label(set, name, &value)?;
        }
        Ok(())
    }
}

const SOURCE: [&str; 10] = [
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "source_canonical_service",
    "source_canonical_revision",
    "source_region",
    "source_zone",
];
const DESTINATION: [&str; 10] = [
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_region",
    "destination_zone",
];

impl EncodeLabelSet for SeriesLabels {
    fn encode(&self, set: &mut LabelSetEncoder<'_>) -> Result<(), Error> {
        label(set, "reporter", self.direction.reporter())?;
        self.source.encode(SOURCE, set)?;
        self.destination.encode(DESTINATION, set)?;
        let service = self.service.as_ref();
        let hostname = service.map_or(UNKNOWN, |s| &s.name.hostname);
        label(set, "destination_service", hostname)?;
        let name = service.map_or(UNKNOWN, |s| &s.short_name);
        label(set, "destination_service_name", name)?;
        let namespace = service.map_or(UNKNOWN, |s| &s.name.namespace);
        label(set, "destination_service_namespace", namespace)?;
        label(set, "request_protocol", "tcp")?;
        label(set, "response_flags", self.flag.as_str())?;
        label(set, "connection_security_policy", self.security.as_str())
    }
}

fn label(set: &mut LabelSetEncoder<'_>, name: &str, value: &str) -> Result<(), Error> {
    use prometheus_client::encoding::EncodeLabel;
    (name, value).encode(set.encode_label())
}
