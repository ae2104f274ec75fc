//! SPIFFE identities: `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
//!
//! Source: SPIFFE-ID specification sections 2.1 to 2.4. Departure: only the Kubernetes path form above is accepted,
//! because a path of another form could not be matched by any policy and would only widen what an identity may look like.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// The authority of a SPIFFE ID. Compared byte by byte; aliases are explicit configuration, never implied.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// A workload identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

/// Why a text is not an identity of ours.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SpiffeIdError {
    /// It does not start with `spiffe://`.
    #[error("{0:?} does not start with spiffe://")]
    Scheme(String),
    /// The trust domain is empty, too long (255 bytes), or has a character outside `[a-z0-9._-]`.
    #[error("{0:?} is not a trust domain: use 1 to 255 of a-z 0-9 . _ -")]
    TrustDomain(String),
    /// The path is not `/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
    #[error("{0:?} has no path of the form /ns/NAMESPACE/sa/SERVICE_ACCOUNT")]
    Path(String),
    /// A path segment is empty, `.`, `..`, or has a character outside `[a-zA-Z0-9._-]`.
    #[error("{0:?} is not a segment of a SPIFFE path: use a-z A-Z 0-9 . _ -")]
    Segment(String),
}

impl TrustDomain {
    /// Accepts a trust domain name.
    pub fn new(text: &str) -> Result<Self, SpiffeIdError> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        if text.is_empty() || text.len() > 255 || !text.bytes().all(legal) {
            return Err(SpiffeIdError::TrustDomain(text.to_owned()));
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffeId {
    /// Builds an identity from its parts, each checked.
    pub fn new(
        trust_domain: TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        Ok(Self {
            trust_domain,
            namespace: segment(namespace)?,
            service_account: segment(service_account)?,
        })
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }

    /// The identity without `spiffe://`, the form that Istio's `principals` are written in.
    pub fn principal(&self) -> String {
        format!(
            "{}/ns/{}/sa/{}",
            self.trust_domain.0, self.namespace, self.service_account
        )
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Written twice for every connection: pieces cost half of a format string.
        f.write_str("spiffe://")?;
        f.write_str(&self.trust_domain.0)?;
        f.write_str("/ns/")?;
        f.write_str(&self.namespace)?;
        f.write_str("/sa/")?;
        f.write_str(&self.service_account)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text
            .strip_prefix("spiffe://")
            .ok_or_else(|| SpiffeIdError::Scheme(text.to_owned()))?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [trust_domain, "ns", namespace, "sa", service_account] = parts.as_slice() else {
            return Err(SpiffeIdError::Path(text.to_owned()));
        };
        Self::new(TrustDomain::new(trust_domain)?, namespace, service_account)
    }
}

fn segment(text: &str) -> Result<Arc<str>, SpiffeIdError> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if text.is_empty() || text == "." || text == ".." || !text.bytes().all(legal) {
        return Err(SpiffeIdError::Segment(text.to_owned()));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::{SpiffeId, SpiffeIdError};

    #[test]
    fn an_identity_survives_the_way_through_text() {
        let text = "spiffe://cluster.local/ns/default/sa/web";
        let id: SpiffeId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(id.principal(), "cluster.local/ns/default/sa/web");
    }

    #[test]
    fn anything_but_the_exact_form_is_refused() {
        let bad = [
            "",
            "https://cluster.local/ns/a/sa/b",
            "spiffe://",
            "spiffe://Cluster.local/ns/a/sa/b",
            "spiffe://cluster.local:80/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/b/",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local/ns//sa/b",
            "spiffe://cluster.local/ns/../sa/b",
            "spiffe://cluster.local/ns/a/sa/b\0",
            "spiffe://cluster.local/ns/a%2fb/sa/c",
            "spiffe://cluster.local/NS/a/sa/b",
        ];
        for text in bad {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?} was accepted");
        }
        assert_eq!(
            "spiffe://x/y".parse::<SpiffeId>(),
            Err(SpiffeIdError::Path("spiffe://x/y".into()))
        );
    }
}
