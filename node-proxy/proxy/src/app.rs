//! Puts the program together, runs it, and takes it down: the only module that sees all others.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwapOption;
use tokio::sync::mpsc;
use weft_config::{ConfigSettings, ProxyConfig};
use weft_identity::{
    CaClient, CaError, CaOptions, Credentials, Identities, IdentitiesOptions, IdentityEvents,
};
use weft_node_api::ProxyClient;
use weft_runtime::privileges::raise_file_limit;
use weft_runtime::{Finished, Shutdown, Signals, SystemClock, spawn};
use weft_telemetry::{AccessFormat, AccessLog, LogHandle};
use weft_types::{NodeName, SpiffeId};

use crate::admin::{self, Admin};
use crate::config::Options;
use crate::connections::Telemetry;
use crate::holder::Holder;
use crate::keys;
use crate::pods::Pods;
use crate::readiness::{Need, Readiness};
use crate::refusals;
use crate::serve::Workers;
use crate::shared::Shared;

/// How long the start waits for the mesh's settings, which say how long certificates should live. Longer than reading the
/// last state from disk takes; without either there is nothing to serve anyway.
const SETTINGS_WAIT: Duration = Duration::from_secs(2);
/// How long readiness waits for certificates once everything else is there: one pod without a certificate must not keep
/// an upgrade of all others from finishing.
const CERTIFICATES_WAIT: Duration = Duration::from_secs(10);
/// For the last lines of the access log.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);
/// Threads for everything but traffic: one may decode a large configuration while another passes sockets on.
const CONTROL_THREADS: usize = 2;

/// Runs the program until it is asked to end.
pub(crate) fn run(options: &Options, log: LogHandle) -> anyhow::Result<()> {
    let files = raise_file_limit().context("cannot raise the limit of open files")?;
    tracing::info!(
        node = options.common.node,
        version = env!("CARGO_PKG_VERSION"),
        workers = options.worker_count(),
        files,
        "weft-proxy starts"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control threads")?;
    runtime.block_on(control(options, log))
}

async fn control(options: &Options, log: LogHandle) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot catch signals")?;
    let control = Shutdown::new();
    let config = ProxyConfig::start(settings(options), &control)?;
    // Nothing decides on it yet; see SETTINGS_WAIT.
    let _ = tokio::time::timeout(SETTINGS_WAIT, config.ready()).await;
    let identities = identities(options, &config, &control);
    let (orders, wanted) = mpsc::unbounded_channel();
    let access = AccessLog::stderr(AccessFormat::Text);
    let shared = Arc::new(Shared {
        node: NodeName::new(options.common.node.as_str()),
        config,
        identities,
        pods: Pods::new(orders),
        storage: ArcSwapOption::empty(),
        affinity: Arc::default(),
        telemetry: Telemetry {
            metrics: Arc::default(),
            access: access.clone(),
        },
        refusals_omitted: prometheus_client::metrics::gauge::Gauge::default(),
        dry_runs: prometheus_client::metrics::family::Family::default(),
        flows: Shutdown::new(),
        background: Shutdown::new(),
    });
    let (workers, threads) =
        Workers::start(&shared, options.worker_count()).context("cannot start the workers")?;
    let (client, events) = ProxyClient::start(&options.common.run_dir.join("node.sock"), &control);
    let readiness = Readiness::new();
    let front = Admin {
        shared: Arc::clone(&shared),
        workers: workers.clone(),
        readiness: readiness.clone(),
        log,
    };
    admin::start(options, front, &control)?;
    let holder = Holder {
        shared: Arc::clone(&shared),
        workers: workers.clone(),
        client: client.clone(),
        events,
        orders: wanted,
        readiness: readiness.clone(),
    };
    until_stop(&control, "holder", holder.run());
    let keys = keys::export_on_change(shared.identities.clone(), client.clone());
    until_stop(&control, "keys", keys);
    let refusals = refusals::follow(Arc::clone(&shared), client.clone());
    until_stop(&control, "refusals", refusals);
    let follow = follow(Arc::clone(&shared), readiness.clone());
    until_stop(&control, "follow-config", follow);
    until_stop(&control, "ready", announce(readiness, client));

    drain(&shared, &mut signals).await;
    shared.background.stop();
    control.stop();
    drop(workers);
    // Holder and admin hold the workers' channels until their tasks have seen the stop.
    control.finished(FLUSH_LIMIT).await;
    let ended = tokio::task::spawn_blocking(move || threads.into_iter().try_for_each(join));
    let ended = tokio::time::timeout(FLUSH_LIMIT, ended).await;
    access.flush(FLUSH_LIMIT);
    ended.map_or(Ok(()), |joined| joined?)
}

/// Starts a task of the control thread that ends when everything does.
fn until_stop(
    control: &Shutdown,
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let stop = control.clone();
    spawn(control, name, async move {
        tokio::select! {
            () = stop.stopped() => {}
            () = task => {}
        }
    });
}

