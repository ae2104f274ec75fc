//! A control plane of hand-made configuration: delta ADS and certificates, over TLS, for tokens that it is given.
//!
//! In: resources as protobuf messages, some for everybody, some for one token. Out: what a client of the real controller
//! would see, and each change as soon as it is made. It judges nothing: what a test puts in goes out, and certificates are
//! signed for any identity that a known token asks for. Wildcard subscriptions only. Not here: translation of YAML.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use weft_identity::Authority;
use weft_proto::Any;
use weft_proto::resource::{MESSAGE_MAX, REQUEST_MAX};
use weft_proto::wire::ca::istio_certificate_service_server::IstioCertificateServiceServer;
use weft_proto::wire::discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;

use crate::netns::{Netns, runtime};

pub mod ambient;
pub mod caller;
mod copy;
mod service;

pub use copy::copy;
use service::Service;

/// Connections waiting to be accepted.
const BACKLOG: i32 = 128;

/// Resources of any type by type URL and name.
#[derive(Clone, Debug, Default)]
pub struct Resources(pub BTreeMap<(String, String), Any>);

/// What is served.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    /// For every token.
    pub everyone: Resources,
    /// For one token each; a token that is not a key here is refused.
    pub tokens: HashMap<String, Resources>,
}

/// A running server; dropping it ends it and its streams.
pub struct Ads {
    configuration: watch::Sender<Configuration>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

// === impl Resources ===

impl Resources {
    /// Adds or replaces one.
    pub fn put(&mut self, name: &str, body: Any) {
        self.0
            .insert((body.type_url.clone(), name.to_owned()), body);
    }

    /// Changes a message of a known type in place; an error when it is not there or of another type.
    pub fn edit<M: prost::Message + Default>(
        &mut self,
        type_url: &str,
        name: &str,
        change: impl FnOnce(&mut M),
    ) -> Result<()> {
        let body = self.0.get_mut(&(type_url.to_owned(), name.to_owned()));
        let body = body.with_context(|| format!("no resource {name} of {type_url}"))?;
        let mut message = M::decode(body.value.as_slice())?;
        change(&mut message);
        body.value = message.encode_to_vec();
        Ok(())
    }
}

// === impl Ads ===

impl Ads {
    /// Serves inside a namespace; the authority gives the server its own certificate too. When this returns, it listens.
    pub fn start(
        netns: &Netns,
        listen: SocketAddr,
        authority: Authority,
        configuration: Configuration,
    ) -> Result<Self> {
        let certificate = authority.server_certificate(&[listen.ip().to_string()])?;
        let identity = Identity::from_pem(&certificate.chain_pem, &*certificate.key_pem);
        let listener = netns.enter(|| Ok(std::net::TcpListener::from(bind(listen)?)))?;
        let configuration = watch::Sender::new(configuration);
        let service = Arc::new(Service::new(configuration.clone(), authority));
        let (stop, stopped) = oneshot::channel();
        let thread = netns.spawn("ads", move || {
            runtime()?.block_on(async move {
                let listener = TcpListener::from_std(listener)?;
                let ads = AggregatedDiscoveryServiceServer::from_arc(service.clone())
                    .max_decoding_message_size(REQUEST_MAX)
                    .max_encoding_message_size(MESSAGE_MAX);
                let ca = IstioCertificateServiceServer::from_arc(service);
                let serving = Server::builder()
                    .tls_config(ServerTlsConfig::new().identity(identity))?
                    .add_service(ads)
                    .add_service(ca)
                    .serve_with_incoming(TcpListenerStream::new(listener));
                tokio::select! {
                    ended = serving => Ok(ended?),
                    _ = stopped => Ok(()),
                }
            })
        })?;
        Ok(Self {
            configuration,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Changes what is served; every stream is told what differs.
    pub fn change(&self, change: impl FnOnce(&mut Configuration)) {
        self.configuration.send_modify(change);
    }

    /// Ends it; what went wrong meanwhile is an error.
    pub fn stop(mut self) -> Result<()> {
        drop(self.stop.take());
        let thread = self.thread.take().context("it is stopped once")?;
        thread.join().map_err(|_| anyhow!("the server panicked"))?
    }
}

impl Drop for Ads {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A listener that takes the place of another program at once.
fn bind(listen: SocketAddr) -> Result<socket2::Socket> {
    let domain = socket2::Domain::for_address(listen);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&listen.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
