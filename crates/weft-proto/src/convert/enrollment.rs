//! `weft.node.v1.Enrollment`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use weft_types::{DataplaneMode, Enrollment};

use crate::convert::field::{self, Resource};
use crate::error::ConvertError;
use crate::wire::node as wire;

/// Reads an enrolment.
pub fn from_wire(message: &wire::Enrollment) -> Result<Enrollment, ConvertError> {
    let resource = Resource(&message.uid);
    let mut addresses = Vec::with_capacity(message.addresses.len());
    for bytes in &message.addresses {
        addresses.push(resource.address("addresses", bytes)?);
    }
    let text = |field, text| resource.not_empty(field, text);
    Ok(Enrollment {
        uid: text("uid", &message.uid)?.into(),
        name: text("name", &message.name)?.into(),
        namespace: text("namespace", &message.namespace)?.into(),
        service_account: text("service_account", &message.service_account)?.into(),
        mode: match resource.enumeration("mode", message.mode)? {
            wire::DataplaneMode::None => DataplaneMode::None,
            wire::DataplaneMode::Ambient => DataplaneMode::Ambient,
        },
        terminating: message.terminating,
        addresses,
        netns: path(&message.netns),
    })
}

/// Writes an enrolment.
pub fn to_wire(enrollment: &Enrollment) -> wire::Enrollment {
    let mode = match enrollment.mode {
        DataplaneMode::None => wire::DataplaneMode::None,
        DataplaneMode::Ambient => wire::DataplaneMode::Ambient,
    };
    wire::Enrollment {
        uid: enrollment.uid.to_string(),
        name: enrollment.name.to_string(),
        namespace: enrollment.namespace.to_string(),
        service_account: enrollment.service_account.to_string(),
        mode: mode.into(),
        terminating: enrollment.terminating,
        addresses: enrollment
            .addresses
            .iter()
            .map(|address| field::address_bytes(*address))
            .collect(),
        netns: enrollment
            .netns
            .as_deref()
            .map(|netns: &Path| netns.as_os_str().as_bytes().to_vec())
            .unwrap_or_default(),
    }
}

fn path(bytes: &[u8]) -> Option<PathBuf> {
    (!bytes.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(bytes)))
}
