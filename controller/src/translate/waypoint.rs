//! `use-waypoint` labels, honoured as data: this version runs no waypoint, but one that somebody runs behind a Service is known by that Service.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use weft_k8s_api::{ObjectKey, labels};
use weft_types::{GatewayAddress, GatewayDestination, ResourceName, ServiceName};

use super::finding::{Findings, Note, Reason};
use super::member::mesh_label;
use super::{Context, service};

/// Waypoints take HBONE.
const HBONE_PORT: u16 = 15008;

/// The waypoint of a pod: its own label only, as a namespace's is about services.
pub(super) fn of_pod(
    context: &Context<'_>,
    key: &ObjectKey,
    metadata: &ObjectMeta,
    findings: &mut Findings,
) -> Option<GatewayAddress> {
    resolve(context, key, metadata, findings)
}

/// The waypoint of a service: its own label, or else its namespace's.
pub(super) fn of_service(
    context: &Context<'_>,
    key: &ObjectKey,
    metadata: &ObjectMeta,
    findings: &mut Findings,
) -> Option<GatewayAddress> {
    if name(context, metadata).is_some() {
        return resolve(context, key, metadata, findings);
    }
    let namespace = context.index.namespaces.get(&key.namespace)?;
    resolve(context, key, &namespace.metadata, findings)
}

fn name<'a>(context: &Context<'_>, metadata: &'a ObjectMeta) -> Option<&'a str> {
    mesh_label(
        context,
        metadata,
        labels::USE_WAYPOINT,
        labels::ISTIO_USE_WAYPOINT,
    )
}

/// The Service that the labels name as waypoint.
pub(super) fn wanted(
    context: &Context<'_>,
    namespace: &str,
    metadata: &ObjectMeta,
) -> Option<ResourceName> {
    let name = name(context, metadata).filter(|name| *name != labels::NONE)?;
    let other = mesh_label(
        context,
        metadata,
        labels::USE_WAYPOINT_NAMESPACE,
        labels::ISTIO_USE_WAYPOINT_NAMESPACE,
    );
    Some(ResourceName::new(other.unwrap_or(namespace), name))
}

/// Whether something behind the Service can be a waypoint.
pub(super) fn takes_hbone(service: &Service) -> bool {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let mut ports = ports.into_iter().flatten();
    ports.any(|port| port.port == i32::from(HBONE_PORT))
}

fn resolve(
    context: &Context<'_>,
    key: &ObjectKey,
    metadata: &ObjectMeta,
    findings: &mut Findings,
) -> Option<GatewayAddress> {
    let wanted = wanted(context, &key.namespace, metadata)?;
    let ResourceName { namespace, name } = &wanted;
    if **name == *key.name && **namespace == *key.namespace {
        // A waypoint's own Service in a namespace that uses it.
        return None;
    }
    let service = context.index.services.get(&wanted);
    if service.is_some_and(|service| takes_hbone(service)) {
        let hostname = service::hostname(namespace, name);
        return Some(GatewayAddress {
            destination: GatewayDestination::Hostname(ServiceName::new(
                Arc::clone(namespace),
                hostname,
            )),
            hbone_port: HBONE_PORT,
        });
    }
    findings.add(
        key,
        Note {
            field: "metadata.labels[\"weft.dev/use-waypoint\"]",
            reason: Reason::ReferenceMissing,
            message: format!(
                "waypoint {wanted} is not known: there is no Service of that name with port {HBONE_PORT}"
            ),
            effect: "traffic goes directly; policies for a waypoint still refuse it",
        },
    );
    None
}
