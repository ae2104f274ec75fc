//! Labs for tests: built in a few lines, named so that several run at once, gone when dropped.
//!
//! In: pods and resources. Out: [`TestLab`], watched by the oracles for leaks and identities from before its first
//! pod to after its last. Not here: what a lab is (`weft_testkit::lab`).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

mod oracle;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use weft_testkit::admin;
use weft_testkit::lab::file::{LabFile, NodeEntry, PodEntry};
use weft_testkit::lab::{Lab, Options, down};
use weft_testkit::leak::{Recorder, Report};
use weft_testkit::netns::Netns;
use weft_testkit::peer::{Behaviour, Server};
use weft_testkit::wait::{LONG, until};

use oracle::{Oracle, Places};

/// What an access record of a connection that ended well holds: too many to print.
const ACCESS: &str = "access connection complete";

/// A lab in the making.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    file: LabFile,
    resources: Vec<String>,
    recorded: Places,
}

/// A running lab; dropping it takes it down.
pub struct TestLab {
    lab: Lab,
    file: LabFile,
    folder: TempDir,
    name: String,
    oracle: Option<Oracle>,
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

    /// Has the oracles record between the nodes alone: a packet that crosses is judged once instead of three times.
    #[must_use]
    pub fn recorded_on_the_fabric(mut self) -> Self {
        self.recorded = Places::Fabric;
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
        let mut oracle = None;
        let lab = Lab::up_watched(&options, file.clone(), |lab| {
            oracle = Some(Oracle::start(lab, self.recorded)?);
            Ok(())
        })?;
        if let Some(oracle) = &mut oracle {
            oracle.follow(&lab);
        }
        Ok(TestLab {
            lab,
            file,
            folder,
            name,
            oracle,
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

    /// Takes the verdict from the oracles that watch every lab: this test puts on the wires, or has the mesh do, what they
    /// must object to. It judges with recorders of its own.
    pub fn breaks_on_purpose(&mut self) {
        if let Some(oracle) = &mut self.oracle {
            oracle.only_count();
        }
    }

    /// Packets between enrolled pods of different nodes that the oracles have judged so far.
    pub fn judged_on_fabric(&self) -> u64 {
        self.oracle.as_ref().map_or(0, Oracle::judged_on_fabric)
    }

    /// Ends the oracles' watch, instead of at the end of the lab; an error is what they object to.
    pub fn judge(&mut self) -> Result<Report> {
        let oracle = self.oracle.take().context("the lab was judged before")?;
        oracle.close(&self.lab).verdict()
    }

    /// Changes the lab file and waits until the lab follows.
    pub fn change(&mut self, change: impl FnOnce(&mut LabFile)) -> Result<()> {
        change(&mut self.file);
        if let Some(oracle) = &self.oracle {
            oracle.expect(&self.file);
        }
        self.lab.apply(self.file.clone())?;
        if let Some(oracle) = &mut self.oracle {
            oracle.follow(&self.lab);
        }
        Ok(())
    }

    /// Waits until the node of a pod that was taken out of the mesh holds nothing of it any more. Tunnels find it until then.
    pub fn wait_until_let_go(&self, pod: &str) -> Result<()> {
        let node = &self.lab.pod(pod).context("no such pod")?.entry.node;
        let socket = self.lab.place().admin(node, "node");
        until(&format!("{node} to let go of {pod}"), LONG, || {
            let status = admin::get_json(&socket, "/status")?;
            let held = status["pods"].as_array().context("no list of pods")?;
            ensure!(held.iter().all(|one| one["name"] != pod), "it is held");
            Ok(())
        })
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
        let failed = std::thread::panicking();
        if failed {
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
        let oracle = self.oracle.take().map(|oracle| oracle.close(&self.lab));
        if let Err(error) = down(&self.name) {
            println!("lab {} could not be taken down: {error:#}", self.name);
        }
        match oracle.map(oracle::Closed::verdict) {
            Some(Err(error)) if failed => println!("and the oracles object: {error:#}"),
            Some(Err(error)) => panic!("the oracles object: {error:#}"),
            Some(Ok(_)) | None => {}
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
