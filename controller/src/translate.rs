//! From objects to the words of the mesh. In: the [`Index`]. Out: a [`Translation`]: what to publish, and what was refused and why.
//!
//! Pure but for [`Memory`], which is passed in: cluster IPs and the holders of addresses must not move because something else did.
//! Order: settings, workloads, their addresses, services, endpoints, policies; each step reads what the ones before it made.
//! Not here: wire formats, versions, subscribers (`publish`).

mod address;
mod authorization;
mod by_label;
mod endpoints;
mod enroll;
mod finding;
mod member;
mod peer;
mod service;
mod settings;
mod vip;
mod waypoint;

use std::collections::BTreeMap;

use weft_k8s_api::MeshConfig;
use weft_types::{
    AuthorizationPolicy, Enrollment, MeshSettings, NodeName, ResourceName, Service, TrustDomain,
    Workload,
};

use crate::index::Index;

pub(crate) use address::Holders;
use by_label::ByLabel;
use finding::Findings;
pub(crate) use finding::{Finding, PolicyStatus};
pub(crate) use vip::VirtualAddresses;

/// What outlives one translation.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Cluster IPs that were given out.
    pub(crate) virtual_addresses: VirtualAddresses,
    /// Who held an address last.
    pub(crate) holders: Holders,
    /// That of the first translation: the authority signs for no other until it is started anew.
    pub(crate) trust_domain: Option<TrustDomain>,
}

/// The mesh as the objects describe it.
#[derive(Debug, Default)]
pub(crate) struct Translation {
    pub(crate) settings: MeshSettings,
    pub(crate) workloads: Vec<Workload>,
    pub(crate) services: Vec<Service>,
    pub(crate) policies: Vec<AuthorizationPolicy>,
    pub(crate) enrollments: Vec<(NodeName, Enrollment)>,
    /// Pods by namespace and service account, for the certificate authority.
    pub(crate) identities: BTreeMap<ResourceName, Vec<IdentityHolder>>,
    pub(crate) statuses: Vec<PolicyStatus>,
    pub(crate) findings: Vec<Finding>,
}

/// A pod that has an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdentityHolder {
    pub(crate) pod: String,
    pub(crate) node: Option<NodeName>,
    /// Succeeded or Failed: it will never run again.
    pub(crate) ended: bool,
}

/// What every step reads.
struct Context<'a> {
    index: &'a Index,
    mesh: MeshConfig,
}

/// Translates everything.
pub(crate) fn translate(index: &Index, memory: &mut Memory) -> Translation {
    let mut findings = Findings::default();
    let mesh = settings::mesh(index, &mut memory.trust_domain, &mut findings);
    let context = Context { index, mesh };
    let mut members = member::pods(&context, &mut findings);
    members.extend(member::entries(&context, &mut findings));
    address::settle(&mut members, &mut memory.holders, &mut findings);
    let mut services = service::services(&context, &members, memory, &mut findings);
    let by_label = ByLabel::new(&members);
    endpoints::attach(&context, &services, &by_label, &mut members, &mut findings);
    let mut policies = authorization::policies(
        &context,
        &by_label,
        &mut members,
        &mut services,
        &mut findings,
    );
    policies.extend(peer::policies(&context, &mut members, &mut findings));
    let (enrollments, identities) = enroll::enroll(&context);
    let (statuses, findings) = findings.finish(index);
    Translation {
        settings: context.mesh.node.clone(),
        workloads: members.into_iter().map(|member| member.workload).collect(),
        services,
        policies,
        enrollments,
        identities,
        statuses,
        findings,
    }
}

#[cfg(test)]
mod tests;
