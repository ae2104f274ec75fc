//! Mesh settings as users write them: ConfigMap `weft`, key `mesh`; the same words in the Helm value `mesh` and a lab's `settings`.
//!
//! Field names are those of Istio's MeshConfig where it has them.

use ipnet::IpNet;
use serde::Deserialize;
use weft_types::{MeshSettings, OutboundMode, TrustDomain};

use crate::decode::{FieldError, decode};
use crate::error::ParseError;
use crate::names::is_dns_label;
use crate::value::GoDuration;
use crate::yaml::read;

/// The settings: the part for node proxies, and the part for the controller alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshConfig {
    /// What node proxies act on.
    pub node: MeshSettings,
    /// Where missing cluster IPs come from, at most one block for each family (standalone).
    pub service_cidrs: Vec<IpNet>,
    /// Read Istio's labels as well.
    pub istio_labels: bool,
    /// Namespace whose policies are about the whole mesh.
    pub root_namespace: String,
}

/// The name of the one ConfigMap that is read.
pub const SETTINGS_CONFIG_MAP: &str = "weft";

/// Kubernetes' customary blocks for services.
const DEFAULT_SERVICE_CIDRS: &str = "10.96.0.0/16,fd00:10:96::/112";
const DEFAULT_ROOT_NAMESPACE: &str = "weft-system";

/// Certificates live from a minute, below which rotation could not keep up, to a year, above which a stolen one is no longer short-lived.
const CERTIFICATE_TTL_SECONDS: std::ops::RangeInclusive<u64> = 60..=365 * 24 * 3600;
/// A block for each node of a cluster that gives every node its own; every connection to an unknown address walks them.
const POD_CIDRS_MAX: usize = 1024;
/// A day: longer than any deployment waits.
const DRAIN_LIMIT_SECONDS_MAX: u64 = 24 * 3600;

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            node: MeshSettings::default(),
            service_cidrs: cidrs(DEFAULT_SERVICE_CIDRS).expect("a legal literal"),
            istio_labels: true,
            root_namespace: DEFAULT_ROOT_NAMESPACE.to_owned(),
        }
    }
}

/// Reads settings; empty text is the defaults.
pub fn parse_mesh_config(text: &str) -> Result<MeshConfig, Vec<ParseError>> {
    let documents = read(text).map_err(|error| vec![error])?;
    let node = match documents.as_slice() {
        [] => return Ok(MeshConfig::default()),
        [node] => node,
        [_, second, ..] => {
            let message = "mesh settings are one document".to_owned();
            return Err(vec![error(second.line, "", message)]);
        }
    };
    let unlocated = |problem: FieldError| error(problem.line, &problem.field, problem.message);
    let file: File = decode(node)
        .map_err(|problems: Vec<_>| problems.into_iter().map(unlocated).collect::<Vec<_>>())?;
    let mut problems = Vec::new();
    let config = file.into_config(&mut |field, message| {
        problems.push(error(node.line_of(field), field, message));
    });
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(problems)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    trust_domain: Option<String>,
    outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    drain_limit: Option<GoDuration>,
    require_wire_mtls: Option<bool>,
    certificate_ttl: Option<GoDuration>,
    access_log_file: Option<String>,
    access_log_encoding: Option<AccessLogEncoding>,
    service_cidr: Option<String>,
    pod_cidrs: Option<Vec<String>>,
    istio_labels: Option<bool>,
    root_namespace: Option<String>,
}

