//! One pod: captured, changed, leaving, released.
//!
//! The pod's folder among the pins is the journal: made before anything of the pod, removed after everything of it,
//! so that whatever a crash leaves is found and finished.

use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{fstat, stat};
use weft_bpf::{
    AttachType, BpfError, UpdateMode, link_create, link_netns_inode, link_update, object_get,
    object_pin,
};
use weft_ebpf_abi::{
    Ip16, ListenerKey, ListenerKind, PodAddressKey, PodValue, map_names, pod_flags, program_names,
};

use super::error::CaptureError;
use super::generation::{detach, drain, wait_for_running_programs};
use super::maps::named;
use super::object::Steering;
use super::{Capture, PodCapture, object};

impl Capture {
    pub(crate) fn put_pod(&self, pod: &PodCapture<'_>) -> Result<(), CaptureError> {
        let value = pod_value(pod)?;
        for (cookie, known) in self.maps.pods()? {
            if cookie == pod.cookie && known.pod_id != pod.pod_id {
                // The namespace was enrolled under another id: two lookups in it would contend.
                self.remove_pod(known.pod_id)?;
            } else if cookie != pod.cookie && known.pod_id == pod.pod_id {
                // The id was another pod's, which is gone.
                self.remove_pod(known.pod_id)?;
            }
        }
        let before = self
            .maps
            .pods
            .lookup(&pod.cookie)
            .map_err(named(map_names::PODS))?;
        let put = self.put_parts(pod, &value, before);
        if put.is_err() && before.is_none() {
            // Half a pod is none. A failure here adds nothing to what is reported: the next sync finds the folder.
            let _ = self.remove_pod(pod.pod_id);
        }
        put
    }

    /// Readers before writers: the first captured connect finds everything in place. The pod itself is known before its lookup
    /// hands the first connection to the proxy, which cannot deliver to an application of a pod that the hooks do not know.
    fn put_parts(
        &self,
        pod: &PodCapture<'_>,
        value: &PodValue,
        before: Option<PodValue>,
    ) -> Result<(), CaptureError> {
        self.pins.make_pod(pod.pod_id)?;
        if before.is_none() {
            let mut coming = *value;
            coming.flags |= pod_flags::DRAINING;
            let put = self.maps.pods.update(&pod.cookie, &coming, UpdateMode::Any);
            put.map_err(named(map_names::PODS))?;
        }
        let addresses: Vec<Ip16> = pod.addresses.iter().copied().map(Ip16::from).collect();
        for ip in &addresses {
            let key = PodAddressKey {
                pod_id: pod.pod_id,
                ip: *ip,
            };
            let put = self.maps.pod_addresses.update(&key, &1, UpdateMode::Any);
            put.map_err(named(map_names::POD_ADDRESSES))?;
        }
        for (kind, socket) in &pod.listeners {
            let put = self
                .maps
                .listeners
                .insert(ListenerKey::new(pod.pod_id, *kind), *socket);
            put.map_err(named(map_names::LISTENERS))?;
        }
        let stays = before.is_some_and(|before| before.flags & pod_flags::DRAINING != 0);
        self.put_lookup(pod, stays)?;
        let put = self.maps.pods.update(&pod.cookie, value, UpdateMode::Any);
        put.map_err(named(map_names::PODS))?;
        self.remove_addresses(pod.pod_id, &addresses)
    }

    /// `stays`: the pod was leaving, so the lookup that is there steers tunnels only.
    fn put_lookup(&self, pod: &PodCapture<'_>, stays: bool) -> Result<(), CaptureError> {
        let failed = |source: BpfError| CaptureError::Attach {
            program: program_names::LOOKUP,
            source,
        };
        let pin = self.pins.lookup(pod.pod_id);
        let inode = fstat(pod.netns).map_or(0, |stat| stat.st_ino as u32);
        if let Ok(link) = object_get(&pin) {
            if link_netns_inode(link.as_fd()).map_err(failed)? == inode {
                if stays {
                    let program = object::load_lookup(&self.pins, pod.pod_id, Steering::All)?;
                    link_update(link.as_fd(), program.as_fd()).map_err(failed)?;
                }
                return Ok(());
            }
            detach(&pin)?;
        }
        let program = object::load_lookup(&self.pins, pod.pod_id, Steering::All)?;
        let link = link_create(program.as_fd(), pod.netns, AttachType::SkLookup).map_err(failed)?;
        object_pin(link.as_fd(), &pin).map_err(failed)
    }

