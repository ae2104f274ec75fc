//! Wires the stages together. The only module that sees all of them.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use weft_identity::{Authority, AuthorityError, AuthorityOptions};
use weft_k8s_api::Kind;
use weft_runtime::{Clock, Shutdown, SystemClock, spawn, tcp_listener};
use weft_telemetry::LogHandle;
use weft_types::{MeshSettings, NodeName};

use crate::admin::Admin;
use crate::caller::Callers;
use crate::config::Config;
use crate::index::Index;
use crate::issue::Issue;
use crate::kept::Kept;
use crate::metrics::{Counters, registry};
use crate::own::own_addresses;
use crate::pipeline::{Pipeline, State};
use crate::publish::{Ads, Snapshot, Subscribers};
use crate::serve::{Serve, ServeError};
use crate::source::{NEVER_GOOD, SourceProblem, WatchError, watch as watch_source};
use crate::tokens::{TokenError, Tokens};
use crate::translate::{Translation, Translator};
use crate::view::Views;

/// Workload certificates live no longer, whatever is asked for; the server's own lives as long.
const CERTIFICATE_TTL_MAX: Duration = Duration::from_hours(365 * 24);
/// Names under which a cluster reaches the controller.
const SERVICE_NAMES: [&str; 5] = [
    "localhost",
    "127.0.0.1",
    "::1",
    "weft-controller",
    "weft-controller.weft-system.svc",
];

/// Why the controller does not start. The operator is to blame; every message says what to check.
#[derive(Debug, Error)]
pub(crate) enum StartError {
    /// Source.
    #[error(transparent)]
    Source(#[from] WatchError),
    /// Tokens.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// Authority.
    #[error("certificate authority: {0}")]
    Authority(#[from] AuthorityError),
    /// Server.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A file or socket cannot be made.
    #[error("{what}: {error}")]
    Io {
        /// Flag and path.
        what: String,
        /// Why.
        error: io::Error,
    },
    /// The settings are broken, and there is no earlier good state of them: the defaults could allow what they forbid.
    #[error("settings in {}, line {}: {}: {}", .0.file.display(), .0.line, .0.field, .0.message)]
    Settings(SourceProblem),
    /// No settings came from the source.
    #[error("the source ended before it was read")]
    SourceEnded,
}

/// Starts everything; what runs afterwards ends with `shutdown`.
///
/// The task that it returns owns the state. When it ends before the drain, there is nothing more to tell anybody.
pub(crate) async fn start(
    config: Config,
    shutdown: &Shutdown,
    log: LogHandle,
) -> Result<JoinHandle<()>, StartError> {
    let failed = |what: &str, path: &Path| {
        let what = format!("{what} {}", path.display());
        move |error| StartError::Io { what, error }
    };
    std::fs::create_dir_all(&config.state_dir).map_err(failed("--state-dir", &config.state_dir))?;
    let nodes: Vec<NodeName> = config
        .nodes
        .iter()
        .map(|node| node.as_str().into())
        .collect();
    let tokens = Tokens::open(shutdown, &config.tokens, &nodes)?;
    let views = Views::default();
    let (kept, addresses, holders) = Kept::load(&config.state_dir);
    let (snapshots, newest) = watch::channel(Arc::new(Snapshot::default()));
    let pipeline = Pipeline {
        updates: watch_source(shutdown, config.source.clone(), &config.state_dir)?,
        state: State {
            index: Index::default(),
            translator: Translator::new(addresses, holders, own_addresses(&config)),
            kept,
            tokens: tokens.clone(),
            views: views.clone(),
            snapshots,
            clock: Arc::new(SystemClock),
            told: Translation::default(),
        },
    };
    let pipeline = spawn(shutdown, "pipeline", pipeline.run(shutdown.clone()));
    // Nobody is served before the source was read: an empty mesh would be told to everybody as the truth.
    let settings = first_settings(newest.clone(), &views).await?;
    let authority = Arc::new(authority(&config, &settings)?);
    let root_out = &config.root_cert_out;
    write_whole(root_out, authority.roots_pem()).map_err(failed("--root-cert-out", root_out))?;

    let (listener, address) = Serve::bind(config.listen)?;
    let services = Services {
        shutdown,
        newest,
        authority,
        callers: Arc::new(Callers {
            tokens,
            views: views.clone(),
        }),
        subscribers: Subscribers::default(),
        counters: Counters::default(),
    };
    services.serve(&config).start(shutdown, listener)?;
    let admin = Admin {
        metrics: registry(
            &services.counters,
            services.subscribers.clone(),
            views.clone(),
        ),
        views,
        subscribers: services.subscribers,
        log: Arc::new(log),
    };
    serve_admin(&config, shutdown, &admin)?;
    if let Some(file) = &config.address_file {
        write_whole(file, &format!("{address}\n")).map_err(failed("--address-file", file))?;
    }
    tracing::info!(%address, "serving");
    Ok(pipeline)
}

/// What the two gRPC services share.
struct Services<'a> {
    shutdown: &'a Shutdown,
    newest: watch::Receiver<Arc<Snapshot>>,
    authority: Arc<Authority>,
    callers: Arc<Callers>,
    subscribers: Subscribers,
    counters: Counters,
}

impl Services<'_> {
    fn serve(&self, config: &Config) -> Serve {
        let ads = Ads {
            snapshots: self.newest.clone(),
            callers: self.callers.clone(),
            events: Arc::new(self.counters.clone()),
            subscribers: self.subscribers.clone(),
            shutdown: self.shutdown.clone(),
        };
        let issue = Issue::new(
            Arc::clone(&self.authority),
            self.callers.clone(),
            Arc::new(self.counters.clone()),
            Arc::new(SystemClock),
        );
        Serve {
            routes: Routes::new(ads.service()).add_service(issue.service()),
            authority: Arc::clone(&self.authority),
            names: server_names(config),
        }
    }
}

