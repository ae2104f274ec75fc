//! What people and scrapers see of the holder.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use weft_node_api::VERSION;
use weft_runtime::limits_text;

use super::Hold;
use crate::children::{Mode, Which};
use crate::limits;

/// The admin socket's answer.
#[derive(Debug, Serialize)]
pub(crate) struct View {
    version: &'static str,
    protocol: u32,
    pid: u32,
    /// Both programs run and are connected, the agent has named its pods, the proxy serves them.
    pub(crate) ready: bool,
    handing_over: bool,
    agent: ChildView,
    proxy: ChildView,
    stock: usize,
    pods: Vec<PodView>,
}

#[derive(Debug, Serialize)]
struct ChildView {
    pid: Option<i32>,
    restarts: u64,
    connected: bool,
    ready: bool,
}

#[derive(Debug, Serialize)]
struct PodView {
    uid: String,
    id: u32,
    namespace: String,
    name: String,
    generation: u64,
    netns: String,
    netns_cookie: u64,
    ipv6: bool,
    addresses: Vec<std::net::IpAddr>,
    listener_inode: u64,
    stock_v4: usize,
    stock_v6: usize,
}

/// Numbers for the metrics listener, which renders them without asking the holder's task.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    pods: AtomicU64,
    stock: AtomicU64,
    ready: AtomicU64,
    agent_restarts: AtomicU64,
    proxy_restarts: AtomicU64,
}

impl Hold {
    pub(super) fn view(&self) -> View {
        let child = |which, (connected, ready)| ChildView {
            pid: self.children.pid(which),
            restarts: self.children.restarts(which),
            connected,
            ready,
        };
        View {
            version: env!("CARGO_PKG_VERSION"),
            protocol: VERSION,
            pid: std::process::id(),
            ready: self.is_ready(),
            handing_over: self.children.mode(Which::Proxy) != Mode::Run,
            agent: child(Which::Agent, self.holder.agent_state()),
            proxy: child(Which::Proxy, self.holder.proxy_state()),
            stock: self.stock.total(),
            pods: self.pods_view(),
        }
    }

    pub(super) fn update_gauges(&self) {
        let set = |gauge: &AtomicU64, value| gauge.store(value, Ordering::Relaxed);
        set(&self.gauges.pods, self.holder.held().count() as u64);
        set(&self.gauges.stock, self.stock.total() as u64);
        set(&self.gauges.ready, u64::from(self.is_ready()));
        set(
            &self.gauges.agent_restarts,
            self.children.restarts(Which::Agent),
        );
        set(
            &self.gauges.proxy_restarts,
            self.children.restarts(Which::Proxy),
        );
    }

    fn is_ready(&self) -> bool {
        self.holder.agent_state() == (true, true) && self.holder.proxy_state() == (true, true)
    }

    fn pods_view(&self) -> Vec<PodView> {
        self.holder
            .held()
            .map(|held| {
                let (stock_v4, stock_v6) = self.stock.count(&held.spec.uid);
                PodView {
                    uid: held.spec.uid.to_string(),
                    id: held.spec.id,
                    namespace: held.spec.namespace.to_string(),
                    name: held.spec.name.to_string(),
                    generation: held.generation,
                    netns: held.spec.netns.display().to_string(),
                    netns_cookie: held.facts.netns_cookie,
                    ipv6: held.facts.ipv6,
                    addresses: held.facts.addresses.clone(),
                    listener_inode: held.facts.listener_inode,
                    stock_v4,
                    stock_v6,
                }
            })
            .collect()
    }
}

impl Gauges {
    /// Prometheus text format 0.0.4.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        for (name, kind, help, value) in [
            ("weft_node_pods", "gauge", "Pods that are held.", &self.pods),
            (
                "weft_node_stock_sockets",
                "gauge",
                "Sockets that wait for the proxy.",
                &self.stock,
            ),
            (
                "weft_node_ready",
                "gauge",
                "Whether agent and proxy serve.",
                &self.ready,
            ),
            (
                "weft_node_agent_restarts_total",
                "counter",
                "Starts of the agent after the first.",
                &self.agent_restarts,
            ),
            (
                "weft_node_proxy_restarts_total",
                "counter",
                "Starts of the proxy after the first.",
                &self.proxy_restarts,
            ),
        ] {
            let value = value.load(Ordering::Relaxed);
            let _ = write!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
            );
        }
        let tasks = weft_runtime::live_tasks();
        let _ = write!(
            text,
            "# HELP weft_tasks Tasks that have not ended.\n# TYPE weft_tasks gauge\nweft_tasks {tasks}\n"
        );
        text.push_str(&limits_text(&limits::ALL));
        text
    }
}
