//! What the acts share: the lab, calls between its pods, policies, the recorder.
//!
//! In: pod names. Out: answers. Not here: claims.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use weft_testkit::lab::{Lab, report};
use weft_testkit::leak::Recorder;
use weft_testkit::load;
use weft_testkit::netns::Netns;

/// Address of the Service.
pub(super) const SERVICE: &str = "10.96.0.80:80";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n";

/// The running lab.
pub(super) struct Stage {
    pub(super) lab: Lab,
    pub(super) folder: PathBuf,
}

// === impl Stage ===

impl Stage {
    pub(super) fn new(lab: Lab, folder: PathBuf) -> Result<Self> {
        lab.pod("web")?;
        Ok(Self { lab, folder })
    }

    pub(super) fn into_lab(self) -> Lab {
        self.lab
    }

    /// A pod's namespace.
    pub(super) fn netns(&self, pod: &str) -> Result<Netns> {
        Ok(Netns::named(self.lab.pod(pod)?.netns.clone()))
    }

    /// A pod's address.
    pub(super) fn address(&self, pod: &str) -> Result<IpAddr> {
        let addresses = &self.lab.pod(pod)?.addresses;
        addresses.first().copied().context("a pod has an address")
    }

    /// One HTTP request over a connection of its own; the body of the answer.
    pub(super) fn call(&self, from: &str, to: SocketAddr) -> Result<String> {
        let mut stream = self.connect(from, to)?;
        request(&mut stream)
    }

    /// A connection from a pod.
    pub(super) fn connect(&self, from: &str, to: SocketAddr) -> Result<TcpStream> {
        load::connect(&self.netns(from)?, to).with_context(|| format!("{from} to {to}"))
    }

    /// Records all that passes between the nodes and inside them, with all pods held to be in the
    /// mesh.
    pub(super) fn record(&self) -> Result<Recorder> {
        let topology = self.lab.topology();
        let places = [topology.fabric(), topology.node("n1"), topology.node("n2")];
        let plan = &self.lab.record().plan;
        let addresses = plan.pods.iter().flat_map(|pod| pod.addresses.clone());
        Recorder::start(&places, addresses)
    }

    /// Puts an `AuthorizationPolicy` for the api in place that allows one service account, or
    /// takes it away.
    pub(super) fn allow_only(&mut self, account: Option<&str>) -> Result<()> {
        let path = self.folder.join("policy.yaml");
        let mut file = self.lab.record().file.clone();
        file.resources.retain(|name| name != "policy.yaml");
        if let Some(account) = account {
            std::fs::write(&path, policy(account)).context("cannot write the policy")?;
            file.resources.push("policy.yaml".to_owned());
        }
        // The demo's file on disk follows, for `--keep`.
        write_lab_file(&self.folder, &file)?;
        self.lab.apply(file)
    }

    /// Puts all pods into the mesh.
    pub(super) fn enrol(&mut self) -> Result<()> {
        let mut file = self.lab.record().file.clone();
        for pod in &mut file.pods {
            pod.mesh = true;
        }
        write_lab_file(&self.folder, &file)?;
        self.lab.apply(file)
    }

    /// The process of a program on a node.
    pub(super) fn pid(&self, node: &str, program: &str) -> Result<i32> {
        report::program_of_node(&self.lab, node, program)
            .map(|running| running.pid)
            .with_context(|| format!("{program} does not run on {node}"))
    }
}

/// One HTTP request on a connection; the body of the answer.
pub(super) fn request(stream: &mut TcpStream) -> Result<String> {
    stream.write_all(REQUEST).context("cannot send")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let length = stream.read(&mut buffer).context("cannot receive")?;
        answer.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8_lossy(&answer);
        // The server's answers end with the one line of their body.
        if let Some((_, body)) = text.split_once("\r\n\r\n")
            && body.ends_with('\n')
        {
            return Ok(body.trim_end().to_owned());
        }
        anyhow::ensure!(length > 0, "the connection ended without an answer");
    }
}

fn write_lab_file(folder: &std::path::Path, file: &weft_testkit::lab::file::LabFile) -> Result<()> {
    let text = serde_saphyr::to_string(file).context("a lab file is plain data")?;
    std::fs::write(folder.join("lab.yaml"), text).context("cannot write the lab file")
}

fn policy(account: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: api, namespace: default}}
spec:
  selector: {{matchLabels: {{app: api}}}}
  action: ALLOW
  rules:
  - from: [{{source: {{principals: [cluster.local/ns/default/sa/{account}]}}}}]
"
    )
}
