//! Who had which address, on disk: a restart must not give it to somebody else.
//!
//! Two files in the state folder: what services were given (`cluster-ips.json`), and what services and workloads hold because they name it
//! (`address-holders.json`). A damaged file costs what it tells, and is told in the log.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::translate::{Holders, MemberKey, Translator, VirtualAddresses};

/// The files, and what was written to them last.
#[derive(Debug)]
pub(crate) struct Kept {
    cluster_ips: PathBuf,
    holders: PathBuf,
    /// As [`VirtualAddresses::changes`] counted then.
    changes: u64,
    contested: Holders,
}

/// Addresses by service.
type ClusterIps = BTreeMap<String, Vec<IpAddr>>;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct HoldersFile {
    services: BTreeMap<IpAddr, String>,
    /// Only those of addresses that several name: the others need no judge.
    workloads: Vec<HolderOfWorkload>,
}

#[derive(Debug, Serialize, Deserialize)]
struct HolderOfWorkload {
    network: String,
    address: IpAddr,
    /// `Pod namespace/name` or `WorkloadEntry namespace/name`.
    object: String,
}

impl Kept {
    /// Reads what an earlier run kept; nothing when there was none.
    pub(crate) fn load(folder: &Path) -> (Self, VirtualAddresses, Holders) {
        let this = Self {
            cluster_ips: folder.join("cluster-ips.json"),
            holders: folder.join("address-holders.json"),
            changes: 0,
            contested: Holders::new(),
        };
        let given: ClusterIps = read(&this.cluster_ips);
        let HoldersFile {
            services,
            workloads,
        } = read(&this.holders);
        let given = given.into_iter().flat_map(|(service, addresses)| {
            let addresses = addresses.into_iter();
            addresses.map(move |address| (service.clone(), address))
        });
        let held = services.into_iter().map(|(address, name)| (name, address));
        let holder = |of: HolderOfWorkload| {
            let member = MemberKey::of_object(&of.object)?;
            Some(((of.network, of.address), member))
        };
        let holders = workloads.into_iter().filter_map(holder).collect();
        let addresses = VirtualAddresses::from_entries(given, held);
        (this, addresses, holders)
    }

    /// Writes what is another than before. A failure is told in the log: the mesh goes on, only a restart may decide otherwise.
    pub(crate) fn store(&mut self, translator: &Translator) {
        let addresses = translator.virtual_addresses();
        let contested = translator.contested();
        if self.changes == addresses.changes() && self.contested == *contested {
            return;
        }
        if self.changes != addresses.changes() {
            let mut given = ClusterIps::new();
            for (service, address) in addresses.entries() {
                given.entry(service).or_default().push(address);
            }
            write(&self.cluster_ips, &given);
        }
        let services = addresses.held();
        let services = services.map(|(address, service)| (*address, service.to_string()));
        let workloads = contested.iter().filter_map(|((network, address), member)| {
            Some(HolderOfWorkload {
                network: network.clone(),
                address: *address,
                object: member.object()?.to_string(),
            })
        });
        let file = HoldersFile {
            services: services.collect(),
            workloads: workloads.collect(),
        };
        write(&self.holders, &file);
        self.changes = addresses.changes();
        self.contested.clone_from(contested);
    }
}

fn read<T: DeserializeOwned + Default>(file: &Path) -> T {
    let parsed = match std::fs::read(file) {
        Ok(text) => serde_json::from_slice(&text).map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return T::default(),
        Err(error) => Err(error),
    };
    parsed.unwrap_or_else(|error| {
        let file = file.display();
        tracing::warn!(%file, %error, "cannot read who had which address, some may get another; check the state folder");
        T::default()
    })
}

fn write<T: Serialize>(file: &Path, value: &T) {
    let beside = file.with_extension("new");
    let text = serde_json::to_vec_pretty(value).map_err(io::Error::from);
    let written = text
        .and_then(|text| std::fs::write(&beside, text))
        .and_then(|()| std::fs::rename(&beside, file));
    if let Err(error) = written {
        let file = file.display();
        tracing::warn!(%file, %error, "cannot keep who has which address, a restart may give others; check the state folder");
    }
}

#[cfg(test)]
mod tests {
    use super::Kept;
    use crate::index::{Changes, Index};
    use crate::source::Change;
    use crate::translate::Translator;

    fn pod(name: &str) -> String {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: n1}}, status: {{podIP: 10.0.0.1}}}}"
        )
    }

    fn service(name: &str) -> String {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{clusterIP: 10.1.0.1}}}}"
        )
    }

    fn put(index: &mut Index, text: &str) -> Changes {
        let parsed = weft_k8s_api::parse(text).unwrap();
        let documents = parsed.documents.into_iter();
        documents
            .map(|document| index.apply(Change::Put(document.object)))
            .collect()
    }

    #[test]
    fn whoever_had_an_address_has_it_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (mut kept, addresses, holders) = Kept::load(folder.path());
        let mut translator = Translator::new(addresses, holders, [].into());
        let mut index = Index::default();
        for text in [pod("z"), service("z"), pod("a"), service("a")] {
            let changes = put(&mut index, &text);
            translator.translate(&index, &changes);
        }
        let before = translator.translate(&index, &Changes::new()).clone();
        kept.store(&translator);
        let of = |name: &str| {
            let all = before.findings.iter();
            let mut about = all.filter(|(key, _)| key.name == name);
            (about.next().is_some(), about.next().is_some())
        };
        assert_eq!((of("a"), of("z")), ((true, true), (false, false)));

        let (_, addresses, holders) = Kept::load(folder.path());
        let mut restarted = Translator::new(addresses, holders, [].into());
        let after = restarted.translate(&index, &index.all());
        assert_eq!(*after, before);
        // Without what was kept, the first by name has it: the test would see a difference.
        let mut cold = Translator::default();
        assert_ne!(
            cold.translate(&index, &index.all()).findings,
            before.findings
        );
    }

    #[test]
    fn a_damaged_file_is_as_none() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["cluster-ips.json", "address-holders.json"] {
            std::fs::write(folder.path().join(file), "{").unwrap();
        }
        let (_, addresses, holders) = Kept::load(folder.path());
        assert_eq!((addresses.entries().count(), holders.len()), (0, 0));
    }
}
