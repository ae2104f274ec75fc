//! All objects, as they are now. In: [`Change`]s. Out: typed maps for `translate`.
//!
//! Pure: no I/O, no clock. Not here: any meaning; a pod of a namespace that does not exist is a pod like any other.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use weft_k8s_api::mesh::SETTINGS_CONFIG_MAP;
use weft_k8s_api::networking::WorkloadEntry;
use weft_k8s_api::pod::Pod;
use weft_k8s_api::security::{AuthorizationPolicy, PeerAuthentication};
use weft_k8s_api::{Kind, Object, ObjectKey};
use weft_types::ResourceName;

use crate::source::Change;

/// Objects that changed, each as it was before.
pub(crate) type Changes = BTreeMap<ObjectKey, Option<Object>>;

/// Objects of one kind by namespace and name.
pub(crate) type Objects<T> = BTreeMap<ResourceName, Arc<T>>;

/// All objects.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) namespaces: BTreeMap<String, Arc<Namespace>>,
    pub(crate) nodes: BTreeMap<String, Arc<Node>>,
    pub(crate) service_accounts: Objects<ServiceAccount>,
    pub(crate) pods: Objects<Pod>,
    pub(crate) services: Objects<Service>,
    pub(crate) slices: Objects<EndpointSlice>,
    pub(crate) entries: Objects<WorkloadEntry>,
    pub(crate) authorizations: Objects<AuthorizationPolicy>,
    pub(crate) peers: Objects<PeerAuthentication>,
    /// ConfigMaps named `weft`, of any namespace; only the root namespace's counts.
    pub(crate) settings: Objects<ConfigMap>,
}

impl Index {
    /// Applies one change; returns the object as it was.
    pub(crate) fn apply(&mut self, change: Change) -> (ObjectKey, Option<Object>) {
        match change {
            Change::Put(object) => {
                let key = object.key();
                let before = self.put(&key, object);
                (key, before)
            }
            Change::Delete(key) => {
                let before = self.delete(&key);
                (key, before)
            }
        }
    }

    /// Everything, as if it had just come.
    pub(crate) fn all(&self) -> Changes {
        let mut all = Changes::new();
        let mut add = |kind, namespace: &str, name: &str| {
            all.insert(ObjectKey::new(kind, namespace, name), None);
        };
        for name in self.namespaces.keys() {
            add(Kind::Namespace, "", name);
        }
        for name in self.nodes.keys() {
            add(Kind::Node, "", name);
        }
        let named: [(Kind, Box<dyn Iterator<Item = &ResourceName>>); 8] = [
            (Kind::ServiceAccount, Box::new(self.service_accounts.keys())),
            (Kind::Pod, Box::new(self.pods.keys())),
            (Kind::Service, Box::new(self.services.keys())),
            (Kind::EndpointSlice, Box::new(self.slices.keys())),
            (Kind::WorkloadEntry, Box::new(self.entries.keys())),
            (
                Kind::AuthorizationPolicy,
                Box::new(self.authorizations.keys()),
            ),
            (Kind::PeerAuthentication, Box::new(self.peers.keys())),
            (Kind::ConfigMap, Box::new(self.settings.keys())),
        ];
        for (kind, names) in named {
            for name in names {
                add(kind, &name.namespace, &name.name);
            }
        }
        all
    }

    fn put(&mut self, key: &ObjectKey, object: Object) -> Option<Object> {
        let text = key.name.clone();
        let name = ResourceName::new(key.namespace.as_str(), key.name.as_str());
        match object {
            Object::Namespace(new) => self.namespaces.insert(text, new).map(Object::Namespace),
            Object::Node(new) => self.nodes.insert(text, new).map(Object::Node),
            Object::ServiceAccount(new) => {
                let before = self.service_accounts.insert(name, new);
                before.map(Object::ServiceAccount)
            }
            Object::Pod(new) => self.pods.insert(name, new).map(Object::Pod),
            Object::Service(new) => self.services.insert(name, new).map(Object::Service),
            Object::EndpointSlice(new) => {
                let before = self.slices.insert(name, new);
                before.map(Object::EndpointSlice)
            }
            Object::WorkloadEntry(new) => {
                let before = self.entries.insert(name, new);
                before.map(Object::WorkloadEntry)
            }
            Object::AuthorizationPolicy(new) => {
                let before = self.authorizations.insert(name, new);
                before.map(Object::AuthorizationPolicy)
            }
            Object::PeerAuthentication(new) => {
                let before = self.peers.insert(name, new);
                before.map(Object::PeerAuthentication)
            }
            Object::ConfigMap(new) => {
                debug_assert_eq!(text, SETTINGS_CONFIG_MAP, "parsing lets no other pass");
                self.settings.insert(name, new).map(Object::ConfigMap)
            }
        }
    }

    fn delete(&mut self, key: &ObjectKey) -> Option<Object> {
        let name = ResourceName::new(key.namespace.as_str(), key.name.as_str());
        match key.kind {
            Kind::Namespace => self.namespaces.remove(&key.name).map(Object::Namespace),
            Kind::Node => self.nodes.remove(&key.name).map(Object::Node),
            Kind::ServiceAccount => {
                let before = self.service_accounts.remove(&name);
                before.map(Object::ServiceAccount)
            }
            Kind::Pod => self.pods.remove(&name).map(Object::Pod),
            Kind::Service => self.services.remove(&name).map(Object::Service),
            Kind::EndpointSlice => self.slices.remove(&name).map(Object::EndpointSlice),
            Kind::WorkloadEntry => self.entries.remove(&name).map(Object::WorkloadEntry),
            Kind::AuthorizationPolicy => {
                let before = self.authorizations.remove(&name);
                before.map(Object::AuthorizationPolicy)
            }
            Kind::PeerAuthentication => self.peers.remove(&name).map(Object::PeerAuthentication),
            Kind::ConfigMap => self.settings.remove(&name).map(Object::ConfigMap),
            // No object of these kinds exists: parsing refuses them.
            Kind::Gateway | Kind::Other => None,
        }
    }
}
