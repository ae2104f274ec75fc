//! Which pods belong to the mesh, for the agents, and which pods have an identity, for the certificate authority.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use weft_k8s_api::labels;
use weft_types::{Enrollment, NodeName, ResourceName};

use super::member::{addresses, has_ended, mode, service_account, uid};
use super::{Context, IdentityHolder};

type Enrollments = Vec<(NodeName, Enrollment)>;
type Identities = BTreeMap<ResourceName, Vec<IdentityHolder>>;

/// Every pod that is on a node and has not ended, enrolled or not; and the holders of every identity, ended ones marked.
pub(super) fn enroll(context: &Context<'_>) -> (Enrollments, Identities) {
    let mut enrollments = Enrollments::new();
    let mut identities = Identities::new();
    for (name, pod) in &context.index.pods {
        let Some(spec) = &pod.spec else { continue };
        let node = spec.node_name.as_deref().map(NodeName::from);
        let ended = has_ended(pod);
        let identity = ResourceName::new(name.namespace.as_ref(), service_account(spec));
        identities
            .entry(identity)
            .or_default()
            .push(IdentityHolder {
                pod: name.to_string(),
                node: node.clone(),
                ended,
            });
        if let (Some(node), false) = (node, ended) {
            enrollments.push((node, enrollment(context, name, pod, spec)));
        }
    }
    (enrollments, identities)
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
        addresses: addresses(pod),
        netns: netns.map(PathBuf::from),
    }
}
