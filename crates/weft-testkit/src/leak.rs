//! The leak oracle: records what pods put on the wire and finds what should have been inside TLS.
//!
//! In: the namespaces through which all packets of a lab pass (its nodes and its fabric), the
//! addresses that are enrolled. Out: a [`Report`] with every violation, what was seen of each
//! flow, and how many packets the kernel dropped, which must be none for a verdict to count. Not
//! here: traffic. Payloads that carry a [`canary`](canary_text) are found wherever they appear.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};

mod judge;
mod tap;

pub use judge::{Flow, FlowKey, Judge, Violation, Why};

use crate::netns::Netns;

/// What every canary begins with.
const CANARY_PREFIX: &str = "~weft-canary:";
/// Longest time between two looks at whether to stop; packets themselves wake the reader.
const STOP_INTERVAL_MS: u64 = 50;

/// Everything that one recorder saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Packets read, over all namespaces.
    pub packets: u64,
    /// Packets that the kernel could not keep for us.
    pub dropped: u64,
    /// What must not happen between two enrolled pods.
    pub violations: Vec<Violation>,
    /// Violations beyond those listed.
    pub violations_more: u64,
    /// What was seen of each TCP flow, one entry a direction, merged over namespaces.
    pub flows: Vec<(FlowKey, Flow)>,
}

/// A recording in progress. Dropping it stops it without a report.
pub struct Recorder {
    enrolled: Arc<Mutex<HashSet<IpAddr>>>,
    stop: Arc<std::sync::atomic::AtomicBool>,
    threads: Vec<JoinHandle<Result<Report>>>,
}

// === impl Report ===

impl Report {
    /// An error that names the first violations, or that the recording has holes.
    pub fn verdict(&self) -> Result<()> {
        if self.dropped > 0 {
            return Err(anyhow!(
                "the recording misses {} packets, so it proves nothing",
                self.dropped
            ));
        }
        if self.violations.is_empty() {
            return Ok(());
        }
        let first: Vec<String> = self
            .violations
            .iter()
            .take(5)
            .map(ToString::to_string)
            .collect();
        let count = self.violations.len() as u64 + self.violations_more;
        Err(anyhow!("{count} leaks: {}", first.join("; ")))
    }

    fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.dropped += other.dropped;
        self.violations.extend(other.violations);
        self.violations_more += other.violations_more;
        for (key, flow) in other.flows {
            match self.flows.iter_mut().find(|(present, _)| *present == key) {
                Some((_, present)) => present.merge(&flow),
                None => self.flows.push((key, flow)),
            }
        }
    }
}

// === impl Recorder ===

impl Recorder {
    /// Starts recording; when this returns, every later packet is seen.
    pub fn start(namespaces: &[Netns], enrolled: impl IntoIterator<Item = IpAddr>) -> Result<Self> {
        let mut this = Self {
            enrolled: Arc::new(Mutex::new(enrolled.into_iter().collect())),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for netns in namespaces {
            let tap = netns
                .enter(tap::Tap::open)
                .with_context(|| format!("cannot record in {}", netns.name()))?;
            let enrolled = this.enrolled.clone();
            let stop = this.stop.clone();
            let place = netns.name().to_owned();
            let thread = std::thread::Builder::new()
                .name(format!("record {place}"))
                .spawn(move || record(&tap, &place, &enrolled, &stop))
                .context("cannot start a thread")?;
            this.threads.push(thread);
        }
        Ok(this)
    }

    /// Replaces the addresses between which everything must be inside TLS.
    pub fn set_enrolled(&self, enrolled: impl IntoIterator<Item = IpAddr>) {
        *self.enrolled.lock().expect("no reader panics") = enrolled.into_iter().collect();
    }

    /// Stops when every packet that was on the wire before this call has been judged.
    pub fn stop(mut self) -> Result<Report> {
        self.stop.store(true, std::sync::atomic::Ordering::Release);
        let mut report = Report::default();
        for thread in self.threads.drain(..) {
            let part = thread
                .join()
                .map_err(|_| anyhow!("a recording thread panicked"))??;
            report.add(part);
        }
        Ok(report)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Release);
    }
}

/// A canary: text that no protocol of the mesh writes by itself, another one at every call.
pub fn canary_text() -> String {
    format!("{CANARY_PREFIX}{:016x}~", rand::random::<u64>())
}

/// A payload of exactly this many bytes, all of it canaries, so that every packet holds one.
pub fn canary_payload(length: usize) -> Vec<u8> {
    let text = canary_text();
    text.bytes().cycle().take(length).collect()
}

fn record(
    tap: &tap::Tap,
    place: &str,
    enrolled: &Mutex<HashSet<IpAddr>>,
    stop: &std::sync::atomic::AtomicBool,
) -> Result<Report> {
    let mut judge = Judge::new(place);
    let mut buffer = vec![0; tap::SNAP_LENGTH];
    let mut packets = 0;
    loop {
        match tap.read(&mut buffer)? {
            Some(length) => {
                packets += 1;
                let enrolled = enrolled.lock().expect("no reader panics");
                judge.packet(&buffer[..length], &enrolled);
            }
            // Only an empty queue ends a recording: what came before the stop is judged.
            None if stop.load(std::sync::atomic::Ordering::Acquire) => break,
            None => tap.wait(STOP_INTERVAL_MS)?,
        }
    }
    Ok(judge.report(packets, tap.dropped()?))
}
