//! What the admin socket and the metrics (`metrics`) show.
//!
//! In: the roster, the maps, the connection to the controller. Out: one picture, JSON.
//! Not here: the servers.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use weft_config::{ConfigStatus, Connection};
use weft_node_api::RefusedSet;

use crate::refusals::Refusals;
use crate::roster::{Pod, Roster, State};

/// One pod as `/pods` lists it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PodView {
    uid: String,
    namespace: String,
    name: String,
    service_account: String,
    id: u32,
    /// `enrolled`, `holding` or `waiting`.
    pub(crate) state: &'static str,
    /// What is missing, while it waits.
    reason: Option<String>,
    netns: Option<String>,
    netns_cookie: Option<u64>,
    addresses: Vec<String>,
    terminating: bool,
}

/// Everything, as one immutable picture.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct View {
    /// The controller has been heard, or the last state was on disk, and it has been carried out once.
    pub(crate) complete: bool,
    /// The pods.
    pub(crate) pods: Vec<PodView>,
    /// Counters of the eBPF programs, by name.
    pub(crate) counters: Vec<(&'static str, u64)>,
    /// Destinations whose connects fail at once, and how many more should.
    pub(crate) refusals: RefusalsView,
}

/// Early refusals as `/refusals` lists them.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct RefusalsView {
    /// Address and port, 0 for all ports.
    in_force: RefusedSet,
    /// There was no room for these.
    omitted: usize,
}

impl View {
    /// A picture of the roster.
    pub(crate) fn of(
        roster: &Roster,
        complete: bool,
        counters: Vec<(&'static str, u64)>,
        refusals: &Refusals,
    ) -> Self {
        Self {
            complete,
            pods: roster.pods().values().map(PodView::of).collect(),
            counters,
            refusals: RefusalsView {
                in_force: refusals.in_force().clone(),
                omitted: refusals.omitted(),
            },
        }
    }

    /// How many pods are in each state.
    pub(crate) fn pods_by_state(&self) -> Vec<(&'static str, u64)> {
        ["enrolled", "holding", "waiting"]
            .map(|state| {
                let count = self.pods.iter().filter(|pod| pod.state == state).count();
                (state, count as u64)
            })
            .into()
    }

    /// How many destinations are refused early, and how many there is no room for.
    pub(crate) fn refusals_by_state(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("in_force", self.refusals.in_force.len() as u64),
            ("omitted", self.refusals.omitted as u64),
        ]
    }
}

/// The picture that was published last.
pub(crate) fn current(view: &Mutex<Arc<View>>) -> Arc<View> {
    view.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl PodView {
    fn of(pod: &Pod) -> Self {
        let enrollment = Arc::clone(&pod.enrollment);
        let (state, reason, facts) = match &pod.state {
            State::Waiting { reason, .. } => ("waiting", Some(reason.clone()), None),
            State::Holding => ("holding", None, None),
            State::Enrolled(facts) => ("enrolled", None, Some(facts)),
        };
        let addresses = facts.map_or(&enrollment.addresses, |facts| &facts.addresses);
        Self {
            uid: enrollment.uid.to_string(),
            namespace: enrollment.namespace.to_string(),
            name: enrollment.name.to_string(),
            service_account: enrollment.service_account.to_string(),
            id: pod.id,
            state,
            reason,
            netns: enrollment
                .netns
                .as_ref()
                .map(|path| path.display().to_string()),
            netns_cookie: facts.map(|facts| facts.netns_cookie),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            terminating: enrollment.terminating,
        }
    }
}

/// The connection to the controller as `/config_dump` shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ConfigView {
    connection: &'static str,
    last_error: Option<String>,
    streams: u64,
    nacks: u64,
    rejected: Vec<(String, String)>,
    disk_error: Option<String>,
}

impl From<ConfigStatus> for ConfigView {
    fn from(status: ConfigStatus) -> Self {
        Self {
            connection: match status.connection {
                Connection::Down => "down",
                Connection::Syncing => "syncing",
                Connection::Synced => "synced",
            },
            last_error: status.last_error,
            streams: status.streams,
            nacks: status.nacks,
            rejected: status.rejected.into_iter().collect(),
            disk_error: status.disk_error,
        }
    }
}
