//! Two proxies in one process, each a thread of its own, for measuring the tunnel apart from the mesh.
//!
//! `pair hbone|plain LISTEN TARGET`: connections to LISTEN are carried over TLS to TARGET; `hbone` through pooled
//! tunnels, `plain` through one TLS connection for each (what a naive design does). Run it between any client and
//! server, beside another proxy, and compare ratios.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a measuring tool without a drain"
)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weft_hbone::{
    ClientLimits, ConnectRequest, ConnectResponse, Connection, Connector, Counters, Pool,
    PoolLimits, ServerLimits, handshake, relay, serve,
};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, listen, target] = arguments.as_slice() else {
        anyhow::bail!("usage: pair hbone|plain LISTEN TARGET");
    };
    let hbone = mode == "hbone";
    let (listen, target): (SocketAddr, SocketAddr) = (listen.parse()?, target.parse()?);
    let (connector, acceptor) = tls()?;
    let tunnel_port = std::net::TcpListener::bind("127.0.0.1:0")?;
    tunnel_port.set_nonblocking(true)?;
    let peer = tunnel_port.local_addr()?;
    let server = std::thread::spawn(move || {
        run(async move {
            let listener = TcpListener::from_std(tunnel_port)?;
            loop {
                let (tcp, _) = listener.accept().await?;
                tcp.set_nodelay(true)?;
                tokio::spawn(accept(tcp, acceptor.clone(), hbone, target));
            }
        })
    });
    run(async move {
        let listener = TcpListener::bind(listen).await?;
        let pool = Pool::new(Tls { connector, peer }, PoolLimits::default());
        loop {
            let (tcp, _) = listener.accept().await?;
            tcp.set_nodelay(true)?;
            tokio::spawn(connect(tcp, pool.clone(), hbone, target));
        }
    })?;
    server
        .join()
        .map_err(|_| anyhow::anyhow!("server thread panicked"))?
        .map(|_| ())
}

fn run(future: impl Future<Output = anyhow::Result<Infallible>>) -> anyhow::Result<Infallible> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future)
}

#[derive(Clone)]
struct Tls {
    connector: TlsConnector,
    peer: SocketAddr,
}

impl Tls {
    async fn connect_tls(&self) -> anyhow::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.peer).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        Ok(self.connector.connect(name, tcp).await?)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct ConnectFailed(String);

impl Connector<SocketAddr> for Tls {
    type Error = ConnectFailed;

    async fn connect(&self, _: SocketAddr) -> Result<Connection, ConnectFailed> {
        let failed = |e: String| ConnectFailed(e);
        let tls = self
            .connect_tls()
            .await
            .map_err(|e| failed(e.to_string()))?;
        let (connection, driver) = handshake(tls, ClientLimits::default())
            .await
            .map_err(|e| failed(e.to_string()))?;
        tokio::spawn(driver);
        Ok(connection)
    }
}

async fn connect(mut tcp: TcpStream, pool: Pool<SocketAddr, Tls>, hbone: bool, target: SocketAddr) {
    if hbone {
        match pool.open(&target, &ConnectRequest::new(target)).await {
            Ok(tunnel) => {
                relay(tcp, tunnel, &Counters::default()).await;
            }
            Err(error) => eprintln!("open: {error}"),
        }
    } else if let Ok(mut tls) = pool.connector().connect_tls().await {
        let _ = copy_bidirectional_with_sizes(&mut tcp, &mut tls, 65536, 65536).await;
    }
}

async fn accept(
    tcp: TcpStream,
    acceptor: TlsAcceptor,
    hbone: bool,
    target: SocketAddr,
) -> anyhow::Result<()> {
    let mut tls = acceptor.accept(tcp).await?;
    if !hbone {
        let mut upstream = TcpStream::connect(target).await?;
        upstream.set_nodelay(true)?;
        copy_bidirectional_with_sizes(&mut upstream, &mut tls, 65536, 65536).await?;
        return Ok(());
    }
    let mut server = serve(tls, ServerLimits::default()).await?;
    while let Some(incoming) = server.next().await {
        let incoming = incoming?;
        tokio::spawn(async move {
            let address = incoming
                .request()
                .authority
                .address()
                .context("authority is no address")?;
            let upstream = TcpStream::connect(address).await?;
            upstream.set_nodelay(true)?;
            let tunnel = incoming.accept(&ConnectResponse::default())?;
            relay(upstream, tunnel, &Counters::default()).await;
            anyhow::Ok(())
        });
    }
    Ok(())
}

fn tls() -> anyhow::Result<(TlsConnector, TlsAcceptor)> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let chain = vec![made.cert.der().clone()];
    let key =
        PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let mut roots = RootCertStore::empty();
    roots.add(chain[0].clone())?;
    let roots = Arc::new(roots);
    let verifier =
        tokio_rustls::rustls::server::WebPkiClientVerifier::builder(Arc::clone(&roots)).build()?;
    let client = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain.clone(), key.clone_key())?;
    let server = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    Ok((
        TlsConnector::from(Arc::new(client)),
        TlsAcceptor::from(Arc::new(server)),
    ))
}
