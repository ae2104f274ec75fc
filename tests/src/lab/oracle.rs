//! The oracles that watch every lab of a test: no plaintext between enrolled pods, no identity but the right one.
//!
//! In: a lab whose nodes are wired and that has no pod yet, its changes, its end. Out: a verdict, and a line with what was
//! judged in the file that `cargo xtask test` sums up. Not here: what a leak is (`weft_testkit::leak`).

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use weft_testkit::lab::Lab;
use weft_testkit::lab::file::LabFile;
use weft_testkit::lab::plan::controller_address;
use weft_testkit::leak::{Recorder, Report, Truth};

/// File to which labs write what was judged; set by `cargo xtask test`.
const JUDGED_VARIABLE: &str = "WEFT_TEST_JUDGED";
/// Trust domain of a lab whose settings name none.
const TRUST_DOMAIN: &str = "cluster.local";

/// Number of the fabric among the places of a recording.
const FABRIC: usize = 0;

/// Where a lab is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Places {
    /// Between the nodes and inside them.
    #[default]
    Everywhere,
    /// Between the nodes.
    Fabric,
}

/// The oracles of a running lab.
pub(super) struct Oracle {
    recorder: Recorder,
    truth: Truth,
    /// Names and addresses of the pods that are held to be enrolled.
    enrolled: HashSet<(String, IpAddr)>,
    judging: bool,
}

/// The oracles of a lab that is being taken down.
pub(super) struct Closed {
    recorder: Recorder,
    identities: Result<u64>,
    judging: bool,
}

// === impl Oracle ===

impl Oracle {
    /// Begins to record.
    pub(super) fn start(lab: &Lab, places: Places) -> Result<Self> {
        let topology = lab.topology();
        let mut netns = vec![topology.fabric()];
        let nodes = &lab.record().plan.nodes;
        if places == Places::Everywhere {
            netns.extend(nodes.iter().map(|node| topology.node(&node.name)));
        }
        // Where its own programs talk to each other, loopback included.
        let mut mesh: Vec<IpAddr> = vec![
            controller_address().into(),
            Ipv4Addr::LOCALHOST.into(),
            Ipv6Addr::LOCALHOST.into(),
        ];
        mesh.extend(nodes.iter().flat_map(|node| &node.addresses));
        Ok(Self {
            recorder: Recorder::start_with(&netns, [], mesh)?,
            truth: Truth::default(),
            enrolled: HashSet::new(),
            judging: true,
        })
    }

    /// No verdict from here on.
    pub(super) fn only_count(&mut self) {
        self.judging = false;
        self.recorder.set_enrolled([]);
    }

    /// Before a change: what is about to leave the mesh may speak plainly from now on.
    pub(super) fn expect(&self, file: &LabFile) {
        let stays = |key: &str| file.pods.iter().any(|pod| pod.mesh && pod.key() == key);
        let staying = self.enrolled.iter().filter(|(key, _)| stays(key));
        self.tell(staying.map(|(_, address)| *address));
    }

    /// After a change, when every pod of the mesh is enrolled.
    pub(super) fn follow(&mut self, lab: &Lab) {
        let plan = &lab.record().plan;
        let domain = lab.record().file.settings.get("trustDomain");
        let domain = domain.and_then(|value| value.as_str());
        let domain = domain.unwrap_or(TRUST_DOMAIN).to_owned();
        let ours = |node: &str| plan.nodes.iter().any(|n| n.name == node && !n.external);
        let pods = plan.pods.iter().filter(|pod| pod.entry.mesh);
        self.enrolled.clear();
        for pod in pods.filter(|pod| ours(&pod.entry.node)) {
            let (namespace, account) = (&pod.entry.namespace, &pod.entry.service_account);
            for address in &pod.addresses {
                self.enrolled.insert((pod.entry.key(), *address));
                let identity = format!("spiffe://{domain}/ns/{namespace}/sa/{account}");
                self.truth.learn(*address, identity);
            }
        }
        self.tell(self.enrolled.iter().map(|(_, address)| *address));
    }

    /// Looks at the logs before they go. What is judged is what happens up to here; what is recorded goes on.
    pub(super) fn close(self, lab: &Lab) -> Closed {
        let identities = self.check_identities(lab);
        self.recorder.set_enrolled([]);
        Closed {
            recorder: self.recorder,
            identities,
            judging: self.judging,
        }
    }

    /// Packets between enrolled pods of different nodes that have been judged so far.
    pub(super) fn judged_on_fabric(&self) -> u64 {
        self.recorder.judged(FABRIC)
    }

    fn tell(&self, enrolled: impl Iterator<Item = IpAddr>) {
        if self.judging {
            self.recorder.set_enrolled(enrolled);
        }
    }

    fn check_identities(&self, lab: &Lab) -> Result<u64> {
        let mut named = 0;
        for node in &lab.record().plan.nodes {
            let log = lab.place().node_logs(&node.name).join("proxy.log");
            // A node on which none of our programs runs has none.
            let log = std::fs::read_to_string(log).unwrap_or_default();
            let (records, wrong) = self.truth.check(&log);
            named += records;
            ensure!(
                wrong.is_empty(),
                "{} records name wrong identities, the first: {}",
                wrong.len(),
                wrong[0]
            );
        }
        Ok(named)
    }
}

// === impl Closed ===

impl Closed {
    /// Ends the recording; an error is what an oracle objects to.
    pub(super) fn verdict(self) -> Result<Report> {
        let report = self.recorder.stop()?;
        let named = self.identities.as_ref().copied().unwrap_or_default();
        let (packets, judged) = (report.packets, report.judged);
        let fabric = report.places[FABRIC].judged;
        println!(
            "oracles: {packets} packets, {judged} of them between enrolled pods, {fabric} on the fabric, {named} identities"
        );
        crate::note(
            JUDGED_VARIABLE,
            &format!("{packets}\t{judged}\t{fabric}\t{named}"),
        );
        if self.judging {
            self.identities?;
            report.verdict()?;
        }
        Ok(report)
    }
}
