//! From the plan that runs to the one that the file wants now.
//!
//! In: the lab, the file. Out: pods and nodes gone and come, the source folder rewritten, programs
//! of pods started; everything recorded step by step. Not here: waiting for the mesh.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use crate::lab::adopt::{self, Adopted};
use crate::lab::file::LabFile;
use crate::lab::instance::Lab;
use crate::lab::place::make_folder;
use crate::lab::plan::{Plan, PlannedPod, Surroundings, plan};
use crate::lab::program::{end_all, kill_all, of_lab};
use crate::lab::source::Resources;
use crate::lab::{ready, settings, source, start};
use crate::netns::{Netns, has_ipv6};

/// How often programs of a node are looked for again while it is being removed.
const KILL_ROUNDS: usize = 10;

/// A file whose every part fits.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) file: LabFile,
    pub(crate) plan: Plan,
    /// The network namespaces that its pods adopt.
    pub(crate) adopted: Adopted,
    resources: Resources,
}

// === impl Wanted ===

impl Wanted {
    /// Checks a file and settles its plan.
    pub(crate) fn new(
        lab: &str,
        base: &Path,
        file: LabFile,
        before: Option<&Plan>,
    ) -> Result<Self> {
        let names = || file.pods.iter().filter_map(|pod| pod.netns.as_deref());
        let adopted = adopt::look(lab, names())?;
        let mut addresses = BTreeMap::new();
        for name in names() {
            let netns = Netns::named(name);
            let found = if adopted.contains_key(name) {
                Some(netns.global_addresses()?)
            } else {
                None
            };
            addresses.insert(name.to_owned(), found);
        }
        let around = Surroundings {
            lab,
            adopted: &addresses,
            ipv6: has_ipv6(),
            before,
        };
        let plan = plan(&file, &around)?;
        let resources = Resources::read(base, &file.resources)?;
        Ok(Self {
            file,
            plan,
            adopted,
            resources,
        })
    }

    /// The same without pods.
    pub(crate) fn without_pods(&self) -> Self {
        let mut this = self.clone();
        this.plan.pods.clear();
        this
    }
}

// === impl Lab ===

impl Lab {
    /// From the plan that runs to the one wanted: what goes first, then what comes.
    pub(crate) fn change(&mut self, wanted: Wanted) -> Result<()> {
        let before = self.record.plan.clone();
        let gone: Vec<PlannedPod> = before
            .pods
            .iter()
            .filter(|pod| !wanted.plan.pods.iter().any(|other| same_pod(pod, other)))
            .cloned()
            .collect();
        self.remove_pods(&gone, &before, &wanted.plan)?;
        self.remove_nodes(&before, &wanted.plan)?;
        self.write_tokens(&wanted.plan)?;
        self.make_nodes(&before, &wanted.plan)?;
        let come: Vec<PlannedPod> = wanted
            .plan
            .pods
            .iter()
            .filter(|pod| !before.pods.iter().any(|other| same_pod(pod, other)))
            .cloned()
            .collect();
        self.make_pods(&come)?;
        self.change_source(&wanted)?;
        self.record.plan = wanted.plan;
        self.record.file = wanted.file;
        self.record.adopted = wanted.adopted;
        self.record.edit_error = None;
        self.remember()?;
        self.run_programs()
    }

