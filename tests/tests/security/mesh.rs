//! What an attacker needs: certificates that a node's token gives, tunnel connections that ask for anything.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use weft_hbone::{Authority, ClientLimits, ConnectRequest, OpenError, handshake};
use weft_identity::{
    CaClient, CaOptions, CertificateSource as _, Credentials, PrivateKey, TlsStream,
};
use weft_runtime::{Shutdown, spawn};
use weft_testkit::lab::report;
use weft_testkit::load;
use weft_testkit::netns::runtime;
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::TestLab;
use weft_types::SpiffeId;

/// The port of tunnels.
pub(crate) const HBONE: u16 = 15008;

/// The identity of a service account in the namespace `default`.
pub(crate) fn identity(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
        .parse()
        .unwrap()
}

/// Where the controller is, for nodes.
pub(crate) fn controller_address(lab: &TestLab) -> String {
    let report = report::describe(lab.lab());
    report["controller"]["address"].as_str().unwrap().to_owned()
}

/// The credentials of a service account, asked for with a node's token.
pub(crate) fn credentials(lab: &TestLab, node: &str, account: &str) -> Credentials {
    let identity = identity(account);
    let key = PrivateKey::generate().unwrap();
    let csr = key.request(&identity).unwrap();
    let client = CaClient::new(CaOptions {
        address: controller_address(lab),
        root_cert: lab.lab().place().root_certificate(),
        token: lab.lab().place().token(node),
        cluster: String::new(),
    });
    let asked = identity.clone();
    let netns = lab.lab().topology().node(node);
    let chain = netns
        .enter(move || Ok(runtime()?.block_on(client.sign(&asked, csr, Duration::ZERO))?))
        .unwrap();
    Credentials::from_response(identity, key, &chain, SystemTime::now()).unwrap()
}

/// TLS over a connection that a pod has opened.
pub(crate) async fn secured(
    stream: std::net::TcpStream,
    credentials: &Credentials,
    expected: &SpiffeId,
) -> anyhow::Result<TlsStream<TcpStream>> {
    stream.set_nonblocking(true)?;
    let stream = TcpStream::from_std(stream)?;
    let expected = std::slice::from_ref(expected);
    Ok(weft_identity::connect(credentials, expected, stream).await?)
}

/// What a CONNECT from a pod is answered, on a tunnel connection of its own.
pub(crate) fn ask(
    lab: &TestLab,
    (from, credentials): (&str, &Credentials),
    (to, account): (SocketAddr, &str),
    authority: &str,
) -> anyhow::Result<u16> {
    let stream = load::connect(&lab.netns(from), to)?;
    let target: Authority = authority.parse()?;
    let expected = identity(account);
    runtime()?.block_on(async {
        let stream = secured(stream, credentials, &expected).await?;
        let (connection, driver) = handshake(stream, ClientLimits::default()).await?;
        let background = Shutdown::new();
        spawn(&background, "driver", driver);
        match connection.open(&ConnectRequest::new(target)).await {
            Ok(_tunnel) => Ok(200),
            Err(OpenError::Refused(refusal)) => Ok(refusal.status.as_u16()),
            Err(other) => Err(other.into()),
        }
    })
}

/// Waits for a line in a proxy's log that holds all of the words.
pub(crate) fn logged(lab: &TestLab, node: &str, words: &[&str]) -> String {
    let log = lab.lab().place().node_logs(node).join("proxy.log");
    until(&format!("a line with {words:?}"), LONG, || {
        let text = std::fs::read_to_string(&log)?;
        let found = text
            .lines()
            .find(|line| words.iter().all(|word| line.contains(word)));
        found
            .map(str::to_owned)
            .ok_or_else(|| anyhow::anyhow!("none yet"))
    })
    .unwrap()
}
