//! The topology: two nodes, a pair of pods for each column, the same servers in every server pod.
//!
//! In: a build. Out: columns to measure, all with the same wires between client and server. Not
//! here: what is measured.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use weft_testkit::lab::file::{LabFile, NodeEntry, PodEntry};
use weft_testkit::lab::program::{Running, Start};
use weft_testkit::lab::report::program_of_node;
use weft_testkit::lab::{Lab, Options, down};
use weft_testkit::netns::Netns;
use weft_testkit::{load, wait};

use super::haproxy;
use super::latency;
use crate::shell;

/// Names of the columns.
pub(crate) const DIRECT: &str = "direct";
pub(crate) const HAPROXY: &str = "haproxy pair";
pub(crate) const WEFT: &str = "weft cross-node";
const SAME_NODE: &str = "weft same-node";

/// Ports of the servers in every server pod.
pub(crate) const IPERF: u16 = 5201;
pub(crate) const HTTP: u16 = 8080;
pub(crate) const ECHO: u16 = 7;

/// Bound for a server to answer: a hundred times what it takes.
const SERVERS_LIMIT: Duration = Duration::from_secs(30);

/// A way from a client to a server.
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) client: Netns,
    /// Where the client connects to; the port is one of the three above.
    server: IpAddr,
    proxies: Proxies,
}

enum Proxies {
    None,
    Fixed(Vec<Running>),
    /// Looked up each time: the supervisor may have restarted one.
    Nodes(Vec<String>),
}

/// Everything that runs.
pub(crate) struct Field {
    pub(crate) columns: Vec<Column>,
}

impl Field {
    /// Brings the lab, the servers and the other proxies up; undone when anything fails.
    pub(crate) fn up(name: &str, build: PathBuf) -> Result<Self> {
        let options = Options {
            name: name.to_owned(),
            build,
            file_path: None,
            base: shell::root(),
            progress: shell::progress,
        };
        let lab = Lab::up(&options, lab_file())?;
        match fill(&lab, name) {
            Ok(field) => Ok(field),
            Err(error) => {
                down(name)?;
                Err(error)
            }
        }
    }
}

impl Column {
    /// The address of a server, as the client dials it.
    pub(crate) fn server(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.server, port)
    }

    /// The processes between client and server; none without a proxy.
    pub(crate) fn proxies(&self) -> Result<Vec<Running>> {
        match &self.proxies {
            Proxies::None => Ok(Vec::new()),
            Proxies::Fixed(running) => Ok(running.clone()),
            Proxies::Nodes(nodes) => {
                let lab = Lab::open(super::LAB, shell::progress)?;
                let find = |node: &String| {
                    program_of_node(&lab, node, "weft-proxy")
                        .with_context(|| format!("node {node} has no proxy: see its log"))
                };
                nodes.iter().map(find).collect()
            }
        }
    }
}

fn lab_file() -> LabFile {
    let pod = |name: &str, node: &str, mesh: bool| {
        let mut pod = PodEntry::new(name, node);
        name.clone_into(&mut pod.service_account);
        pod.mesh = mesh;
        pod
    };
    let node = |name: &str| NodeEntry {
        name: name.to_owned(),
        external: false,
    };
    LabFile {
        nodes: vec![node("n1"), node("n2")],
        pods: vec![
            pod("direct-client", "n1", false),
            pod("direct-server", "n2", false),
            pod("haproxy-client", "n1", false),
            pod("haproxy-server", "n2", false),
            pod("client", "n1", true),
            pod("server", "n2", true),
            pod("neighbour", "n1", true),
        ],
        resources: Vec::new(),
        settings: serde_json::Map::new(),
    }
}

fn fill(lab: &Lab, name: &str) -> Result<Field> {
    let folder = lab.place().root().join("bench");
    std::fs::create_dir_all(&folder).context("cannot make a folder for the servers")?;
    let place = |pod: &str| -> Result<(Netns, IpAddr)> {
        let pod = lab.pod(pod)?;
        let address = pod.addresses.iter().find(|address| address.is_ipv4());
        let address = address.context("the pod has no IPv4 address")?;
        Ok((Netns::named(&pod.netns), *address))
    };
    for pod in ["direct-server", "haproxy-server", "server", "neighbour"] {
        let (netns, address) = place(pod)?;
        start_servers(name, &netns, &folder.join(pod), address)?;
    }
    let (client, _) = place("haproxy-client")?;
    let (server, address) = place("haproxy-server")?;
    let pair = haproxy::start(name, &folder, &client, &server, address)?;
    let column = |name, client: &str, server, proxies| -> Result<Column> {
        let client = place(client)?.0;
        Ok(Column {
            name,
            client,
            server,
            proxies,
        })
    };
    let nodes = |names: &[&str]| Proxies::Nodes(names.iter().map(|&n| n.to_owned()).collect());
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let columns = vec![
        column(
            DIRECT,
            "direct-client",
            place("direct-server")?.1,
            Proxies::None,
        )?,
        column(HAPROXY, "haproxy-client", loopback, Proxies::Fixed(pair))?,
        column(WEFT, "client", place("server")?.1, nodes(&["n1", "n2"]))?,
        column(SAME_NODE, "client", place("neighbour")?.1, nodes(&["n1"]))?,
    ];
    for column in &columns {
        wait_for_servers(column)?;
    }
    Ok(Field { columns })
}

fn start_servers(lab: &str, netns: &Netns, folder: &Path, address: IpAddr) -> Result<()> {
    std::fs::create_dir_all(folder).context("cannot make a folder for the servers")?;
    let start = |program: &str, arguments: Vec<String>| {
        let log = folder.join(format!("{program}.log"));
        let program = find(program);
        Start {
            lab,
            netns: Some(netns),
            program,
            arguments,
            log,
        }
        .start()
    };
    start(
        "iperf3",
        vec!["--server".into(), "--port".into(), IPERF.to_string()],
    )?;
    let configuration = folder.join("nginx.conf");
    std::fs::write(&configuration, nginx_configuration(folder))?;
    let configuration = configuration.display().to_string();
    start(
        "nginx",
        vec!["-c".into(), configuration, "-e".into(), "stderr".into()],
    )?;
    latency::start_echo(netns, SocketAddr::new(address, ECHO))
}

/// Servers lie in a folder that not every root's path names.
pub(crate) fn find(program: &str) -> PathBuf {
    let candidate = Path::new("/usr/sbin").join(program);
    if candidate.exists() {
        candidate
    } else {
        PathBuf::from(program)
    }
}

/// One process, so that the server takes one core at most, and so that it keeps the environment by which the lab
/// finds what belongs to it (a master process writes its title over it); nothing is logged or read from disk.
fn nginx_configuration(folder: &Path) -> String {
    format!(
        "daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 100000000;\n  \
         client_body_temp_path {folder};\n  proxy_temp_path {folder};\n  \
         fastcgi_temp_path {folder};\n  uwsgi_temp_path {folder};\n  scgi_temp_path {folder};\n  \
         server {{\n    listen {HTTP};\n    location / {{ return 200 \"hello\\n\"; }}\n  }}\n}}\n",
        folder = folder.display()
    )
}

fn wait_for_servers(column: &Column) -> Result<()> {
    for port in [IPERF, HTTP, ECHO] {
        let address = column.server(port);
        let what = format!("{} to answer at {address}", column.name);
        wait::until(&what, SERVERS_LIMIT, || {
            load::connect(&column.client, address)?;
            Ok(())
        })?;
    }
    Ok(())
}