    fn remove_pods(&mut self, gone: &[PlannedPod], before: &Plan, wanted: &Plan) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        // First the mesh lets go of them, then their namespaces go.
        let mut rest = before.clone();
        rest.pods.retain(|pod| !gone.contains(pod));
        let resources = Resources::read(&self.record.base, &self.record.file.resources)?;
        source::write(
            &self.place.source(),
            &rest,
            &self.record.uids,
            &self.record.file.settings,
            &resources,
        )?;
        for pod in gone {
            let key = pod.entry.key();
            self.say(&format!("removing pod {key}"));
            if let Some(uid) = self.record.uids.remove(&key) {
                ready::wait_until_left(self, pod, &uid)?;
                let stays = |other: &PlannedPod| {
                    other.netns == pod.netns && other.entry.node == pod.entry.node
                };
                // To a later pod of its own a node hands it over by itself.
                if pod.adopted && !wanted.pods.iter().any(stays) {
                    self.hand_back(pod, &uid)?;
                }
            }
            if let Some(program) = self.record.pods.remove(&key) {
                end_all(&[program])?;
            }
            self.topology().remove_pod(pod)?;
        }
        self.record.plan = rest;
        self.remember()
    }

    /// Puts the settings of an adopted namespace back. Whoever has it next, another lab or another node, would otherwise take
    /// ours for its own, and lose them when our node puts its own back.
    fn hand_back(&mut self, pod: &PlannedPod, uid: &str) -> Result<()> {
        // The node says so a moment before it has written its value, on a thread of its own. So ours, which is the same, is
        // written here whatever the node does, and the next one notes it. Only a node that is later than all of what the next
        // lab does until its node changes the setting could still write over that.
        ready::wait_until_released(self, pod, uid)?;
        if let Some(noted) = self.record.adopted_settings.remove(&pod.netns) {
            settings::restore(&Netns::named(pod.netns.clone()), &noted)?;
        }
        Ok(())
    }

    fn remove_nodes(&mut self, before: &Plan, wanted: &Plan) -> Result<()> {
        for node in &before.nodes {
            let stays = wanted
                .nodes
                .iter()
                .any(|other| other.name == node.name && other.external == node.external);
            if stays {
                continue;
            }
            self.say(&format!("removing node {}", node.name));
            let netns = self.topology().node(&node.name);
            let inode = netns.inode()?;
            for _ in 0..KILL_ROUNDS {
                let programs: Vec<_> = of_lab(self.place.name(), &[inode])
                    .into_iter()
                    .filter(|program| program.is_inside(inode))
                    .collect();
                if programs.is_empty() {
                    break;
                }
                kill_all(&programs)?;
            }
            self.record.nodes.remove(&node.name);
            self.topology().remove_node(&node.name)?;
            let _ = std::fs::remove_dir_all(self.place.node(&node.name));
            self.record
                .plan
                .nodes
                .retain(|other| other.name != node.name);
            self.remember()?;
        }
        Ok(())
    }

    fn make_nodes(&mut self, before: &Plan, wanted: &Plan) -> Result<()> {
        for node in &wanted.nodes {
            if before
                .nodes
                .iter()
                .any(|other| other.name == node.name && other.external == node.external)
            {
                continue;
            }
            self.say(&format!("starting node {}", node.name));
            self.topology().make_node(node)?;
            for folder in [
                self.place.run(&node.name),
                self.place.state(&node.name),
                self.place.node_logs(&node.name),
            ] {
                make_folder(&folder, 0o755)?;
            }
            if !node.external {
                let running = start::node(self, &node.name)?;
                self.record.nodes.insert(node.name.clone(), running);
            }
            self.record.plan.nodes.push(node.clone());
            self.remember()?;
        }
        Ok(())
    }

    fn make_pods(&mut self, come: &[PlannedPod]) -> Result<()> {
        for pod in come {
            if pod.adopted {
                let noted = settings::note(&Netns::named(pod.netns.clone()))?;
                self.record
                    .adopted_settings
                    .entry(pod.netns.clone())
                    .or_insert(noted);
            }
            self.topology().make_pod(pod)?;
            self.record.uids.insert(pod.entry.key(), new_uid());
            self.record.plan.pods.push(pod.clone());
            self.remember()?;
        }
        Ok(())
    }

    /// Starts what `run` names, and again what has another command line now.
    fn run_programs(&mut self) -> Result<()> {
        for pod in self.record.plan.pods.clone() {
            let key = pod.entry.key();
            let wanted = start::command_line(self, &pod);
            if let Some(running) = self.record.pods.get(&key).copied() {
                if running.alive() && self.record.commands.get(&key) == Some(&wanted) {
                    continue;
                }
                end_all(&[running])?;
                self.record.pods.remove(&key);
            }
            if !wanted.is_empty() {
                let running = start::pod(self, &pod)?;
                self.record.commands.insert(key.clone(), wanted);
                self.record.pods.insert(key, running);
            }
        }
        self.remember()
    }

    pub(crate) fn change_source(&mut self, wanted: &Wanted) -> Result<()> {
        self.record.originals = wanted.resources.originals();
        source::write(
            &self.place.source(),
            &wanted.plan,
            &self.record.uids,
            &wanted.file.settings,
            &wanted.resources,
        )
    }

    pub(crate) fn write_tokens(&self, plan: &Plan) -> Result<()> {
        for node in &plan.nodes {
            start::token(&self.place, &node.name)?;
        }
        Ok(())
    }
}

/// Whether a pod may live on as it is; labels, mesh and program may change under it.
fn same_pod(one: &PlannedPod, other: &PlannedPod) -> bool {
    one.entry.key() == other.entry.key()
        && one.entry.node == other.entry.node
        && one.entry.service_account == other.entry.service_account
        && one.netns == other.netns
        && one.adopted == other.adopted
        && one.addresses == other.addresses
}

/// A uid in the form of Kubernetes (RFC 9562, version 4).
fn new_uid() -> String {
    let bits: u128 = rand::random();
    let bits = (bits & !(0xf << 76) & !(0b11 << 62)) | (0x4 << 76) | (0b10 << 62);
    let text = format!("{bits:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_have_the_form_of_kubernetes() {
        let uid = new_uid();
        assert_eq!(uid.len(), 36);
        assert_eq!(uid.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&uid.as_bytes()[19]));
    }
}
