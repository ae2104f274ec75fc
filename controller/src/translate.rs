//! From objects to the words of the mesh. In: the [`Index`], and which of its objects changed. Out: a [`Translation`]: what to publish, and what was refused and why.
//!
//! Pure: no I/O, no clock. A [`Translator`] keeps what each step found out, and translates again only what a change is about:
//!
//! ```text
//! change -> touch: pods of a namespace, services of a waypoint, ...
//!        -> member, address, claims: who has which address
//!        -> service, vip: names and virtual addresses
//!        -> endpoints: who backs what           (a pod: the services that select it; a service: the pods that it selects)
//!        -> authorization, peer: who is policed (the same by their selectors)
//!        -> publish: members that any step has marked, enrolments, findings
//! ```
//!
//! Whatever the order of changes, the outcome is that of translating everything anew; a test compares the two over thousands of edits.
//! Only one thing depends on what was before, on purpose: who has an address keeps it, be it service or workload.
//! Not here: wire formats, versions, subscribers (`publish`).

mod address;
mod authorization;
mod claims;
mod endpoints;
mod enroll;
mod finding;
mod member;
mod members;
mod peer;
mod selectors;
mod service;
mod settings;
mod steps;
mod touch;
mod vip;
mod waypoint;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use weft_k8s_api::{Kind, MeshConfig, ObjectKey};
use weft_types::{
    AuthorizationPolicy, MeshSettings, NodeName, PolicyName, Service, ServiceName, TrustDomain,
    Workload, WorkloadUid,
};

use crate::index::{Changes, Index};

pub(crate) use address::Holders;
pub(crate) use enroll::{Enrollments, Identities};
use finding::Findings;
pub(crate) use finding::{Finding, PolicyStatus, Reason};
pub(crate) use members::MemberKey;
use steps::Steps;
pub(crate) use vip::VirtualAddresses;

/// The mesh as the objects describe it. Clones share everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Translation {
    pub(crate) settings: MeshSettings,
    pub(crate) workloads: OrdMap<WorkloadUid, Arc<Workload>>,
    pub(crate) services: OrdMap<ServiceName, Arc<Service>>,
    pub(crate) policies: OrdMap<PolicyName, Arc<AuthorizationPolicy>>,
    pub(crate) enrollments: Enrollments,
    /// For the certificate authority.
    pub(crate) identities: Identities,
    pub(crate) statuses: OrdMap<ObjectKey, Arc<PolicyStatus>>,
    /// About everything but policies, whose findings are in their statuses.
    pub(crate) findings: OrdMap<ObjectKey, Arc<Vec<Finding>>>,
}

/// A pod that has an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdentityHolder {
    pub(crate) node: Option<NodeName>,
    /// Succeeded or Failed: it will never run again.
    pub(crate) ended: bool,
}

/// Translates change by change.
#[derive(Debug, Default)]
pub(crate) struct Translator {
    /// Cluster IPs that services have.
    virtual_addresses: VirtualAddresses,
    /// Addresses under which the controller is reached: no service may have them.
    own: BTreeSet<IpAddr>,
    /// That of the first translation: the authority signs for no other until it is started anew.
    trust_domain: Option<TrustDomain>,
    mesh: MeshConfig,
    steps: Steps,
    translation: Translation,
}

/// What every step reads.
struct Context<'a> {
    index: &'a Index,
    mesh: &'a MeshConfig,
    own: &'a BTreeSet<IpAddr>,
}

impl Translator {
    /// A translator under which services and workloads have the addresses that they had, and nobody those of the controller.
    pub(crate) fn new(
        virtual_addresses: VirtualAddresses,
        holders: Holders,
        own: BTreeSet<IpAddr>,
    ) -> Self {
        Self {
            virtual_addresses,
            own,
            steps: Steps::after(holders),
            ..Self::default()
        }
    }

    /// Cluster IPs that services have.
    pub(crate) fn virtual_addresses(&self) -> &VirtualAddresses {
        &self.virtual_addresses
    }

    /// Which workload has which of the addresses that several name.
    pub(crate) fn contested(&self) -> &Holders {
        self.steps.contested()
    }

    /// Translates what the changes are about; the index has them already.
    pub(crate) fn translate(&mut self, index: &Index, changes: &Changes) -> &Translation {
        let first = self.trust_domain.is_none();
        if first || changes.keys().any(|key| key.kind == Kind::ConfigMap) {
            let mut findings = Findings::default();
            let mesh = settings::mesh(index, &mut self.trust_domain, &mut findings);
            let is_about_all = first || is_about_all(&self.mesh, &mesh);
            self.translation.settings = mesh.node.clone();
            self.mesh = mesh;
            if is_about_all {
                let anew = index.all();
                self.begin_anew(index);
                self.steps.settings(findings);
                self.run(index, &anew);
                return &self.translation;
            }
            self.steps.settings(findings);
        }
        self.run(index, changes);
        &self.translation
    }

    fn begin_anew(&mut self, index: &Index) {
        self.steps = Steps::after(self.steps.holders());
        self.translation = Translation {
            settings: self.mesh.node.clone(),
            ..Translation::default()
        };
        let context = Context {
            index,
            mesh: &self.mesh,
            own: &self.own,
        };
        claims::forget_gone(&context, &mut self.virtual_addresses);
    }

    fn run(&mut self, index: &Index, changes: &Changes) {
        let context = Context {
            index,
            mesh: &self.mesh,
            own: &self.own,
        };
        let given = &mut self.virtual_addresses;
        self.steps
            .run(&context, changes, given, &mut self.translation);
    }
}

/// Whether the difference shows in anything but the settings themselves.
fn is_about_all(before: &MeshConfig, now: &MeshConfig) -> bool {
    let MeshConfig {
        node,
        service_cidrs,
        istio_labels,
        root_namespace,
    } = now;
    before.service_cidrs != *service_cidrs
        || before.istio_labels != *istio_labels
        || before.root_namespace != *root_namespace
        || before.node.cluster != node.cluster
        || before.node.trust_domain != node.trust_domain
        || before.node.pod_cidrs != node.pod_cidrs
}

#[cfg(test)]
mod tests;
