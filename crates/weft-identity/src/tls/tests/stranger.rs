//! A peer that is not ours: any chain, any key, no checks of its own, any ALPN and version.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig};
use rustls::{SignatureScheme, SupportedProtocolVersion};
use tokio::io::duplex;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weft_types::SpiffeId;

use super::{PIPE, Stream};
use crate::credentials::Credentials;
use crate::tls::{TlsError, accept, connect};

/// Believes everything.
#[derive(Debug)]
struct Gullible;

pub(super) struct Stranger {
    pub(super) certified: Option<Arc<CertifiedKey>>,
    pub(super) alpn: Vec<Vec<u8>>,
    pub(super) version: &'static SupportedProtocolVersion,
}

impl Stranger {
    pub(super) fn with(certified: Arc<CertifiedKey>) -> Self {
        Self {
            certified: Some(certified),
            alpn: vec![b"h2".to_vec()],
            version: &rustls::version::TLS13,
        }
    }

    /// What our server says to it.
    pub(super) async fn dials(&self, server: &Credentials) -> Result<Stream, TlsError> {
        let builder = ClientConfig::builder_with_provider(default_provider().into())
            .with_protocol_versions(&[self.version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible));
        let mut config = match &self.certified {
            Some(certified) => builder
                .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified.clone()))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        let (near, far) = duplex(PIPE);
        let name = ServerName::try_from("stranger.invalid").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let (accepted, _ignored) = tokio::join!(accept(server, far), connector.connect(name, near));
        accepted
    }

    /// What our client says to it.
    pub(super) async fn answers(
        &self,
        client: &Credentials,
        expected: &[SpiffeId],
    ) -> Result<Stream, TlsError> {
        let certified = self.certified.clone().expect("a server has a certificate");
        let mut config = ServerConfig::builder_with_provider(default_provider().into())
            .with_protocol_versions(&[self.version])
            .unwrap()
            .with_client_cert_verifier(Arc::new(Gullible))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols.clone_from(&self.alpn);
        let (near, far) = duplex(PIPE);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (connected, _ignored) =
            tokio::join!(connect(client, expected, near), acceptor.accept(far));
        connected
    }
}

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for Gullible {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
