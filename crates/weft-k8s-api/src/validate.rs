//! Checks of values that their types do not make: names, addresses, ports, words.
//!
//! In: a decoded object. Out: `(field, message)` for each thing that an API server would refuse or that the mesh could only guess at.

mod core;
mod security;

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::labels;
use crate::names::{is_dns_label, is_dns_subdomain, is_label_value};
use crate::node::child_path;
use crate::object::{Kind, Object};

/// A field and what is wrong with it.
pub(crate) type Problem = (String, String);

/// Collects problems.
#[derive(Default)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    pub(crate) fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push((field.into(), message.into()));
    }

    /// A value that must be one of some words.
    pub(crate) fn word(&mut self, field: &str, value: Option<&str>, words: &[&str]) {
        if let Some(value) = value
            && !words.contains(&value)
        {
            let message = format!("{value:?} is not one of {}", words.join(", "));
            self.add(field, message);
        }
    }

    pub(crate) fn address(&mut self, field: &str, text: &str) {
        if text.parse::<IpAddr>().is_err() {
            self.add(field, format!("{text:?} is not an IP address"));
        }
    }

    pub(crate) fn port(&mut self, field: &str, port: i32) {
        if !(1..=65_535).contains(&port) {
            self.add(field, format!("{port} is not a port from 1 to 65535"));
        }
    }

    pub(crate) fn label(&mut self, field: &str, text: &str) {
        if !is_dns_label(text) {
            let message = format!("{text:?} is not a name of a-z, 0-9 and -, at most 63 long");
            self.add(field, message);
        }
    }

    pub(crate) fn subdomain(&mut self, field: &str, text: &str) {
        if !is_dns_subdomain(text) {
            let message = format!("{text:?} is not a name of a-z, 0-9, - and ., at most 253 long");
            self.add(field, message);
        }
    }
}

/// Everything that is wrong with a pod beside its metadata.
pub(crate) fn pod(pod: &Pod) -> Vec<Problem> {
    let mut problems = Problems::default();
    core::pod(&mut problems, pod);
    problems.0
}

/// Everything that is wrong with the object.
pub(crate) fn check(object: &Object) -> Vec<Problem> {
    let mut problems = Problems::default();
    metadata(&mut problems, object.kind(), object.metadata());
    match object {
        // A pod was checked before it was cut down to what the mesh reads.
        Object::Namespace(_) | Object::Node(_) | Object::ServiceAccount(_) | Object::Pod(_) => {}
        Object::Service(service) => core::service(&mut problems, service),
        Object::EndpointSlice(slice) => core::endpoint_slice(&mut problems, slice),
        Object::WorkloadEntry(entry) => core::workload_entry(&mut problems, entry),
        Object::AuthorizationPolicy(policy) => security::authorization(&mut problems, policy),
        Object::PeerAuthentication(policy) => security::peer(&mut problems, policy),
        Object::ConfigMap(map) => core::config_map(&mut problems, map),
    }
    problems.0
}

fn metadata(problems: &mut Problems, kind: Kind, metadata: &ObjectMeta) {
    let name = metadata.name.as_deref().unwrap_or_default();
    match kind {
        _ if name.is_empty() => problems.add("metadata.name", "missing"),
        Kind::Namespace | Kind::Service => problems.label("metadata.name", name),
        _ => problems.subdomain("metadata.name", name),
    }
    match metadata.namespace.as_deref() {
        Some(namespace) if kind.is_namespaced() => {
            problems.label("metadata.namespace", namespace);
        }
        Some(_) => problems.add("metadata.namespace", format!("a {kind} has no namespace")),
        None => {}
    }
    for (key, value) in metadata.labels.iter().flatten() {
        let field = child_path("metadata.labels", key);
        if !is_label_value(value) {
            let message =
                format!("{value:?} is not a label's value: at most 63 of A-Z a-z 0-9 - _ .");
            problems.add(&field, message);
        }
        if [labels::DATAPLANE_MODE, labels::ISTIO_DATAPLANE_MODE].contains(&key.as_str()) {
            problems.word(&field, Some(value), &[labels::AMBIENT, labels::NONE]);
        }
    }
    if let Some(netns) = annotation(metadata, labels::NETNS)
        && !netns.starts_with('/')
    {
        let field = child_path("metadata.annotations", labels::NETNS);
        problems.add(field, format!("{netns:?} is not an absolute path"));
    }
}

fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    let annotations = metadata.annotations.as_ref()?;
    annotations.get(key).map(String::as_str)
}