/// Waits to be asked to end, then until connections have ended, the limit has passed, or the wish is repeated.
async fn drain(shared: &Shared, signals: &mut Signals) {
    let signal = signals.next().await;
    let limit = shared.config.load().settings().drain_limit;
    tracing::info!(
        ?signal,
        limit_s = limit.as_secs(),
        flows = shared.flows.live_tasks(),
        "draining"
    );
    let finished = tokio::select! {
        finished = shared.flows.finished(limit) => finished,
        signal = signals.next() => {
            tracing::info!(?signal, "asked again: stopping at once");
            Finished::CutOff(shared.flows.live_tasks())
        }
    };
    tracing::info!(?finished, "stopping");
}

fn join(thread: std::thread::JoinHandle<std::io::Result<()>>) -> anyhow::Result<()> {
    match thread.join() {
        Ok(result) => Ok(result?),
        Err(_) => anyhow::bail!("a worker panicked"),
    }
}

fn settings(options: &Options) -> ConfigSettings {
    let node = NodeName::new(options.common.node.as_str());
    let mut settings = ConfigSettings::new(
        &options.common.controller,
        &options.common.root_cert,
        &options.common.token_file,
        node,
    );
    settings.state_dir = Some(options.common.state_dir.clone());
    settings
}

fn identities(options: &Options, config: &ProxyConfig, control: &Shutdown) -> Identities {
    let snapshot = config.load();
    let source = CaClient::new(CaOptions {
        address: options.common.controller.clone(),
        root_cert: options.common.root_cert.clone(),
        token: options.common.token_file.clone(),
        cluster: snapshot.settings().cluster.clone(),
    });
    let wanted = IdentitiesOptions {
        ttl: snapshot.settings().certificate_ttl,
        ..IdentitiesOptions::default()
    };
    let (identities, driver) = Identities::new(
        wanted,
        Arc::new(source),
        Arc::new(SystemClock),
        Arc::new(IdentityLog),
    );
    until_stop(control, "identities", driver);
    identities
}

/// Says what happens to certificates.
struct IdentityLog;

impl IdentityEvents for IdentityLog {
    fn issued(&self, credentials: &Credentials, took: Duration) {
        let identity = credentials.identity();
        tracing::info!(%identity, serial = credentials.serial(), took_ms = took.as_millis() as u64, "certificate issued");
    }

    fn failed(&self, identity: &SpiffeId, error: &CaError, pause: Duration) {
        tracing::warn!(%identity, %error, again_in_ms = pause.as_millis() as u64, "no certificate");
    }

    fn expired(&self, identity: &SpiffeId) {
        tracing::error!(%identity, "certificate expired before a new one came: connections of this identity fail");
    }
}

/// Does what new configuration asks of the control thread, for ever.
async fn follow(shared: Arc<Shared>, readiness: Readiness) {
    let mut changes = shared.config.changed();
    let mut certificates = shared.identities.changes();
    let mut waited_since = None;
    let mut forgotten = false;
    loop {
        apply_settings(&shared);
        let snapshot = shared.config.snapshot();
        shared.pods.follow(&snapshot, &shared.identities);
        if snapshot.origin() != weft_config::Origin::Empty {
            readiness.done(Need::Configuration);
        }
        let others = [Need::Configuration, Need::Pods, Need::Map];
        if !others.iter().any(|need| readiness.lacks(*need)) {
            let since = *waited_since.get_or_insert_with(tokio::time::Instant::now);
            if all_have_certificates(&shared) || since.elapsed() >= CERTIFICATES_WAIT {
                readiness.done(Need::Certificates);
            }
            // The snapshot on disk may be older than a pod: its key must wait for the controller's word.
            if !forgotten && all_have_claimed(&shared) {
                forgotten = true;
                shared.identities.forget_unclaimed();
            }
        }
        let unready = !readiness.missing().is_empty();
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            changed = certificates.changed() => if changed.is_err() { return },
            // What else is missing is reported without a signal to wait on.
            () = tokio::time::sleep(Duration::from_millis(50)), if unready => {}
        }
    }
}

fn apply_settings(shared: &Shared) {
    let snapshot = shared.config.load();
    let settings = snapshot.settings();
    let format = match (settings.access_log, settings.access_log_json) {
        (false, _) => AccessFormat::Off,
        (true, false) => AccessFormat::Text,
        (true, true) => AccessFormat::Json,
    };
    shared.telemetry.access.set_format(format);
    shared.identities.set_ttl(settings.certificate_ttl);
}

fn all_have_certificates(shared: &Shared) -> bool {
    let snapshot = shared.config.load();
    shared.pods.table().iter().all(|pod| match pod.identity() {
        Some(identity) => shared.identities.current(&identity).is_some(),
        // A pod that configuration does not know yet waits by itself.
        None => snapshot.workload(&pod.workload()).is_none(),
    })
}

fn all_have_claimed(shared: &Shared) -> bool {
    let table = shared.pods.table();
    table.iter().all(|pod| pod.identity().is_some())
}

/// Tells the holder once that everything is served.
async fn announce(readiness: Readiness, client: ProxyClient) {
    readiness.ready().await;
    if let Err(error) = client.ready() {
        tracing::warn!(%error, "weft-node was not told that this proxy is ready");
    }
}