    /// Puts this release's lookup in the place of the one that runs in a pod. One that leaves goes on leaving.
    pub(crate) fn renew_lookup(&self, pod_id: u32) -> Result<(), CaptureError> {
        let pods = self.maps.pods()?;
        let leaves = pods
            .iter()
            .any(|(_, pod)| pod.pod_id == pod_id && pod.flags & pod_flags::DRAINING != 0);
        self.steer(
            pod_id,
            if leaves {
                Steering::TunnelsOnly
            } else {
                Steering::All
            },
        )
    }

    /// Lets a pod go as far as its peers cannot notice: it captures nothing more and its applications are reached directly,
    /// but tunnels still go to the proxy.
    pub(crate) fn loosen_pod(&self, pod_id: u32) -> Result<(), CaptureError> {
        // What comes in first: a peer that has heard already speaks plainly.
        if self.has_namespace(pod_id) {
            self.steer(pod_id, Steering::TunnelsOnly)?;
        }
        self.end_captures(pod_id, &self.maps.cookies_of(pod_id)?)
    }

    fn steer(&self, pod_id: u32, steering: Steering) -> Result<(), CaptureError> {
        let failed = |source: BpfError| CaptureError::Attach {
            program: program_names::LOOKUP,
            source,
        };
        let link = object_get(&self.pins.lookup(pod_id)).map_err(failed)?;
        if link_netns_inode(link.as_fd()).map_err(failed)? == 0 {
            return self.remove_pod(pod_id);
        }
        let program = object::load_lookup(&self.pins, pod_id, steering)?;
        match link_update(link.as_fd(), program.as_fd()) {
            // The namespace went since we looked.
            Err(error) if error.errno() == Some(libc::ENOLINK) => self.remove_pod(pod_id),
            other => other.map_err(failed),
        }
    }

    /// Finishes what a crash left: pods that have a folder and no lookup, and pods without folder.
    pub(crate) fn finish_removals(&self) -> Result<(), CaptureError> {
        let folders = self.pins.pods()?;
        for pod_id in &folders {
            if !self.pins.lookup(*pod_id).exists() {
                self.remove_pod(*pod_id)?;
            }
        }
        for (_, pod) in self.maps.pods()? {
            if !folders.contains(&pod.pod_id) {
                self.remove_pod(pod.pod_id)?;
            }
        }
        Ok(())
    }

    /// Writers before readers: no new capture, then the end of those in flight, then the rest.
    pub(crate) fn remove_pod(&self, pod_id: u32) -> Result<(), CaptureError> {
        let is_there = self.has_namespace(pod_id);
        let cookies = self.maps.cookies_of(pod_id)?;
        self.end_captures(pod_id, &cookies)?;
        for cookie in &cookies {
            self.maps
                .pods
                .delete(cookie)
                .map_err(named(map_names::PODS))?;
        }
        // Before its listeners, without which it drops what comes in: plain networking is not refused.
        detach(&self.pins.lookup(pod_id))?;
        if is_there {
            wait_for_running_programs();
        }
        for kind in ListenerKind::ALL {
            let removed = self.maps.listeners.remove(ListenerKey::new(pod_id, kind));
            removed.map_err(named(map_names::LISTENERS))?;
        }
        self.remove_addresses(pod_id, &[])?;
        self.remove_flows(pod_id)?;
        self.pins.remove_pod(pod_id)
    }

    /// No new capture, then the end of those in flight.
    fn end_captures(&self, pod_id: u32, cookies: &[u64]) -> Result<(), CaptureError> {
        for cookie in cookies {
            self.stop_captures(*cookie)?;
        }
        if !cookies.is_empty() && self.has_namespace(pod_id) {
            wait_for_running_programs();
            drain(|| {
                self.captures_of(pod_id)
                    .is_ok_and(|captures| captures.is_empty())
            });
        }
        Ok(())
    }

    fn stop_captures(&self, cookie: u64) -> Result<(), CaptureError> {
        let Some(mut pod) = self
            .maps
            .pods
            .lookup(&cookie)
            .map_err(named(map_names::PODS))?
        else {
            return Ok(());
        };
        pod.flags |= pod_flags::DRAINING;
        self.maps
            .pods
            .update(&cookie, &pod, UpdateMode::Any)
            .map_err(named(map_names::PODS))
    }