#[derive(Debug, Deserialize)]
struct OutboundTrafficPolicy {
    mode: OutboundTrafficMode,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum OutboundTrafficMode {
    AllowAny,
    RegistryOnly,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum AccessLogEncoding {
    Text,
    Json,
}

impl File {
    fn into_config(self, problem: &mut dyn FnMut(&str, String)) -> MeshConfig {
        let mut config = MeshConfig::default();
        if let Some(text) = self.trust_domain {
            match TrustDomain::new(&text) {
                Ok(domain) => config.node.trust_domain = domain,
                Err(error) => problem("trustDomain", error.to_string()),
            }
        }
        if let Some(policy) = self.outbound_traffic_policy {
            config.node.outbound = match policy.mode {
                OutboundTrafficMode::AllowAny => OutboundMode::AllowAny,
                OutboundTrafficMode::RegistryOnly => OutboundMode::RegistryOnly,
            };
        }
        if let Some(GoDuration(limit)) = self.drain_limit {
            if limit.as_secs() > DRAIN_LIMIT_SECONDS_MAX {
                problem("drainLimit", "must be at most 24h".to_owned());
            }
            config.node.drain_limit = limit;
        }
        if let Some(GoDuration(ttl)) = self.certificate_ttl {
            if !CERTIFICATE_TTL_SECONDS.contains(&ttl.as_secs()) {
                problem("certificateTtl", "must be from 1m to 8760h".to_owned());
            }
            config.node.certificate_ttl = ttl;
        }
        match self.access_log_file.as_deref() {
            None | Some("/dev/stdout" | "/dev/stderr") => {}
            Some("") => config.node.access_log = false,
            Some(other) => {
                let message = format!("{other:?}: use /dev/stdout, or \"\" for no access log");
                problem("accessLogFile", message);
            }
        }
        if let Some(encoding) = self.access_log_encoding {
            config.node.access_log_json = matches!(encoding, AccessLogEncoding::Json);
        }
        if let Some(required) = self.require_wire_mtls {
            config.node.require_wire_mtls = required;
        }
        if let Some(text) = self.service_cidr {
            match cidrs(&text) {
                Ok(blocks) => config.service_cidrs = blocks,
                Err(message) => problem("serviceCidr", message),
            }
        }
        if let Some(texts) = self.pod_cidrs {
            match pod_cidrs(&texts) {
                Ok(blocks) => config.node.pod_cidrs = blocks,
                Err(message) => problem("podCidrs", message),
            }
        }
        if let Some(read) = self.istio_labels {
            config.istio_labels = read;
        }
        if let Some(namespace) = self.root_namespace {
            if !is_dns_label(&namespace) {
                let message = format!("{namespace:?} is not a namespace's name");
                problem("rootNamespace", message);
            }
            config.root_namespace = namespace;
        }
        config
    }
}

/// One block, or one for each family with a comma between, as the API server's flag takes it.
fn cidrs(text: &str) -> Result<Vec<IpNet>, String> {
    let mut blocks: Vec<IpNet> = Vec::new();
    for part in text.split(',') {
        let part = part.trim();
        let block: IpNet = part
            .parse()
            .map_err(|_| format!("{part:?} is not an address block such as 10.96.0.0/16"))?;
        if blocks
            .iter()
            .any(|other| other.addr().is_ipv4() == block.addr().is_ipv4())
        {
            return Err("at most one block for each of IPv4 and IPv6".to_owned());
        }
        blocks.push(block.trunc());
    }
    Ok(blocks)
}

fn pod_cidrs(texts: &[String]) -> Result<Vec<IpNet>, String> {
    if texts.len() > POD_CIDRS_MAX {
        return Err(format!("at most {POD_CIDRS_MAX} blocks"));
    }
    let block = |text: &String| {
        let block: IpNet = text
            .parse()
            .map_err(|_| format!("{text:?} is not an address block such as 10.244.0.0/16"))?;
        if block.prefix_len() == 0 {
            return Err(format!(
                "{text:?} is every address: name the blocks that pods get theirs from"
            ));
        }
        Ok(block.trunc())
    };
    texts.iter().map(block).collect()
}

fn error(line: u64, field: &str, message: String) -> ParseError {
    ParseError {
        line,
        object: None,
        field: field.to_owned(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::{MeshConfig, parse_mesh_config};
    use weft_types::OutboundMode;

    #[test]
    fn nothing_written_is_the_default() {
        for text in ["", "{}", "# a comment\n"] {
            assert_eq!(parse_mesh_config(text).unwrap(), MeshConfig::default());
        }
    }

    #[test]
    fn every_setting_is_read() {
        let text = "
trustDomain: example.org
outboundTrafficPolicy: {mode: REGISTRY_ONLY}
drainLimit: 90s
requireWireMtls: true
certificateTtl: 12h
accessLogFile: ''
accessLogEncoding: JSON
serviceCidr: 10.1.0.0/16, fd00::/112
podCidrs: [10.244.1.7/16, 'fd00:244::/56']
istioLabels: false
rootNamespace: root
";
        let config = parse_mesh_config(text).unwrap();
        assert_eq!(config.node.trust_domain.as_str(), "example.org");
        assert_eq!(config.node.outbound, OutboundMode::RegistryOnly);
        assert_eq!(config.node.drain_limit.as_secs(), 90);
        assert!(config.node.require_wire_mtls && config.node.access_log_json);
        assert!(!config.node.access_log && !config.istio_labels);
        assert_eq!(config.node.certificate_ttl.as_secs(), 12 * 3600);
        assert_eq!(config.service_cidrs.len(), 2);
        assert_eq!(config.root_namespace, "root");
        let pods = ["10.244.0.0/16", "fd00:244::/56"].map(|text| text.parse().unwrap());
        assert_eq!(config.node.pod_cidrs, pods);
    }

    #[test]
    fn a_wrong_setting_is_refused_by_name_and_line() {
        let check = |text: &str, line: u64, field: &str| {
            let errors = parse_mesh_config(text).unwrap_err();
            let found = errors.iter().any(|e| e.line == line && e.field == field);
            assert!(found, "{text:?} gave {errors:?}");
        };
        check("trustDomains: x", 1, "trustDomains");
        check("trustDomain: Example", 1, "trustDomain");
        check(
            "\noutboundTrafficPolicy:\n  mode: ALLOW",
            3,
            "outboundTrafficPolicy.mode",
        );
        check("drainLimit: 5", 1, "drainLimit");
        check("drainLimit: 25h", 1, "drainLimit");
        check("certificateTtl: 1s", 1, "certificateTtl");
        check("serviceCidr: 10.0.0.0/8,10.1.0.0/16", 1, "serviceCidr");
        check("podCidrs: [10.0.0.0]", 1, "podCidrs");
        check("podCidrs: ['::/0']", 1, "podCidrs");
        check("podCidrs: 10.0.0.0/8", 1, "podCidrs");
        check("accessLogFile: /tmp/x", 1, "accessLogFile");
        check("rootNamespace: A_b", 1, "rootNamespace");
        check("extensionProviders: []", 1, "extensionProviders");
    }
}
