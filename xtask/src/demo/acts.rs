//! The acts: each says what it claims, shows it on traffic, and fails when it does not hold.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use weft_testkit::lab::program::Running;
use weft_testkit::leak::Report;
use weft_testkit::load::Churn;
use weft_testkit::peer::{Behaviour, Server};
use weft_testkit::wait::{LONG, SHORT, until};

use super::stage::{SERVICE, Stage, request};
use super::tell;

/// Calls that show how a Service spreads them.
const CALLS: usize = 12;
/// New connections that must succeed before and after the proxy is killed.
const CONNECTIONS: u64 = 150;

/// Plaintext on the wire between pod addresses.
pub(super) fn before(stage: &mut Stage) -> Result<()> {
    title(1, "before: nobody is in the mesh");
    let recorder = stage.record()?;
    let to = SocketAddr::new(stage.address("api-2")?, 8080);
    let answer = stage.call("web", to)?;
    say(&format!("web calls api-2 at its address: {answer:?}"));
    let seen = recorder.stop()?;
    let plain: Vec<String> = samples(&seen, false);
    ensure!(!plain.is_empty(), "no plaintext was seen on the wire");
    for line in plain {
        say(&format!("on the wire: {line}"));
    }
    let refused = stage.call("web", SERVICE.parse()?);
    ensure!(
        refused.is_err(),
        "something serves {SERVICE} without a mesh"
    );
    say(&format!("nothing serves the Service address {SERVICE} yet"));
    Ok(())
}

/// The same pods, not restarted, in the mesh.
pub(super) fn enrol(stage: &mut Stage) -> Result<()> {
    title(2, "the pods join the mesh, without a restart");
    let pids = stage.lab.record().pods.clone();
    let started = Instant::now();
    stage.enrol()?;
    ensure!(
        pids == stage.lab.record().pods,
        "a pod's program was restarted"
    );
    say(&format!(
        "4 pods enrolled, each with its certificate, in {} ms; their programs run on",
        started.elapsed().as_millis()
    ));
    let recorder = stage.record()?;
    let mut answers: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..CALLS {
        *answers
            .entry(stage.call("web", SERVICE.parse()?)?)
            .or_default() += 1;
    }
    for (answer, count) in answers {
        say(&format!(
            "web calls http://{SERVICE}: {count} times {answer:?}"
        ));
    }
    let seen = recorder.stop()?;
    seen.verdict()?;
    for line in samples(&seen, true) {
        say(&format!("on the wire: {line}"));
    }
    say(&format!(
        "{} packets recorded between pods and nodes: between pods nothing but TLS to port 15008",
        seen.packets
    ));
    Ok(())
}

/// Who talked to whom, from the access log.
pub(super) fn identities(stage: &mut Stage) -> Result<()> {
    title(3, "who talked to whom");
    let log = stage.lab.place().node_logs("n1").join("proxy.log");
    let lines = until("the access log", SHORT, || {
        let text = std::fs::read_to_string(&log)?;
        let lines: Vec<String> = text
            .lines()
            .filter(|line| line.contains("sa/web") && line.contains("sa/api"))
            .map(ToOwned::to_owned)
            .collect();
        ensure!(!lines.is_empty(), "no record of web and api in it yet");
        Ok(lines)
    })?;
    say("the access log of n1's proxy:");
    for line in lines.iter().take(2) {
        say(&format!("  {}", line.trim()));
    }
    Ok(())
}

/// One caller allowed, another refused.
pub(super) fn policy(stage: &mut Stage) -> Result<()> {
    title(4, "an AuthorizationPolicy: only web may call the api");
    stage.allow_only(Some("web"))?;
    let service: SocketAddr = SERVICE.parse()?;
    let refusal = until("the policy to reach the proxies", SHORT, || {
        match stage.call("batch", service) {
            Err(error) => Ok(error),
            Ok(answer) => bail!("batch still gets {answer:?}"),
        }
    })?;
    let answer = stage.call("web", service)?;
    say(&format!("web   -> api: {answer:?}"));
    say(&format!("batch -> api: refused ({})", refusal.root_cause()));
    Ok(())
}