    fn has_namespace(&self, pod_id: u32) -> bool {
        object_get(&self.pins.lookup(pod_id))
            .and_then(|link| link_netns_inode(link.as_fd()))
            .is_ok_and(|inode| inode != 0)
    }

    fn captures_of(&self, pod_id: u32) -> Result<Vec<weft_ebpf_abi::CaptureKey>, CaptureError> {
        let keys = self
            .maps
            .captures
            .keys()
            .map_err(named(map_names::CAPTURES))?;
        Ok(keys
            .into_iter()
            .filter(|key| key.pod_id == pod_id)
            .collect())
    }

    /// Removes what is in flight for a pod whose programs are gone.
    fn remove_flows(&self, pod_id: u32) -> Result<(), CaptureError> {
        for key in self.captures_of(pod_id)? {
            self.maps
                .captures
                .delete(&key)
                .map_err(named(map_names::CAPTURES))?;
        }
        for key in self
            .maps
            .clients
            .keys()
            .map_err(named(map_names::CLIENTS))?
        {
            if key.pod_id == pod_id {
                self.maps
                    .clients
                    .delete(&key)
                    .map_err(named(map_names::CLIENTS))?;
            }
        }
        for key in self.maps.grants.keys().map_err(named(map_names::GRANTS))? {
            if key.pod_id == pod_id {
                self.maps
                    .grants
                    .delete(&key)
                    .map_err(named(map_names::GRANTS))?;
            }
        }
        Ok(())
    }

    fn remove_addresses(&self, pod_id: u32, keep: &[Ip16]) -> Result<(), CaptureError> {
        for key in self
            .maps
            .pod_addresses
            .keys()
            .map_err(named(map_names::POD_ADDRESSES))?
        {
            if key.pod_id == pod_id && !keep.contains(&key.ip) {
                let removed = self.maps.pod_addresses.delete(&key);
                removed.map_err(named(map_names::POD_ADDRESSES))?;
            }
        }
        Ok(())
    }
}

/// What the hooks know of a pod. Refuses descriptions that would capture without being able to serve.
fn pod_value(pod: &PodCapture<'_>) -> Result<PodValue, CaptureError> {
    let refuse = |reason| {
        Err(CaptureError::Pod {
            pod_id: pod.pod_id,
            reason,
        })
    };
    if pod.pod_id == 0 || pod.cookie == 0 {
        return refuse("id and namespace cookie must not be 0");
    }
    if is_own_namespace(pod.netns) {
        return refuse("it shares the node's network namespace, whose traffic is never captured");
    }
    for kind in ListenerKind::ALL {
        if !pod.listeners.iter().any(|(given, _)| *given == kind) {
            return refuse("a listener is missing, it needs outbound, inbound and HBONE");
        }
    }
    if pod.local_ports.0 > pod.local_ports.1 {
        return refuse("its local port range ends before it begins");
    }
    let first = |is_family: fn(&IpAddr) -> bool| {
        pod.addresses
            .iter()
            .find(|ip| is_family(ip) && is_global(ip))
            .copied()
            .map(Ip16::from)
    };
    let v4 = first(IpAddr::is_ipv4).unwrap_or_default();
    let v6 = first(IpAddr::is_ipv6).unwrap_or_default();
    if v4.is_empty() && v6.is_empty() {
        return refuse("it has no address but loopback and link-local ones");
    }
    let more = pod.addresses.iter().any(|ip| {
        let ip16 = Ip16::from(*ip);
        !ip.is_loopback() && ip16 != v4 && ip16 != v6
    });
    Ok(PodValue {
        pod_id: pod.pod_id,
        flags: if more { pod_flags::MORE_ADDRESSES } else { 0 },
        v4,
        v6,
        local_ports_min: pod.local_ports.0,
        local_ports_max: pod.local_ports.1,
        pad: 0,
    })
}

fn is_own_namespace(netns: BorrowedFd<'_>) -> bool {
    match (fstat(netns), stat("/proc/thread-self/ns/net")) {
        (Ok(its), Ok(own)) => (its.st_dev, its.st_ino) == (own.st_dev, own.st_ino),
        _ => false,
    }
}

/// Whether an address can stand for the pod: a link-local one needs a scope, which the hook cannot give.
fn is_global(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
    }
}
