//! Pods, services, endpoints, workload entries, the settings.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Problems;
use crate::labels;
use crate::mesh::{SETTINGS_CONFIG_MAP, parse_mesh_config};
use crate::networking::WorkloadEntry;
use crate::node::child_path;

const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
/// A day, Kubernetes' own limit of ClientIP affinity.
const AFFINITY_SECONDS_MAX: i32 = 86_400;

pub(super) fn pod(problems: &mut Problems, pod: &Pod) {
    if let Some(spec) = &pod.spec {
        if let Some(account) = &spec.service_account_name {
            problems.subdomain("spec.serviceAccountName", account);
        }
        if let Some(node) = &spec.node_name {
            problems.subdomain("spec.nodeName", node);
        }
        for (i, container) in spec.containers.iter().enumerate() {
            for (j, port) in container.ports.iter().flatten().enumerate() {
                let field = format!("spec.containers[{i}].ports[{j}]");
                problems.port(&format!("{field}.containerPort"), port.container_port);
                let protocol = port.protocol.as_deref();
                problems.word(&format!("{field}.protocol"), protocol, &PROTOCOLS);
            }
        }
    }
    let Some(status) = &pod.status else { return };
    let phases = ["Pending", "Running", "Succeeded", "Failed", "Unknown"];
    problems.word("status.phase", status.phase.as_deref(), &phases);
    if let Some(ip) = &status.pod_ip {
        problems.address("status.podIP", ip);
    }
    for (index, ip) in status.pod_ips.iter().flatten().enumerate() {
        problems.address(&format!("status.podIPs[{index}].ip"), &ip.ip);
    }
    for (index, condition) in status.conditions.iter().flatten().enumerate() {
        let field = format!("status.conditions[{index}].status");
        problems.word(
            &field,
            Some(&condition.status),
            &["True", "False", "Unknown"],
        );
    }
}

pub(super) fn service(problems: &mut Problems, service: &Service) {
    let Some(spec) = &service.spec else {
        problems.add("spec", "missing");
        return;
    };
    let types = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    problems.word("spec.type", spec.type_.as_deref(), &types);
    let families = ["IPv4", "IPv6"];
    for (index, family) in spec.ip_families.iter().flatten().enumerate() {
        problems.word(
            &format!("spec.ipFamilies[{index}]"),
            Some(family),
            &families,
        );
    }
    let policies = ["SingleStack", "PreferDualStack", "RequireDualStack"];
    problems.word(
        "spec.ipFamilyPolicy",
        spec.ip_family_policy.as_deref(),
        &policies,
    );
    let scopes = ["Cluster", "Local"];
    let internal = spec.internal_traffic_policy.as_deref();
    problems.word("spec.internalTrafficPolicy", internal, &scopes);
    let affinity = spec.session_affinity.as_deref();
    problems.word("spec.sessionAffinity", affinity, &["None", "ClientIP"]);
    let distributions = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    let distribution = spec.traffic_distribution.as_deref();
    problems.word("spec.trafficDistribution", distribution, &distributions);
    let timeout = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    if let Some(seconds) = timeout
        && !(1..=AFFINITY_SECONDS_MAX).contains(&seconds)
    {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        problems.add(
            field,
            format!("{seconds} is not from 1 to {AFFINITY_SECONDS_MAX}"),
        );
    }
    if let Some(ip) = spec.cluster_ip.as_deref()
        && !["", "None"].contains(&ip)
    {
        problems.address("spec.clusterIP", ip);
    }
    for (index, ip) in spec.cluster_ips.iter().flatten().enumerate() {
        if ip != "None" {
            problems.address(&format!("spec.clusterIPs[{index}]"), ip);
        }
    }
    service_ports(problems, service);
}

fn service_ports(problems: &mut Problems, service: &Service) {
    let ports = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten());
    let mut seen = Vec::new();
    for (index, port) in ports.enumerate() {
        let field = format!("spec.ports[{index}]");
        problems.port(&format!("{field}.port"), port.port);
        let protocol = port.protocol.as_deref();
        problems.word(&format!("{field}.protocol"), protocol, &PROTOCOLS);
        let number = (port.port, protocol.unwrap_or("TCP"));
        if seen.contains(&number) {
            problems.add(
                format!("{field}.port"),
                format!("port {} is there twice", port.port),
            );
        }
        seen.push(number);
        match &port.target_port {
            Some(IntOrString::Int(target)) => {
                problems.port(&format!("{field}.targetPort"), *target);
            }
            Some(IntOrString::String(name)) => {
                let field = format!("{field}.targetPort");
                problems.label(&field, name);
                if name.parse::<u16>().is_ok() {
                    problems.add(
                        field,
                        "a name needs a letter; write a number without quotes",
                    );
                }
            }
            None => {}
        }
    }
}

pub(super) fn endpoint_slice(problems: &mut Problems, slice: &EndpointSlice) {
    let kind = slice.address_type.as_str();
    problems.word("addressType", Some(kind), &["IPv4", "IPv6"]);
    let service = slice.metadata.labels.as_ref();
    if service.is_none_or(|labels| !labels.contains_key(labels::SERVICE_NAME)) {
        let field = child_path("metadata.labels", labels::SERVICE_NAME);
        problems.add(field, "missing: without it the slice belongs to no service");
    }
    for (i, endpoint) in slice.endpoints.iter().enumerate() {
        for (j, address) in endpoint.addresses.iter().enumerate() {
            let field = format!("endpoints[{i}].addresses[{j}]");
            match address.parse::<IpAddr>() {
                Ok(ip) if ip.is_ipv4() == (kind == "IPv4") => {}
                Ok(_) => problems.add(field, format!("{address} is not of family {kind}")),
                Err(_) => problems.address(&field, address),
            }
        }
    }
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        if let Some(number) = port.port {
            problems.port(&format!("ports[{index}].port"), number);
        }
        let protocol = port.protocol.as_deref();
        problems.word(&format!("ports[{index}].protocol"), protocol, &PROTOCOLS);
    }
}

pub(super) fn workload_entry(problems: &mut Problems, entry: &WorkloadEntry) {
    let account = &entry.spec.service_account;
    if !account.is_empty() {
        problems.subdomain("spec.serviceAccount", account);
    }
    if entry.spec.locality.split('/').count() > 3 {
        let message = "must be region, region/zone or region/zone/subzone";
        problems.add("spec.locality", message);
    }
}

pub(super) fn config_map(problems: &mut Problems, map: &ConfigMap) {
    let name = map.metadata.name.as_deref().unwrap_or_default();
    if name != SETTINGS_CONFIG_MAP {
        let message =
            format!("only the ConfigMap {SETTINGS_CONFIG_MAP:?} is read, remove {name:?}");
        problems.add("metadata.name", message);
        return;
    }
    for key in map.data.iter().flatten().map(|(key, _)| key) {
        if key != "mesh" {
            problems.add(
                child_path("data", key),
                "unknown key, the settings are under mesh",
            );
        }
    }
    let Some(text) = map.data.as_ref().and_then(|data| data.get("mesh")) else {
        problems.add("data.mesh", "missing");
        return;
    };
    for error in parse_mesh_config(text).err().into_iter().flatten() {
        problems.add("data.mesh", error.to_string());
    }
}
