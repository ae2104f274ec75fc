//! Which objects must be translated again, because they changed or because another one did that they are about.
//!
//! Rare changes look through everything (a node that moves to another zone, a Service that becomes a waypoint): an index for them would cost
//! memory for every pod all the time.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use weft_k8s_api::{Kind, ObjectKey};
use weft_types::{Locality, ResourceName};

use super::member::locality;
use super::{Context, waypoint};
use crate::index::{Changes, Objects};

/// Objects to translate again.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) pods: BTreeSet<ResourceName>,
    pub(super) entries: BTreeSet<ResourceName>,
    pub(super) services: BTreeSet<ResourceName>,
    pub(super) slices: BTreeSet<ResourceName>,
    pub(super) authorizations: BTreeSet<ResourceName>,
    pub(super) peers: BTreeSet<ResourceName>,
}

/// What others depend on, as it was.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    localities: HashMap<String, Locality>,
    waypoints: BTreeSet<ResourceName>,
}

impl Surroundings {
    /// Takes in changes, and says what they are about.
    pub(super) fn touched(&mut self, context: &Context<'_>, changes: &Changes) -> Touched {
        let mut touched = Touched::default();
        for key in changes.keys() {
            let name = ResourceName::new(key.namespace.as_str(), key.name.as_str());
            match key.kind {
                Kind::Pod => drop(touched.pods.insert(name)),
                Kind::WorkloadEntry => drop(touched.entries.insert(name)),
                Kind::Service => {
                    self.service(context, &name, &mut touched);
                    touched.services.insert(name);
                }
                Kind::EndpointSlice => drop(touched.slices.insert(name)),
                Kind::AuthorizationPolicy => drop(touched.authorizations.insert(name)),
                Kind::PeerAuthentication => drop(touched.peers.insert(name)),
                Kind::Namespace => touched.namespace(context, key),
                Kind::Node => self.node(context, &key.name, &mut touched),
                // Accounts are checked nowhere; settings have been read before.
                Kind::ServiceAccount | Kind::ConfigMap | Kind::Gateway | Kind::Other => {}
            }
        }
        touched
    }

    fn node(&mut self, context: &Context<'_>, name: &str, touched: &mut Touched) {
        let now = context.index.nodes.get(name).map(|node| locality(node));
        let now = now.unwrap_or_default();
        let before = self.localities.remove(name).unwrap_or_default();
        if before != now {
            let on_node = context.index.pods.iter().filter(|(_, pod)| {
                let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                node == Some(name)
            });
            touched.pods.extend(on_node.map(|(name, _)| name.clone()));
        }
        if now != Locality::default() {
            self.localities.insert(name.to_owned(), now);
        }
    }

    fn service(&mut self, context: &Context<'_>, name: &ResourceName, touched: &mut Touched) {
        let service = context.index.services.get(name);
        let is_waypoint = service.is_some_and(|service| waypoint::takes_hbone(service));
        if is_waypoint == self.waypoints.contains(name) {
            return;
        }
        if is_waypoint {
            self.waypoints.insert(name.clone());
        } else {
            self.waypoints.remove(name);
        }
        let uses = |own: &ResourceName, metadata: &ObjectMeta| {
            waypoint::wanted(context, &own.namespace, metadata).as_ref() == Some(name)
        };
        let pods = context.index.pods.iter();
        let pods = pods.filter(|(own, pod)| uses(own, &pod.metadata));
        touched.pods.extend(pods.map(|(name, _)| name.clone()));
        let of_namespace = |own: &ResourceName| {
            let namespace = context.index.namespaces.get(own.namespace.as_ref());
            namespace.is_some_and(|namespace| uses(own, &namespace.metadata))
        };
        let services = context.index.services.iter().filter(|(own, service)| {
            let service: &Service = service;
            uses(own, &service.metadata) || of_namespace(own)
        });
        touched
            .services
            .extend(services.map(|(name, _)| name.clone()));
    }
}

impl Touched {
    /// Labels of a namespace, and whether it exists, are about everything in it.
    fn namespace(&mut self, context: &Context<'_>, key: &ObjectKey) {
        let index = context.index;
        let namespace = key.name.as_str();
        self.pods.extend(within(&index.pods, namespace));
        self.entries.extend(within(&index.entries, namespace));
        self.services.extend(within(&index.services, namespace));
        self.authorizations
            .extend(within(&index.authorizations, namespace));
        self.peers.extend(within(&index.peers, namespace));
    }
}

/// Names of one namespace.
fn within<T>(objects: &Objects<T>, namespace: &str) -> impl Iterator<Item = ResourceName> {
    let first = ResourceName::new(namespace, "");
    objects
        .range(first..)
        .map(|(name, _)| name)
        .take_while(move |name| *name.namespace == *namespace)
        .cloned()
}
