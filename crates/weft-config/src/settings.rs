//! Where the controller is, how it is trusted, and who asks.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use thiserror::Error;
use tonic::transport::Uri;
use weft_types::NodeName;

/// Everything that a client of the control plane needs to know before it starts.
#[derive(Clone, Debug)]
pub struct ConfigSettings {
    /// `https://HOST:PORT`; the server's certificate must be valid for HOST.
    pub controller: String,
    /// PEM file with the roots that the server is verified against; a change of it takes effect without a restart.
    pub root_cert: PathBuf,
    /// File with the bearer token; read again for every stream, because projected tokens are replaced while we run.
    pub token: PathBuf,
    /// The node that this program runs on.
    pub node: NodeName,
    /// The cluster of that node: the first part of its pods' workload uids.
    pub cluster: String,
    /// Where the last good state is kept; None keeps none.
    pub state_dir: Option<PathBuf>,
    /// Name under which this program introduces itself (a pod name in Kubernetes).
    pub instance: String,
    /// Namespace under which this program introduces itself.
    pub namespace: String,
    /// Address under which this program introduces itself; servers use it for logs alone.
    pub address: IpAddr,
}

/// Settings that cannot work. The operator is to blame.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// The controller's address is not `https://HOST:PORT`.
    #[error("{0:?} is not a controller address: use https://HOST:PORT")]
    Controller(String),
    /// The node has no name.
    #[error("the node name is empty: set it to this node's name")]
    Node,
}

impl ConfigSettings {
    /// Settings with the customary cluster, namespace and instance, and no state folder.
    pub fn new(
        controller: impl Into<String>,
        root_cert: impl Into<PathBuf>,
        token: impl Into<PathBuf>,
        node: NodeName,
    ) -> Self {
        Self {
            controller: controller.into(),
            root_cert: root_cert.into(),
            token: token.into(),
            instance: format!("weft-{node}"),
            node,
            cluster: "Kubernetes".to_owned(),
            state_dir: None,
            namespace: "weft-system".to_owned(),
            address: Ipv4Addr::UNSPECIFIED.into(),
        }
    }

    /// Checks what can be checked without touching a file or the network.
    pub fn check(&self) -> Result<(), SettingsError> {
        self.endpoint().map(|_| ())
    }

    /// Parses the address, after the checks.
    pub(crate) fn endpoint(&self) -> Result<Uri, SettingsError> {
        if self.node.as_str().is_empty() {
            return Err(SettingsError::Node);
        }
        let wrong = || SettingsError::Controller(self.controller.clone());
        let uri: Uri = self.controller.parse().map_err(|_| wrong())?;
        // Plain HTTP would show the token to anyone on the way.
        let complete = uri.scheme_str() == Some("https") && uri.port().is_some();
        if complete { Ok(uri) } else { Err(wrong()) }
    }

    /// `ztunnel~IP~POD.NAMESPACE~NAMESPACE.svc.cluster.local`: istiod chooses what to send by the first word.
    pub(crate) fn node_id(&self) -> String {
        let (address, instance, namespace) = (self.address, &self.instance, &self.namespace);
        format!("ztunnel~{address}~{instance}.{namespace}~{namespace}.svc.cluster.local")
    }
}

#[cfg(test)]
mod tests {
    use super::{ConfigSettings, SettingsError};

    fn settings(controller: &str, node: &str) -> ConfigSettings {
        ConfigSettings::new(controller, "/ca", "/token", node.into())
    }

    #[test]
    fn only_https_with_a_port_is_a_controller_address() {
        assert!(
            settings("https://controller.mesh:15012", "n")
                .endpoint()
                .is_ok()
        );
        assert!(settings("https://[fd00::1]:15012", "n").endpoint().is_ok());
        for bad in [
            "",
            "controller:15012",
            "http://controller:15012",
            "https://controller",
        ] {
            let want = SettingsError::Controller(bad.to_owned());
            assert_eq!(settings(bad, "n").endpoint(), Err(want));
        }
        let nameless = settings("https://controller:15012", "");
        assert_eq!(nameless.endpoint(), Err(SettingsError::Node));
    }

    #[test]
    fn the_node_id_has_the_form_that_istiod_parses() {
        assert_eq!(
            settings("https://c:1", "n1").node_id(),
            "ztunnel~0.0.0.0~weft-n1.weft-system~weft-system.svc.cluster.local"
        );
    }
}
