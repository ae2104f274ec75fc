//! Which pods belong to the mesh, for the agents, and which pods have an identity, for the certificate authority.

use std::path::PathBuf;
use std::sync::Arc;

use imbl::OrdMap;
use weft_k8s_api::labels;
use weft_k8s_api::pod::{Pod, PodSpec};
use weft_types::{Enrollment, NodeName, PodUid, ResourceName};

use super::member::{has_ended, mode, service_account, uid};
use super::{Context, IdentityHolder};

/// Pods by node. Pods of one uid, which an author can write by mistake, are told apart by name.
pub(crate) type Enrollments = OrdMap<NodeName, OrdMap<(PodUid, ResourceName), Arc<Enrollment>>>;
/// Pods by identity, that is by namespace and service account.
pub(crate) type Identities = OrdMap<ResourceName, OrdMap<ResourceName, IdentityHolder>>;

/// Takes out what came of a pod as it was, and puts in what comes of it as it is:
/// an enrolment if it is on a node and has not ended, in the mesh or not; and an identity, even if it has ended.
pub(super) fn enroll(
    context: &Context<'_>,
    name: &ResourceName,
    before: Option<&Pod>,
    enrollments: &mut Enrollments,
    identities: &mut Identities,
) {
    let now = context.index.pods.get(name).map(AsRef::as_ref);
    let place = |pod: &Pod| {
        let node = pod.spec.as_ref()?.node_name.as_deref()?;
        (!has_ended(pod)).then(|| (NodeName::from(node), (uid(name, pod), name.clone())))
    };
    let (was, is) = (before.and_then(place), now.and_then(place));
    if let Some((node, key)) = was.filter(|was| Some(was) != is.as_ref()) {
        remove(enrollments, &node, &key);
    }
    let enrolled = now.and_then(|pod| Some(enrollment(context, name, pod, pod.spec.as_ref()?)));
    if let (Some((node, key)), Some(enrolled)) = (is, enrolled) {
        let on_node = enrollments.entry(node).or_default();
        if on_node.get(&key).is_none_or(|before| **before != enrolled) {
            on_node.insert(key, Arc::new(enrolled));
        }
    }
    let identity = |pod: &Pod| {
        let account = service_account(pod.spec.as_ref()?);
        Some(ResourceName::new(Arc::clone(&name.namespace), account))
    };
    let (had, has) = (before.and_then(identity), now.and_then(identity));
    if let Some(identity) = had.filter(|had| Some(had) != has.as_ref()) {
        remove(identities, &identity, name);
    }
    if let (Some(identity), Some(pod)) = (has, now) {
        let holder = holder(pod);
        let holders = identities.entry(identity).or_default();
        if holders.get(name) != Some(&holder) {
            holders.insert(name.clone(), holder);
        }
    }
}

fn holder(pod: &Pod) -> IdentityHolder {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    IdentityHolder {
        node: node.map(NodeName::from),
        ended: has_ended(pod),
    }
}

fn remove<K, L, V>(maps: &mut OrdMap<K, OrdMap<L, V>>, key: &K, inner: &L)
where
    K: Ord + Clone,
    L: Ord + Clone,
    V: Clone,
{
    if let Some(map) = maps.get_mut(key) {
        map.remove(inner);
        if map.is_empty() {
            maps.remove(key);
        }
    }
}

fn enrollment(context: &Context<'_>, name: &ResourceName, pod: &Pod, spec: &PodSpec) -> Enrollment {
    let annotations = pod.metadata.annotations.as_ref();
    let netns = annotations.and_then(|annotations| annotations.get(labels::NETNS));
    Enrollment {
        uid: uid(name, pod),
        name: name.name.clone(),
        namespace: name.namespace.clone(),
        service_account: service_account(spec).into(),
        mode: mode(context, &pod.metadata, spec),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        addresses: pod.status.addresses.clone(),
        netns: netns.map(PathBuf::from),
    }
}