async fn first_settings(
    mut newest: watch::Receiver<Arc<Snapshot>>,
    views: &Views,
) -> Result<MeshSettings, StartError> {
    newest
        .changed()
        .await
        .map_err(|_| StartError::SourceEnded)?;
    let view = views.newest().ok_or(StartError::SourceEnded)?;
    let of_settings = |problem: &&SourceProblem| {
        let object = problem.object.as_deref().unwrap_or_default();
        object.starts_with(Kind::ConfigMap.as_str()) && problem.effect == NEVER_GOOD
    };
    if let Some(problem) = view.problems.iter().find(of_settings) {
        return Err(StartError::Settings(problem.clone()));
    }
    Ok(view.translation.settings.clone())
}

fn authority(config: &Config, settings: &MeshSettings) -> Result<Authority, AuthorityError> {
    let options = AuthorityOptions {
        ttl_default: settings.certificate_ttl,
        ttl_max: CERTIFICATE_TTL_MAX,
    };
    let trust_domain = settings.trust_domain.clone();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    match &config.ca_dir {
        Some(folder) => Authority::from_folder(folder, trust_domain, options, clock),
        None => Authority::load_or_create(&config.state_dir, trust_domain, options, clock),
    }
}

fn server_names(config: &Config) -> Vec<String> {
    let mut names: Vec<String> = SERVICE_NAMES.map(str::to_owned).to_vec();
    let ip = config.listen.ip();
    if !ip.is_unspecified() {
        names.push(ip.to_string());
    }
    names.extend(config.server_names.iter().cloned());
    names.sort();
    names.dedup();
    names
}

fn serve_admin(config: &Config, shutdown: &Shutdown, admin: &Admin) -> Result<(), StartError> {
    if let Some(path) = &config.admin_socket {
        let failed = |error| StartError::Io {
            what: format!("--admin-socket {}", path.display()),
            error,
        };
        let listener = weft_runtime::bind_unix(path, 0o600).map_err(failed)?;
        let admin = admin.clone();
        let answer = move |request: weft_runtime::Request| {
            let answer = admin.answer(&request);
            std::future::ready(answer)
        };
        weft_runtime::serve_unix(shutdown, listener, answer).map_err(failed)?;
    }
    if let Some(address) = config.metrics_address {
        let failed = |error| StartError::Io {
            what: format!("--metrics-address {address}"),
            error,
        };
        let listener = tcp_listener(address).map_err(failed)?;
        let actual = listener.local_addr().map_err(failed)?;
        tracing::info!(address = %actual, "metrics");
        let admin = admin.clone();
        let answer = move |request: weft_runtime::Request| {
            let answer = admin.answer_public(&request);
            std::future::ready(answer)
        };
        weft_runtime::serve_tcp(shutdown, listener, answer).map_err(failed)?;
    }
    Ok(())
}

/// Written beside and renamed: whoever waits for the file finds it whole.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)
}
