//! Two nodes with a pod each and no mesh at all, for what a mesh must never do.

use weft_testkit::lab::file::{LabFile, PodEntry};
use weft_testkit::lab::plan::{Plan, Surroundings, controller_address, plan};
use weft_testkit::lab::topology::Topology;
use weft_testkit::leak::Recorder;
use weft_testkit::netns::{Netns, has_ipv6};

pub(crate) struct Bare {
    pub(crate) plan: Plan,
    pub(crate) topology: Topology,
}

impl Bare {
    pub(crate) fn new(name: &str) -> Self {
        let mut file = LabFile::parse("nodes: [{name: n1}, {name: n2}]").unwrap();
        file.pods = vec![PodEntry::new("a", "n1"), PodEntry::new("b", "n2")];
        let lab = format!("{name}-{}", std::process::id());
        let around = Surroundings {
            lab: &lab,
            adopted: &std::collections::BTreeMap::new(),
            ipv6: has_ipv6(),
            before: None,
        };
        let this = Self {
            plan: plan(&file, &around).unwrap(),
            topology: Topology::of(&lab),
        };
        this.topology.make_fabric().unwrap();
        for node in &this.plan.nodes {
            this.topology.make_node(node).unwrap();
        }
        for pod in &this.plan.pods {
            this.topology.make_pod(pod).unwrap();
        }
        this
    }

    /// A pod's namespace.
    pub(crate) fn netns(&self, index: usize) -> Netns {
        Netns::named(self.plan.pods[index].netns.clone())
    }

    /// Records with both pods held to be enrolled.
    pub(crate) fn record(&self) -> Recorder {
        let places = [self.topology.fabric(), self.topology.node("n1")];
        let enrolled = self.plan.pods.iter().flat_map(|pod| pod.addresses.clone());
        let mut mesh = vec![controller_address().into()];
        mesh.extend(self.plan.nodes.iter().flat_map(|node| &node.addresses));
        Recorder::start_with(&places, enrolled, mesh).unwrap()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.topology.remove_all().unwrap();
    }
}
