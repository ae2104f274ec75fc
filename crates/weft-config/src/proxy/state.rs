//! What a node proxy takes: workloads, services, policies, settings.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use weft_proto::convert::{MeshAddress, policy, settings};
use weft_proto::resource::{self, ADDRESS, AUTHORIZATION, SETTINGS, SETTINGS_NAME};
use weft_proto::wire::discovery::Resource;
use weft_proto::{Any, ConvertError, Problem, wire};
use weft_types::{Action, AuthorizationPolicy, PolicyName, Rule, Scope, ServiceName, WorkloadUid};

use crate::client::{Image, Kind, State};
use crate::snapshot::{BrokenPolicy, Origin, PolicyEntry, Snapshot, SnapshotBuilder};

/// Policies before addresses: a workload whose policies have arrived is judged at once instead of held.
const KINDS: [Kind; 3] = [
    Kind {
        url: AUTHORIZATION,
        required: true,
    },
    Kind {
        url: ADDRESS,
        required: true,
    },
    Kind {
        url: SETTINGS,
        required: false,
    },
];

pub(super) struct ProxyState {
    next: SnapshotBuilder,
    current: Arc<ArcSwap<Snapshot>>,
    publish: watch::Sender<u64>,
}

impl ProxyState {
    pub(super) fn new(
        cluster: &str,
        current: Arc<ArcSwap<Snapshot>>,
        publish: watch::Sender<u64>,
    ) -> Self {
        Self {
            next: SnapshotBuilder::from_snapshot(&Snapshot::empty(cluster)),
            current,
            publish,
        }
    }

    fn put_address(&mut self, resource: &Resource) -> Result<(), ConvertError> {
        let message = unpack(ADDRESS, resource)?;
        let address = MeshAddress::from_wire(&resource.name, &message)?;
        expect_name(resource, &address.resource_name())?;
        match address {
            MeshAddress::Workload(workload) => {
                self.next.put_workload(workload);
            }
            MeshAddress::Service(service) => {
                self.next.put_service(service);
            }
        }
        Ok(())
    }

    fn put_policy(&mut self, resource: &Resource) -> Result<(), ConvertError> {
        let message: wire::security::Authorization = match unpack(AUTHORIZATION, resource) {
            Ok(message) => message,
            Err(error) => {
                if let Ok(name) = resource.name.parse() {
                    self.put_broken(name, None, &error);
                }
                return Err(error);
            }
        };
        let named = PolicyName::new(message.namespace.as_str(), message.name.as_str());
        expect_name(resource, &named.to_string())?;
        match policy::from_wire(&message) {
            Ok(policy) => {
                self.next.put_policy(PolicyEntry::Good(Arc::new(policy)));
                Ok(())
            }
            Err(error) => {
                let refused = policy::refused(&message);
                if message.dry_run {
                    // Only ever reported: what cannot be judged has nothing to report.
                    let silent = AuthorizationPolicy {
                        rules: Vec::new(),
                        dry_run: true,
                        ..refused
                    };
                    self.next.put_policy(PolicyEntry::Good(Arc::new(silent)));
                } else {
                    self.put_broken(named, Some(refused.scope), &error);
                }
                Err(error)
            }
        }
    }

    /// What it applied to before, it still applies to: a change that is not understood may have been made to refuse.
    fn put_broken(&mut self, name: PolicyName, scope: Option<Scope>, error: &ConvertError) {
        let before = self.next.current().policy(&name).map(PolicyEntry::scope);
        let broken = BrokenPolicy {
            scope: scope.or(before).unwrap_or(Scope::Global),
            name,
            reason: error.to_string().into(),
        };
        self.next.put_policy(PolicyEntry::Broken(Arc::new(broken)));
    }

    fn put_settings(&mut self, resource: &Resource) -> Result<(), ConvertError> {
        expect_name(resource, SETTINGS_NAME)?;
        let message = unpack(SETTINGS, resource)?;
        self.next.set_settings(Some(settings::from_wire(&message)?));
        Ok(())
    }
}

