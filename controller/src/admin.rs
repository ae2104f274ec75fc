//! The admin socket (`/status`, `/config_dump`, `/subscribers`, `/logging`) and the public one (`/metrics`, `/healthz/ready`).
//!
//! Nothing secret: tokens and keys are not in any of the structures that are shown.

use std::sync::Arc;

use serde_json::{Value, json};
use weft_runtime::{Request, Response};
use weft_telemetry::{LogHandle, Metrics};
use weft_types::{Service, Workload};

use crate::publish::Subscribers;
use crate::view::{View, Views};

/// What there is to show.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) views: Views,
    pub(crate) subscribers: Subscribers,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) log: Arc<LogHandle>,
}

impl Admin {
    /// Answers on the admin socket.
    pub(crate) fn answer(&self, request: &Request) -> Response {
        match request.path.as_str() {
            "/status" => self.with_view(status),
            "/config_dump" => self.with_view(dump),
            "/subscribers" => pretty(&self.subscribers.to_json()),
            "/logging" => self.logging(request.query.as_deref()),
            _ => self.answer_public(request),
        }
    }

    /// Answers to anybody.
    pub(crate) fn answer_public(&self, request: &Request) -> Response {
        match request.path.as_str() {
            "/metrics" => Response::metrics(self.metrics.encode()),
            "/healthz/ready" if self.views.newest().is_some() => Response::text("ready\n"),
            "/healthz/ready" => Response::error(503, "the source has not been read yet\n"),
            _ => Response::not_found(),
        }
    }

    fn with_view(&self, show: fn(&View) -> Value) -> Response {
        match self.views.newest() {
            Some(view) => pretty(&show(&view)),
            None => Response::error(503, "the source has not been read yet\n"),
        }
    }

    /// `?level=FILTER` sets the log filter, without it the filter is told.
    fn logging(&self, query: Option<&str>) -> Response {
        let level = query.and_then(|query| query.strip_prefix("level="));
        let set = level.map_or(Ok(()), |level| self.log.set(level));
        match set.and_then(|()| self.log.current()) {
            Ok(filter) => Response::text(format!("{filter}\n")),
            Err(error) => Response::error(400, format!("{error}\n")),
        }
    }
}

fn pretty(value: &Value) -> Response {
    Response::json(format!("{value:#}\n"))
}

fn status(view: &View) -> Value {
    let View {
        translation,
        problems,
    } = view;
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "source": { "problems": problems },
        "policies": translation.statuses,
        "findings": translation.findings,
        "counts": {
            "workloads": translation.workloads.len(),
            "services": translation.services.len(),
            "policies": translation.policies.len(),
            "enrollments": translation.enrollments.len(),
        },
        "services": translation.services.iter().map(service_addresses).collect::<Vec<_>>(),
    })
}

fn service_addresses(service: &Service) -> Value {
    let addresses = service.addresses.iter().map(|address| address.address);
    json!({
        "name": service.short_name,
        "namespace": service.name.namespace,
        "addresses": addresses.collect::<Vec<_>>(),
    })
}

fn dump(view: &View) -> Value {
    let translation = &view.translation;
    let enrollments = translation.enrollments.iter().map(|(node, pod)| {
        json!({
            "node": node.as_str(),
            "uid": pod.uid.as_str(),
            "name": pod.name,
            "namespace": pod.namespace,
            "serviceAccount": pod.service_account,
            "mode": format!("{:?}", pod.mode),
            "terminating": pod.terminating,
            "addresses": pod.addresses,
            "netns": pod.netns,
        })
    });
    let policies = translation.policies.iter().map(|policy| {
        json!({
            "name": policy.name.to_string(),
            "scope": format!("{:?}", policy.scope),
            "action": format!("{:?}", policy.action),
            "dryRun": policy.dry_run,
            "rules": policy.rules.iter().map(|rule| format!("{rule:?}")).collect::<Vec<_>>(),
        })
    });
    json!({
        "settings": format!("{:?}", translation.settings),
        "workloads": translation.workloads.iter().map(workload).collect::<Vec<_>>(),
        "services": translation.services.iter().map(service).collect::<Vec<_>>(),
        "policies": policies.collect::<Vec<_>>(),
        "enrollments": enrollments.collect::<Vec<_>>(),
    })
}

fn workload(workload: &Workload) -> Value {
    let services = workload.services.iter().map(|(name, ports)| {
        let ports = ports
            .iter()
            .map(|port| (port.service_port, port.target_port));
        (name.to_string(), json!(ports.collect::<Vec<_>>()))
    });
    let policies = workload
        .authorization_policies
        .iter()
        .map(ToString::to_string);
    json!({
        "uid": workload.uid.as_str(),
        "addresses": workload.addresses,
        "node": workload.node.as_str(),
        "identity": workload.identity().map(|identity| identity.to_string()).ok(),
        "tunnel": format!("{:?}", workload.tunnel),
        "health": format!("{:?}", workload.health),
        "networkMode": format!("{:?}", workload.network_mode),
        "waypoint": workload.waypoint.as_ref().map(|waypoint| format!("{waypoint:?}")),
        "policies": policies.collect::<Vec<_>>(),
        "services": services.collect::<serde_json::Map<_, _>>(),
    })
}

fn service(service: &Service) -> Value {
    let addresses = service.addresses.iter().map(|address| address.address);
    let ports = service
        .ports
        .iter()
        .map(|port| (port.service_port, port.target_port));
    json!({
        "name": service.name.to_string(),
        "addresses": addresses.collect::<Vec<_>>(),
        "ports": ports.collect::<Vec<_>>(),
        "waypoint": service.waypoint.as_ref().map(|waypoint| format!("{waypoint:?}")),
        "requiresWaypoint": service.requires_waypoint,
        "loadBalancing": format!("{:?}", service.load_balancing),
    })
}