/// A connection that a changed policy no longer allows is closed.
pub(super) fn cut(stage: &mut Stage) -> Result<()> {
    title(5, "the policy changes while a connection is open");
    let mut stream = stage.connect("web", SERVICE.parse()?)?;
    let answer = request(&mut stream)?;
    say(&format!("web holds a connection open: {answer:?}"));
    let changed = Instant::now();
    stage.allow_only(Some("batch"))?;
    let mut byte = [0];
    let ended = stream.read(&mut byte);
    ensure!(
        !matches!(ended, Ok(1)),
        "the connection lives on although the policy forbids it"
    );
    if let Err(error) = &ended {
        ensure!(
            error.kind() != std::io::ErrorKind::WouldBlock,
            "the connection lives on although the policy forbids it"
        );
    }
    say(&format!(
        "the policy now allows batch only: the connection was cut within {} ms of the edit",
        changed.elapsed().as_millis()
    ));
    let refused = stage.call("web", SERVICE.parse()?);
    ensure!(refused.is_err(), "web may still call");
    let answer = until("batch to be let in", SHORT, || {
        stage.call("batch", SERVICE.parse()?)
    })?;
    say(&format!("batch -> api: {answer:?}"));
    stage.allow_only(None)?;
    until("web to be let in again", SHORT, || {
        stage.call("web", SERVICE.parse()?)
    })?;
    Ok(())
}

/// The proxy dies under load and nobody notices.
pub(super) fn kill(stage: &mut Stage) -> Result<()> {
    title(
        6,
        "the node proxy is killed under a stream of new connections",
    );
    let server = Server::on_any(&stage.netns("api-2")?, Behaviour::Echo)?;
    let recorder = stage.record()?;
    let churn = Churn::new(&stage.netns("web")?, server.at(stage.address("api-2")?)).start()?;
    churn.wait_for(CONNECTIONS)?;
    let old = stage.pid("n1", "weft-proxy")?;
    let process = Running::of(old).context("the proxy is gone already")?;
    // Connections inside a killed process end with it; the claim is about the others.
    churn.wait_for_pause();
    let killed = Instant::now();
    weft_testkit::lab::program::kill_all(&[process])?;
    let new = until("a new proxy", LONG, || {
        let pid = stage.pid("n1", "weft-proxy")?;
        ensure!(pid != old, "the old one is still there");
        Ok(pid)
    })?;
    churn.wait_for(CONNECTIONS)?;
    let served = killed.elapsed();
    let mut report = churn.stop()?;
    let broken = std::mem::take(&mut report.broken);
    report.good += broken;
    report.verdict()?;
    ensure!(broken <= 2, "{broken} connections broke");
    recorder.stop()?.verdict()?;
    say(&format!(
        "kill -9 {old}; the successor is {new}, and {CONNECTIONS} more connections were through after {} ms",
        served.as_millis()
    ));
    say(&format!(
        "{} connections, none refused, {} broken, none in plaintext; the longest took {} ms",
        report.begun,
        if broken == 0 {
            "none".to_owned()
        } else {
            format!("{broken} that the killed process held")
        },
        report.slowest.as_millis()
    ));
    Ok(())
}

pub(super) fn title(number: usize, text: &str) {
    tell("");
    tell(&format!("{number}. {text}"));
}

pub(super) fn say(text: &str) {
    tell(&format!("   {text}"));
}

/// First bytes of recorded flows, TLS ones or others, as text.
fn samples(report: &Report, tls: bool) -> Vec<String> {
    report
        .flows
        .iter()
        .filter(|(_, flow)| flow.tls == tls && !flow.sample.is_empty())
        .filter(|(key, _)| !tls || key.destination.port() == 15008)
        .take(2)
        .map(|(key, flow)| {
            let start = &flow.sample[..flow.sample.len().min(24)];
            if tls {
                let bytes: Vec<String> = start[..start.len().min(8)]
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                format!("{key}: TLS {} ...", bytes.join(" "))
            } else {
                format!("{key}: {:?}", String::from_utf8_lossy(start))
            }
        })
        .collect()
}
