//! All objects, as they are now. In: [`Change`]s. Out: typed maps for `translate`.
//!
//! Pure: no I/O, no clock. Not here: any meaning; a pod of a namespace that does not exist is a pod like any other.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use weft_k8s_api::mesh::SETTINGS_CONFIG_MAP;
use weft_k8s_api::networking::WorkloadEntry;
use weft_k8s_api::security::{AuthorizationPolicy, PeerAuthentication};
use weft_k8s_api::{Kind, Object, ObjectKey};
use weft_types::ResourceName;

use crate::source::Change;

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
    /// Applies one change.
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::Put(object) => self.put(object),
            Change::Delete(key) => self.delete(&key),
        }
    }

    fn put(&mut self, object: Object) {
        let ObjectKey {
            namespace, name, ..
        } = object.key();
        let key = ResourceName::new(namespace, name.as_str());
        match object {
            Object::Namespace(object) => drop(self.namespaces.insert(name, object)),
            Object::Node(object) => drop(self.nodes.insert(name, object)),
            Object::ServiceAccount(object) => drop(self.service_accounts.insert(key, object)),
            Object::Pod(object) => drop(self.pods.insert(key, object)),
            Object::Service(object) => drop(self.services.insert(key, object)),
            Object::EndpointSlice(object) => drop(self.slices.insert(key, object)),
            Object::WorkloadEntry(object) => drop(self.entries.insert(key, object)),
            Object::AuthorizationPolicy(object) => drop(self.authorizations.insert(key, object)),
            Object::PeerAuthentication(object) => drop(self.peers.insert(key, object)),
            Object::ConfigMap(object) => {
                debug_assert_eq!(name, SETTINGS_CONFIG_MAP, "parsing lets no other pass");
                drop(self.settings.insert(key, object));
            }
        }
    }

    fn delete(&mut self, deleted: &ObjectKey) {
        let key = ResourceName::new(deleted.namespace.as_str(), deleted.name.as_str());
        match deleted.kind {
            Kind::Namespace => drop(self.namespaces.remove(&deleted.name)),
            Kind::Node => drop(self.nodes.remove(&deleted.name)),
            Kind::ServiceAccount => drop(self.service_accounts.remove(&key)),
            Kind::Pod => drop(self.pods.remove(&key)),
            Kind::Service => drop(self.services.remove(&key)),
            Kind::EndpointSlice => drop(self.slices.remove(&key)),
            Kind::WorkloadEntry => drop(self.entries.remove(&key)),
            Kind::AuthorizationPolicy => drop(self.authorizations.remove(&key)),
            Kind::PeerAuthentication => drop(self.peers.remove(&key)),
            Kind::ConfigMap => drop(self.settings.remove(&key)),
            // No object of these kinds exists: parsing refuses them.
            Kind::Gateway | Kind::Other => {}
        }
    }
}
