//! Connects to a control plane as a node would and prints every state that arrives, until interrupted.
//!
//! `cargo run -p weft-config --example watch -- https://HOST:PORT ROOT_CERT TOKEN_FILE NODE [STATE_DIR]`

use std::process::ExitCode;

use weft_config::{
    ConfigSettings, EnrollmentSet, Enrollments, ProxyConfig, SettingsError, Snapshot,
};
use weft_runtime::Shutdown;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [controller, root, token, node, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: watch https://HOST:PORT ROOT_CERT TOKEN_FILE NODE [STATE_DIR]");
        return ExitCode::from(64);
    };
    let mut settings = ConfigSettings::new(controller, root, token, node.as_str().into());
    settings.state_dir = rest.first().map(Into::into);
    match watch(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(64)
        }
    }
}

async fn watch(settings: ConfigSettings) -> Result<(), SettingsError> {
    let shutdown = Shutdown::new();
    let config = ProxyConfig::start(settings.clone(), &shutdown)?;
    let enrollments = Enrollments::start(settings, &shutdown)?;
    let (mut states, mut pods) = (config.changed(), enrollments.changed());
    let mut known = EnrollmentSet::default();
    loop {
        tokio::select! {
            _ = states.changed() => print(&config.snapshot()),
            _ = pods.changed() => {
                let current = enrollments.current();
                for change in current.changes_since(&known) {
                    println!("pod {change:?}");
                }
                known = (*current).clone();
            }
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
        println!("{:?}", config.status());
    }
}

fn print(snapshot: &Snapshot) {
    println!(
        "state {} from {:?}, settings {:?}",
        snapshot.revision(),
        snapshot.origin(),
        snapshot.settings_known().then(|| snapshot.settings())
    );
    for workload in snapshot.workloads() {
        let policies = snapshot.policies_for(workload);
        println!(
            "  workload {} at {:?}, {} policies, missing {:?}, broken {:?}",
            workload.uid,
            workload.addresses,
            policies.policies.len(),
            policies.missing,
            policies.broken
        );
    }
    for service in snapshot.services() {
        let endpoints = snapshot
            .endpoints(&service.name)
            .map_or(0, |found| found.len());
        println!(
            "  service {} at {:?}, {endpoints} endpoints",
            service.name, service.addresses
        );
    }
}
