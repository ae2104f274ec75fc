//! Names of things, each its own type.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

macro_rules! string_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps the text as it is.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }
    };
}

string_name! {
    /// A workload's unique name in configuration: `cluster/group/kind/namespace/name`, for example `Kubernetes//Pod/default/a`.
    WorkloadUid
}
string_name! {
    /// A pod's `metadata.uid`: a pod that comes back under the same name and address has another one.
    PodUid
}
string_name! {
    /// A node's name.
    NodeName
}

impl WorkloadUid {
    /// The uid of a pod in a cluster.
    pub fn of_pod(cluster: &str, namespace: &str, name: &str) -> Self {
        Self(format!("{cluster}//Pod/{namespace}/{name}").into())
    }
}

/// A name within a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceName {
    /// Namespace; empty for what belongs to the whole mesh.
    pub namespace: Arc<str>,
    /// Name within it.
    pub name: Arc<str>,
}

/// The name of a published policy.
pub type PolicyName = ResourceName;

/// A service: its namespace and its full hostname (`web.default.svc.cluster.local`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// Namespace that owns the service.
    pub namespace: Arc<str>,
    /// Fully qualified hostname.
    pub hostname: Arc<str>,
}

/// A name that is not `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not of the form namespace/name")]
pub struct NameError(pub String);

impl ResourceName {
    /// Builds a name from its parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl ServiceName {
    /// Builds a name from its parts.
    pub fn new(namespace: impl Into<Arc<str>>, hostname: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            hostname: hostname.into(),
        }
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

impl FromStr for ResourceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = split(text)?;
        Ok(Self::new(namespace, name))
    }
}

impl FromStr for ServiceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, hostname) = split(text)?;
        Ok(Self::new(namespace, hostname))
    }
}

fn split(text: &str) -> Result<(&str, &str), NameError> {
    text.split_once('/')
        .filter(|(_, name)| !name.is_empty() && !name.contains('/'))
        .ok_or_else(|| NameError(text.to_owned()))
}
