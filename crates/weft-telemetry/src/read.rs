//! Values that live elsewhere and are read when they are scraped: families with one label.
//!
//! In: a closure that reads them. Out: counters or gauges of one name.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::registry::Metrics;

type Read = dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync;

/// A name and what it means.
#[derive(Clone, Copy, Debug)]
pub struct FamilyName {
    /// Name; counters without the `_total` that they get.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// The label that tells the values apart.
    pub label: &'static str,
}

struct Family {
    name: FamilyName,
    kind: MetricType,
    read: Box<Read>,
}

impl Metrics {
    /// Counters, by the value of the label.
    pub fn read_counters(
        &mut self,
        name: FamilyName,
        read: impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static,
    ) {
        self.read(name, MetricType::Counter, Box::new(read));
    }

    /// Gauges, by the value of the label.
    pub fn read_gauges(
        &mut self,
        name: FamilyName,
        read: impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static,
    ) {
        self.read(name, MetricType::Gauge, Box::new(read));
    }

    /// `weft_limit_reached_total{limit}`: how often something was refused or shed, by the limit's name.
    pub fn read_limits(
        &mut self,
        read: impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static,
    ) {
        let name = FamilyName {
            name: "weft_limit_reached",
            help: "Things refused or shed because a limit was reached",
            label: "limit",
        };
        self.read_counters(name, read);
    }

    /// `weft_tasks`, which shows what is left behind.
    pub fn read_tasks(&mut self, live: impl Fn() -> usize + Send + Sync + 'static) {
        self.registry()
            .register_collector(Box::new(Tasks(Box::new(live))));
    }

    fn read(&mut self, name: FamilyName, kind: MetricType, read: Box<Read>) {
        let family = Family { name, kind, read };
        self.registry().register_collector(Box::new(family));
    }
}

struct Tasks(Box<dyn Fn() -> usize + Send + Sync>);

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tasks")
    }
}

impl Collector for Tasks {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Tasks that have not ended, of connections and others";
        encoder
            .encode_descriptor("weft_tasks", help, None, MetricType::Gauge)?
            .encode_gauge(&(self.0() as u64))
    }
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

impl Collector for Family {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let FamilyName { name, help, label } = self.name;
        let mut metric = encoder.encode_descriptor(name, help, None, self.kind)?;
        for (value, count) in (self.read)() {
            let labels = [(label, value)];
            let mut one = metric.encode_family(&labels)?;
            match self.kind {
                MetricType::Gauge => one.encode_gauge(&count)?,
                _ => one.encode_counter::<NoLabelSet, u64, u64>(&count, None)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::FamilyName;
    use crate::registry::Metrics;

    #[test]
    fn values_are_read_at_every_scrape() {
        let mut metrics = Metrics::new("test", "1");
        let name = |name| FamilyName {
            name,
            help: "Some",
            label: "state",
        };
        metrics.read_counters(name("weft_some"), || vec![("a", 1), ("b", 2)]);
        metrics.read_gauges(name("weft_others"), || vec![("c", 3)]);
        let text = metrics.encode();
        for line in [
            "# TYPE weft_some counter",
            "weft_some_total{state=\"b\"} 2",
            "weft_others{state=\"c\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
