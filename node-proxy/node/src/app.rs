//! Wires the program: directories, lock, node socket, children, the holder's task.
//!
//! In: options. Out: how it ended. The only module that sees all others.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::info;
use weft_runtime::{Shutdown, Signals, serve_fixed, tcp_listener};

use crate::admin;
use crate::bpffs;
use crate::children::{Children, Launch, Mode, Record, Which};
use crate::config::Options;
use crate::hold::{self, Gauges, Inherited, Parts};
use crate::lock;
use crate::netns;
use crate::privileges;
use crate::token::{self, Copy};

/// How the program ends.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// As asked.
    Done,
    /// The configuration cannot be used.
    Config(String),
    /// Something else is in the way.
    Failed(String),
}

/// Ends of children that may wait for the holder's task; each child has one at a time.
const ENDED_MAX: usize = 8;

/// Runs the node.
pub(crate) async fn run(options: Options) -> Outcome {
    if let Err(message) = make_directories(&options) {
        return Outcome::Config(message);
    }
    if let Err(error) = bpffs::ensure(options.bpffs()) {
        let path = options.bpffs().display();
        return Outcome::Config(format!(
            "--bpffs {path} is no BPF file system and none can be mounted there: {error}"
        ));
    }
    let run_dir = options.run_dir();
    let socket = run_dir.join("node.sock");
    let inherited = if options.takeover {
        let children = Record::load(run_dir.join("children.json"));
        match hold::receive(&socket, children).await {
            Ok(inherited) => Some(inherited),
            Err(message) => return Outcome::Failed(message),
        }
    } else {
        None
    };
    let lock = match &inherited {
        Some(inherited) => inherited.lock.clone(),
        None => match lock::take(&run_dir).await {
            Ok(lock) => Arc::new(lock),
            Err(message) => return Outcome::Failed(message),
        },
    };
    match serve(&options, &socket, lock, inherited).await {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

async fn serve(
    options: &Options,
    socket: &Path,
    lock: netns::Fd,
    inherited: Option<Inherited>,
) -> io::Result<()> {
    let signals = Signals::new()?;
    let shutdown = Shutdown::new();
    let run_dir = options.run_dir();
    let gauges = Arc::new(Gauges::default());
    let (views_tx, views) = mpsc::channel(admin::QUESTIONS_MAX);
    let serve_admin = {
        let (shutdown, gauges) = (shutdown.clone(), gauges.clone());
        let path = run_dir.join("node-admin.sock");
        move || admin::serve(&shutdown, &path, views_tx.clone(), gauges.clone())
    };
    serve_admin()?;
    let rendered = gauges.clone();
    serve_fixed(
        &shutdown,
        named(
            "the node metrics address",
            tcp_listener(options.node_metrics_address),
        )?,
        "text/plain; version=0.0.4",
        move || rendered.render(),
    )?;
    let home = netns::netns_cookie(tcp_listener(([127, 0, 0, 1], 0).into())?.as_fd())?;
    let (jobs, outcomes) = netns::start(home)?;
    let acceptor = hold::bind_socket(socket, options.proxy_uid)?;

    // In a takeover the old agent must have ended before ours touches the pins.
    let takeover = inherited.is_some();
    let agent_mode = if takeover { Mode::Hold } else { Mode::Run };
    let record_path = run_dir.join("children.json");
    let record = if takeover {
        Record::fresh(record_path)
    } else {
        Record::load(record_path)
    };
    let proxy_lives = record.lives(Which::Proxy);
    let children = Children::new(record, agent_mode, Mode::Run);
    let (ended_tx, ended) = mpsc::channel(ENDED_MAX);
    let (agent, proxy) = launches(&shutdown, options)?;
    children.supervise(&shutdown, Which::Agent, agent, ended_tx.clone());
    children.supervise(&shutdown, Which::Proxy, proxy, ended_tx);
    info!(node = %options.node, run_dir = %run_dir.display(), takeover, "weft-node runs");
    let parts = Parts {
        shutdown,
        socket: socket.to_owned(),
        proxy_uid: options.proxy_uid,
        acceptor,
        children,
        ended,
        jobs,
        outcomes,
        lock,
        tuned: run_dir.join("tuned.json"),
        gauges,
        serve_admin: Box::new(serve_admin),
        views,
        proxy_lives,
        inherited,
    };
    hold::run(parts, signals).await
}

fn launches(shutdown: &Shutdown, options: &Options) -> io::Result<(Launch, Launch)> {
    let run_dir = options.run_dir();
    let copy = |from: &Path, name: &str| Copy {
        from: from.to_owned(),
        to: run_dir.join(name),
        owner: options.proxy_uid,
    };
    let token = copy(&options.token_file, "proxy.token");
    let root_cert = copy(&options.root_cert, "proxy-root.pem");
    let (proxy_program, proxy_args) = options.proxy_command(&token.to, &root_cert.to);
    token.refresh()?;
    root_cert.refresh()?;
    token::keep_fresh(shutdown, vec![token, root_cert]);
    let (agent_program, agent_args) = options.agent_command();
    let log = |name: &str| options.log_dir.as_ref().map(|dir| dir.join(name));
    let agent = Launch {
        program: agent_program,
        args: agent_args,
        uid: None,
        capabilities: privileges::OF_AGENT,
        admin_socket: None,
        log: log("agent.log"),
    };
    let proxy = Launch {
        program: proxy_program,
        args: proxy_args,
        uid: Some(options.proxy_uid),
        capabilities: privileges::OF_PROXY,
        admin_socket: Some(run_dir.join("proxy-admin.sock")),
        log: log("proxy.log"),
    };
    Ok((agent, proxy))
}

fn make_directories(options: &Options) -> Result<(), String> {
    let state_dir = options.state_dir();
    let of_proxy = state_dir.join("proxy");
    let mut all = vec![
        (options.run_dir(), 0o711),
        (state_dir.clone(), 0o711),
        (state_dir.join("agent"), 0o700),
        (of_proxy.clone(), 0o700),
    ];
    all.extend(options.log_dir.iter().map(|dir| (dir.clone(), 0o755)));
    for (path, mode) in all {
        make_directory(&path, mode).map_err(|error| {
            format!("directory {} cannot be made: {error}; check its parent, and that this runs as root", path.display())
        })?;
    }
    let uid = Some(options.proxy_uid);
    chown(&of_proxy, uid, uid).map_err(|error| {
        format!(
            "cannot give {} to the proxy's user: {error}; run weft-node as root",
            of_proxy.display()
        )
    })
}

fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn named<T>(what: &str, outcome: io::Result<T>) -> io::Result<T> {
    outcome.map_err(|error| io::Error::new(error.kind(), format!("{what}: {error}")))
}
