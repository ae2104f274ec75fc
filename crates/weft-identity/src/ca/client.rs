//! `istio.v1.auth.IstioCertificateService/CreateCertificate` over TLS with a bearer token.
//!
//! In: an identity, a CSR; from files: the token and the authority's root certificate, both read again for every call, so a
//! rotated file takes effect without a restart. Out: the certificate chain as text. A channel lives as long as its root file
//! stays the same. Not here: retries and priorities (`identities`).

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::Mutex;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use weft_proto::wire::ca::IstioCertificateRequest;
use weft_proto::wire::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use weft_proto::{Struct, Value, value};
use weft_types::SpiffeId;
use zeroize::Zeroizing;

use super::{CaError, CertificateSource, Signed};

/// Longest dial: a dead controller must not hold a request's whole time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Detects a controller that vanished without a word, while a request is under way.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Largest token or root file: a service-account token has 1 to 2 KB, a bundle of 64 roots 128 KB.
const FILE_MAX: usize = 256 * 1024;

/// Where the authority is and how to talk to it.
#[derive(Clone, Debug)]
pub struct CaOptions {
    /// `https://HOST:PORT`.
    pub address: String,
    /// PEM of the roots that its server certificate chains to.
    pub root_cert: PathBuf,
    /// Bearer token.
    pub token: PathBuf,
    /// Value of the `clusterid` header; empty sends none.
    pub cluster: String,
}

/// The client. Safe to share; calls run in parallel over one HTTP/2 connection.
pub struct CaClient {
    options: CaOptions,
    channel: Mutex<Option<Pinned>>,
}

/// A channel and the root file that it was made with.
struct Pinned {
    roots: Vec<u8>,
    channel: Channel,
}

impl CaClient {
    /// Makes a client; dials on the first call.
    pub fn new(options: CaOptions) -> Self {
        Self {
            options,
            channel: Mutex::new(None),
        }
    }

    async fn call(
        &self,
        identity: &SpiffeId,
        csr: String,
        ttl: Duration,
    ) -> Result<Vec<String>, CaError> {
        let mut request = Request::new(IstioCertificateRequest {
            csr,
            validity_duration: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(impersonated(identity)),
        });
        let metadata = request.metadata_mut();
        metadata.insert("authorization", self.bearer().await?);
        if let Ok(cluster) = self.options.cluster.parse::<MetadataValue<Ascii>>()
            && !cluster.is_empty()
        {
            metadata.insert("clusterid", cluster);
        }
        let mut client = IstioCertificateServiceClient::new(self.channel().await?);
        match client.create_certificate(request).await {
            Ok(response) => Ok(response.into_inner().cert_chain),
            Err(status) => Err(blame(identity, &status)),
        }
    }

    /// The lock is held while a small file is read and a lazy channel is made: no dialling under it.
    async fn channel(&self) -> Result<Channel, CaError> {
        let roots = read(&self.options.root_cert).await?;
        let mut pinned = self.channel.lock().await;
        if let Some(pinned) = &*pinned
            && pinned.roots == *roots
        {
            return Ok(pinned.channel.clone());
        }
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&*roots));
        let channel = Endpoint::from_shared(self.options.address.clone())
            .and_then(|endpoint| endpoint.tls_config(tls))
            .map_err(|error| CaError::Unavailable(chain(&error)))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .connect_lazy();
        *pinned = Some(Pinned {
            roots: roots.to_vec(),
            channel: channel.clone(),
        });
        Ok(channel)
    }

    async fn bearer(&self) -> Result<MetadataValue<Ascii>, CaError> {
        let bytes = read(&self.options.token).await?;
        let unusable = || CaError::File {
            path: self.options.token.clone(),
            reason: "not a token: must be one line of ASCII".to_owned(),
        };
        let token = std::str::from_utf8(&bytes).map_err(|_| unusable())?.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(unusable());
        }
        let header = Zeroizing::new(format!("Bearer {token}"));
        let mut value = MetadataValue::try_from(header.as_str()).map_err(|_| unusable())?;
        value.set_sensitive(true);
        Ok(value)
    }
}

// === impl CaClient ===

impl fmt::Debug for CaClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaClient")
            .field("address", &self.options.address)
            .finish_non_exhaustive()
    }
}

impl CertificateSource for CaClient {
    fn sign<'a>(&'a self, identity: &'a SpiffeId, csr: String, ttl: Duration) -> Signed<'a> {
        Box::pin(self.call(identity, csr, ttl))
    }
}

fn impersonated(identity: &SpiffeId) -> Struct {
    let value = Value {
        kind: Some(value::Kind::StringValue(identity.to_string())),
    };
    Struct {
        fields: [("ImpersonatedIdentity".to_owned(), value)].into(),
    }
}

/// A refusal is an answer; everything else may be better in a moment.
fn blame(identity: &SpiffeId, status: &Status) -> CaError {
    match status.code() {
        Code::PermissionDenied
        | Code::Unauthenticated
        | Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::NotFound
        | Code::OutOfRange
        | Code::Unimplemented => CaError::Refused {
            identity: identity.clone(),
            reason: format!("{} ({})", status.message(), status.code()),
        },
        code => CaError::Unavailable(match std::error::Error::source(status) {
            Some(source) => chain(source),
            None => format!("{} ({code})", status.message()),
        }),
    }
}

/// The whole chain of causes: tonic's outermost words are only "transport error". Some causes repeat their own cause.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = inner.source();
    }
    text
}

async fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, CaError> {
    let failed = |reason: String| CaError::File {
        path: path.to_owned(),
        reason,
    };
    let bytes = tokio::fs::read(path)
        .await
        .map_err(|error| failed(error.to_string()))?;
    if bytes.len() > FILE_MAX {
        return Err(failed(format!("larger than {FILE_MAX} bytes")));
    }
    Ok(Zeroizing::new(bytes))
}

#[cfg(test)]
mod tests;
