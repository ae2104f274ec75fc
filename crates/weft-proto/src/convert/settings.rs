//! `weft.mesh.v1.Settings`.

use weft_types::{MeshSettings, OutboundMode};

use crate::convert::field::{self, Resource};
use crate::error::ConvertError;
use crate::resource::SETTINGS_NAME;
use crate::wire::mesh as wire;

/// Reads the settings.
pub fn from_wire(message: &wire::Settings) -> Result<MeshSettings, ConvertError> {
    let resource = Resource(SETTINGS_NAME);
    Ok(MeshSettings {
        trust_domain: resource.trust_domain("trust_domain", &message.trust_domain)?,
        outbound: match resource.enumeration("outbound", message.outbound)? {
            wire::OutboundMode::AllowAny => OutboundMode::AllowAny,
            wire::OutboundMode::RegistryOnly => OutboundMode::RegistryOnly,
        },
        drain_limit: resource.duration("drain_limit", message.drain_limit.as_ref())?,
        require_wire_mtls: message.require_wire_mtls,
        certificate_ttl: resource.duration("certificate_ttl", message.certificate_ttl.as_ref())?,
        access_log_json: message.access_log_json,
        access_log: message.access_log,
        cluster: resource.not_empty("cluster", &message.cluster)?.to_owned(),
        pod_cidrs: message
            .pod_cidrs
            .iter()
            .map(|text| resource.cidr("pod_cidrs", text))
            .collect::<Result<_, _>>()?,
    })
}

/// Writes the settings.
pub fn to_wire(settings: &MeshSettings) -> wire::Settings {
    let outbound = match settings.outbound {
        OutboundMode::AllowAny => wire::OutboundMode::AllowAny,
        OutboundMode::RegistryOnly => wire::OutboundMode::RegistryOnly,
    };
    wire::Settings {
        trust_domain: settings.trust_domain.to_string(),
        outbound: outbound.into(),
        drain_limit: Some(field::duration(settings.drain_limit)),
        require_wire_mtls: settings.require_wire_mtls,
        certificate_ttl: Some(field::duration(settings.certificate_ttl)),
        access_log: settings.access_log,
        access_log_json: settings.access_log_json,
        cluster: settings.cluster.clone(),
        pod_cidrs: settings.pod_cidrs.iter().map(ToString::to_string).collect(),
    }
}