impl State for ProxyState {
    type Image = Snapshot;
    const FILE: &str = "proxy.config";
    const ASKED: Option<&'static str> = Some(ADDRESS);

    fn kinds(&self) -> &'static [Kind] {
        &KINDS
    }

    fn put(&mut self, url: &str, resource: &Resource) -> Result<(), ConvertError> {
        match url {
            ADDRESS => self.put_address(resource),
            AUTHORIZATION => self.put_policy(resource),
            SETTINGS => self.put_settings(resource),
            _ => {
                let problem = Problem::WrongType(url.to_owned());
                Err(ConvertError::new(&resource.name, "type_url", problem))
            }
        }
    }

    fn remove(&mut self, url: &str, name: &str) {
        match url {
            ADDRESS => {
                let uid = WorkloadUid::from(name);
                if self.next.current().workload(&uid).is_some() {
                    self.next.remove_workload(&uid);
                } else if let Ok(service) = name.parse::<ServiceName>() {
                    self.next.remove_service(&service);
                }
            }
            AUTHORIZATION => {
                if let Ok(policy) = name.parse() {
                    self.next.remove_policy(&policy);
                }
            }
            SETTINGS if name == SETTINGS_NAME => {
                self.next.set_settings(None);
            }
            _ => {}
        }
    }

    fn publish(&mut self, origin: Origin) {
        self.next.set_origin(origin);
        let snapshot = self.next.build();
        let revision = snapshot.revision();
        self.current.store(Arc::new(snapshot));
        self.publish.send_replace(revision);
    }

    fn image(&self) -> Snapshot {
        self.next.build()
    }
}

impl Image for Snapshot {
    fn resources(&self) -> Box<dyn Iterator<Item = (&'static str, String, Any)> + '_> {
        let addresses = self
            .workloads()
            .map(|workload| MeshAddress::Workload((**workload).clone()))
            .chain(
                self.services()
                    .map(|service| MeshAddress::Service((**service).clone())),
            )
            .map(|address| {
                let message = resource::pack(ADDRESS, &address.to_wire());
                (ADDRESS, address.resource_name(), message)
            });
        let policies = self.policies().map(|(name, entry)| {
            let message = match entry {
                PolicyEntry::Good(policy) => policy::to_wire(policy, policy::FEATURE_LEVEL),
                PolicyEntry::Broken(broken) => {
                    policy::to_wire(&deny(broken), policy::FEATURE_LEVEL)
                }
            };
            let message = resource::pack(AUTHORIZATION, &message);
            (AUTHORIZATION, name.to_string(), message)
        });
        let settings = self.settings_known().then(|| {
            let message = resource::pack(SETTINGS, &settings::to_wire(self.settings()));
            (SETTINGS, SETTINGS_NAME.to_owned(), message)
        });
        Box::new(settings.into_iter().chain(policies).chain(addresses))
    }
}

/// A broken policy is kept by its effect; its version is empty, so the controller sends the real one again.
fn deny(broken: &BrokenPolicy) -> AuthorizationPolicy {
    AuthorizationPolicy {
        name: broken.name.clone(),
        scope: broken.scope,
        action: Action::Deny,
        rules: vec![Rule::default()],
        dry_run: false,
    }
}

fn unpack<M: weft_proto::Message + Default>(
    url: &str,
    resource: &Resource,
) -> Result<M, ConvertError> {
    let missing = || ConvertError::new(&resource.name, "resource", Problem::Missing);
    let any = resource.resource.as_ref().ok_or_else(missing)?;
    resource::unpack(url, &resource.name, any)
}

/// A resource is removed by its name, so one whose content is called differently could never be removed.
fn expect_name(resource: &Resource, name: &str) -> Result<(), ConvertError> {
    if resource.name == name {
        return Ok(());
    }
    let problem = Problem::Name(format!("{} (content says {name})", resource.name));
    Err(ConvertError::new(&resource.name, "name", problem))
}
