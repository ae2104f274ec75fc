//! rustls configurations, made once for each pair of credentials and expected identities.
//!
//! In: credentials. Out: shared configurations, kept inside the credentials that they were made from, so that a rotation
//! needs no invalidation. Cipher and group order is decided here and nowhere else.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, OnceLock};

use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, ServerConfig};
use weft_types::SpiffeId;

use super::Credentials;
use crate::verify::{AnyWorkload, ExpectedWorkloads};

/// The only application protocol: what HBONE announces.
pub const ALPN: &[u8] = b"h2";

/// Most client configurations kept for one identity. A pod that talks to more distinct identities than this within one
/// certificate's life pays a rebuild (some microseconds) now and then; the bound keeps a scanner from filling memory.
const CLIENT_CONFIGS_MAX: usize = 4096;

/// The configurations made from one set of credentials.
#[derive(Default)]
pub(super) struct Configs {
    server: OnceLock<Arc<ServerConfig>>,
    clients: ArcSwap<HashMap<Box<[SpiffeId]>, Arc<ClientConfig>>>,
}

/// Ciphers and groups, by preference.
///
/// Both suites are the ones that every HBONE peer has. X25519MLKEM768 first: traffic recorded today stays closed when
/// quantum computers come; its share fits the first flight.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
        ],
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
        ],
        ..default_provider()
    })
});

pub(super) fn server(credentials: &Credentials) -> Result<Arc<ServerConfig>, Error> {
    let configs = &credentials.configs;
    if let Some(config) = configs.server.get() {
        return Ok(config.clone());
    }
    let mut config = ServerConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(AnyWorkload(credentials.trust.clone())))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(
            credentials.certified.clone(),
        )));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(configs.server.get_or_init(|| Arc::new(config)).clone())
}

pub(super) fn client(
    credentials: &Credentials,
    expected: &[SpiffeId],
) -> Result<Arc<ClientConfig>, Error> {
    let configs = &credentials.configs;
    if let Some(config) = configs.clients.load().get(expected) {
        return Ok(config.clone());
    }
    let verifier = ExpectedWorkloads {
        trust: credentials.trust.clone(),
        expected: expected.into(),
    };
    let mut config = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&TLS13])?
        .dangerous() // rustls's word for a verifier of one's own
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(
            credentials.certified.clone(),
        )));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    let config = Arc::new(config);
    configs.clients.rcu(|known| {
        let mut next = if known.len() < CLIENT_CONFIGS_MAX {
            HashMap::clone(known)
        } else {
            HashMap::new()
        };
        next.insert(expected.into(), config.clone());
        next
    });
    Ok(config)
}
