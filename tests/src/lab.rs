//! Labs for tests: built in a few lines, named so that several run at once, gone when dropped.
//!
//! In: pods and resources. Out: [`TestLab`]. Not here: what a lab is (`weft_testkit::lab`).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use weft_testkit::lab::file::{LabFile, NodeEntry, PodEntry};
use weft_testkit::lab::{Lab, Options, down};
use weft_testkit::leak::Recorder;
use weft_testkit::netns::Netns;
use weft_testkit::peer::{Behaviour, Server};

/// What an access record of a connection that ended well holds: too many to print.
const ACCESS: &str = "access connection complete";

/// A lab in the making.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    file: LabFile,
    resources: Vec<String>,
}

/// A running lab; dropping it takes it down.
pub struct TestLab {
    lab: Lab,
    file: LabFile,
    folder: TempDir,
    name: String,
}

// === impl Builder ===

impl Builder {
    /// A lab with two nodes, `n1` and `n2`.
    pub fn two_nodes() -> Self {
        Self::default().node("n1").node("n2")
    }

    /// Adds a node.
    #[must_use]
    pub fn node(mut self, name: &str) -> Self {
        self.file.nodes.push(NodeEntry {
            name: name.to_owned(),
            external: false,
        });
        self
    }

    /// Adds a node on which no program of ours runs; its pods are published all the same.
    #[must_use]
    pub fn external_node(mut self, name: &str) -> Self {
        self.file.nodes.push(NodeEntry {
            name: name.to_owned(),
            external: true,
        });
        self
    }

    /// Adds a pod of the mesh in the namespace `default`, with a service account and a label `app`
    /// of its name.
    #[must_use]
    pub fn pod(self, name: &str, node: &str) -> Self {
        self.pod_with(name, node, |_| ())
    }

    /// Adds a pod that is not in the mesh.
    #[must_use]
    pub fn plain_pod(self, name: &str, node: &str) -> Self {
        self.pod_with(name, node, |entry| entry.mesh = false)
    }

    /// Adds a pod as changed by a closure.
    #[must_use]
    pub fn pod_with(mut self, name: &str, node: &str, change: impl FnOnce(&mut PodEntry)) -> Self {
        let mut entry = PodEntry::new(name, node);
        name.clone_into(&mut entry.service_account);
        entry.labels.insert("app".to_owned(), name.to_owned());
        change(&mut entry);
        self.file.pods.push(entry);
        self
    }

    /// Adds resources as YAML.
    #[must_use]
    pub fn resource(mut self, yaml: &str) -> Self {
        self.resources.push(yaml.to_owned());
        self
    }

    /// Sets a mesh-wide setting.
    #[must_use]
    pub fn setting(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.file.settings.insert(name.to_owned(), value.into());
        self
    }

    /// Brings it up.
    pub fn up(self) -> Result<TestLab> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{}-{number}", std::process::id());
        let folder = TempDir::new().context("cannot make a folder")?;
        let mut file = self.file;
        for (index, yaml) in self.resources.iter().enumerate() {
            let path = format!("{index}.yaml");
            std::fs::write(folder.path().join(&path), yaml).context("cannot write a resource")?;
            file.resources.push(path);
        }
        let options = Options {
            name: name.clone(),
            build: build_folder(),
            file_path: None,
            base: folder.path().to_owned(),
            progress: |text| println!("lab: {text}"),
        };
        let lab = Lab::up(&options, file.clone())?;
        Ok(TestLab {
            lab,
            file,
            folder,
            name,
        })
    }
}

// === impl TestLab ===

impl TestLab {
    /// The lab itself.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The lab itself, to be changed.
    pub fn lab_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }

    /// A pod's namespace.
    pub fn netns(&self, pod: &str) -> Netns {
        let pod = self.lab.pod(pod).expect("a pod of this test");
        Netns::named(pod.netns.clone())
    }

    /// A pod's first IPv4 address.
    pub fn v4(&self, pod: &str) -> IpAddr {
        self.address(pod, IpAddr::is_ipv4)
    }

    /// A pod's first IPv6 address.
    pub fn v6(&self, pod: &str) -> IpAddr {
        self.address(pod, IpAddr::is_ipv6)
    }

    /// Starts a server on every address of a pod and returns it with its IPv4 address.
    pub fn serve(&self, pod: &str, behaviour: Behaviour) -> Result<(Server, SocketAddr)> {
        let server = Server::on_any(&self.netns(pod), behaviour)?;
        let address = server.at(self.v4(pod));
        Ok((server, address))
    }

    /// Records everything between pods, in every node and between them. The pods of the mesh are
    /// held to be enrolled.
    pub fn record(&self) -> Result<Recorder> {
        let topology = self.lab.topology();
        let plan = &self.lab.record().plan;
        let mut places = vec![topology.fabric()];
        places.extend(plan.nodes.iter().map(|node| topology.node(&node.name)));
        Recorder::start(&places, self.mesh_addresses())
    }

    /// Every address of every pod of the mesh.
    pub fn mesh_addresses(&self) -> Vec<IpAddr> {
        self.lab
            .record()
            .plan
            .pods
            .iter()
            .filter(|pod| pod.entry.mesh)
            .flat_map(|pod| pod.addresses.clone())
            .collect()
    }

    /// Changes the lab file and waits until the lab follows.
    pub fn change(&mut self, change: impl FnOnce(&mut LabFile)) -> Result<()> {
        change(&mut self.file);
        self.lab.apply(self.file.clone())
    }

    /// Puts a pod into the mesh or takes it out, and waits for that.
    pub fn set_mesh(&mut self, pod: &str, mesh: bool) -> Result<()> {
        self.change(|file| {
            for entry in file.pods.iter_mut().filter(|entry| entry.name == pod) {
                entry.mesh = mesh;
            }
        })
    }

    /// Replaces a resource, by its number, or adds the next one.
    pub fn set_resource(&mut self, number: usize, yaml: &str) -> Result<()> {
        let path = format!("{number}.yaml");
        std::fs::write(self.folder.path().join(&path), yaml).context("cannot write a resource")?;
        self.change(|file| {
            if !file.resources.contains(&path) {
                file.resources.push(path);
            }
        })
    }

    fn address(&self, pod: &str, family: fn(&IpAddr) -> bool) -> IpAddr {
        let pod = self.lab.pod(pod).expect("a pod of this test");
        *pod.addresses
            .iter()
            .find(|address| family(address))
            .expect("the pod has an address of that family")
    }
}

impl Drop for TestLab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What the programs said is what a failed test is read with.
            let tails = self.lab.log_tails(200).join("\n");
            for line in tails.lines().filter(|line| !line.contains(ACCESS)) {
                println!("{line}");
            }
            if std::env::var_os("WEFT_TEST_KEEP").is_some() {
                println!("lab {} is kept", self.name);
                return;
            }
        }
        if let Err(error) = down(&self.name) {
            println!("lab {} could not be taken down: {error:#}", self.name);
        }
    }
}

/// The folder of the programs that belong to this build of the tests.
pub fn build_folder() -> PathBuf {
    let this = std::env::current_exe().expect("a running program has a path");
    // target/debug/deps/test-0123: the programs are one folder up.
    this.parent()
        .and_then(std::path::Path::parent)
        .expect("tests run from the target folder")
        .to_owned()
}
