//! The admin socket (`/status`, `/config_dump`, `/subscribers`, `/logging`) and the public one (`/metrics`, `/healthz/ready`).
//!
//! Nothing secret: tokens and keys are not in any of the structures that are shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use serde_json::{Value, json};
use weft_runtime::{Request, Response};
use weft_telemetry::{LogHandle, Metrics};
use weft_types::{Service, Workload};

use crate::publish::Subscribers;
use crate::source::SourceProblem;
use crate::translate::PolicyStatus;
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
        "policies": policies(view),
        "findings": translation.findings.values().flat_map(|findings| findings.iter()).collect::<Vec<_>>(),
        "counts": {
            "workloads": translation.workloads.len(),
            "services": translation.services.len(),
            "policies": translation.policies.len(),
            "enrollments": translation.enrollments.values().map(OrdMap::len).sum::<usize>(),
        },
        "services": translation.services.values().map(|service| service_addresses(service)).collect::<Vec<_>>(),
    })
}

/// Every policy and what became of it, with those of which the files now say something that cannot be accepted.
fn policies(view: &View) -> Vec<PolicyStatus> {
    let statuses = view.translation.statuses.iter();
    let mut policies: BTreeMap<String, PolicyStatus> = statuses
        .map(|(key, status)| (key.to_string(), PolicyStatus::clone(status)))
        .collect();
    for problem in &view.problems {
        let object = problem.object.as_deref().unwrap_or_default();
        let Some((kind, name)) = POLICY_KINDS
            .iter()
            .find_map(|kind| Some((*kind, object.strip_prefix(kind)?.strip_prefix(' ')?)))
        else {
            continue;
        };
        let SourceProblem {
            file,
            line,
            field,
            message,
            effect,
            ..
        } = problem;
        let file = file.display();
        let colon = if field.is_empty() { "" } else { ": " };
        let message = format!("{file}, line {line}: {field}{colon}{message}; {effect}");
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        let invalid = PolicyStatus::invalid(kind, namespace, name, message);
        match policies.get_mut(object) {
            // The latest text is not what holds, so the policy as written is not accepted.
            Some(status) => status.join(invalid),
            None => drop(policies.insert(object.to_owned(), invalid)),
        }
    }
    policies.into_values().collect()
}

const POLICY_KINDS: [&str; 2] = ["AuthorizationPolicy", "PeerAuthentication"];

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
    let pods = translation.enrollments.iter();
    let pods = pods.flat_map(|(node, pods)| pods.values().map(move |pod| (node, pod)));
    let enrollments = pods.map(|(node, pod)| {
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
    let policies = translation.policies.values().map(|policy| {
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
        "workloads": translation.workloads.values().map(|item| workload(item)).collect::<Vec<_>>(),
        "services": translation.services.values().map(|item| service(item)).collect::<Vec<_>>(),
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
