//! `process_*` metrics in the names that every Prometheus client library uses, read from `/proc/self` at scrape time.
//!
//! A value that cannot be read is left out rather than shown as 0.

use std::fmt::Error;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Unit of the times in `/proc/self/stat`: USER_HZ is 100 on every architecture that Linux shows to user space.
const TICKS_PER_SECOND: f64 = 100.0;
/// Unit of `/proc/self/statm`; read from the auxiliary vector it would be exact on kernels with other pages.
const PAGE_BYTES: u64 = 4096;

/// Reads `/proc/self` at every scrape.
#[derive(Debug)]
pub struct ProcessMetrics;

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        let mut gauge = |name: &str, help: &str, value: Option<f64>| {
            let Some(value) = value else { return Ok(()) };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        gauge("process_open_fds", "Open file descriptors", open_fds())?;
        gauge(
            "process_max_fds",
            "Limit of open file descriptors",
            max_fds(),
        )?;
        gauge(
            "process_resident_memory_bytes",
            "Resident memory",
            resident_bytes(),
        )?;
        gauge(
            "process_start_time_seconds",
            "Start of the process since the epoch",
            start_seconds(),
        )?;
        if let Some(seconds) = cpu_seconds() {
            let counter = ConstCounter::new(seconds);
            let metric = encoder.encode_descriptor(
                "process_cpu_seconds",
                "User and system CPU time",
                None,
                counter.metric_type(),
            )?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of descriptors and bytes stay far below 2^52"
)]
fn as_float(value: u64) -> f64 {
    value as f64
}

/// Since Linux 6.2 the size of `/proc/self/fd` is the count; before, it is 0 and the entries are counted.
fn open_fds() -> Option<f64> {
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    let count = match size {
        0 => fs::read_dir("/proc/self/fd").ok()?.count() as u64,
        size => size,
    };
    Some(as_float(count))
}

fn max_fds() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|l| l.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

fn resident_bytes() -> Option<f64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(as_float(pages * PAGE_BYTES))
}

/// Field `number` (1-based, as in proc_pid_stat(5)) of `/proc/self/stat`, counted behind the name, which may hold spaces.
fn stat_field(number: usize) -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(number - 3)?.parse().ok()
}

fn cpu_seconds() -> Option<f64> {
    Some((stat_field(14)? + stat_field(15)?) / TICKS_PER_SECOND)
}

fn start_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    Some(boot + stat_field(22)? / TICKS_PER_SECOND)
}
