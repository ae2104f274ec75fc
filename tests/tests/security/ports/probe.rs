//! One dial: connect, say the first words of a protocol, and name what comes back.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
use weft_identity::Credentials;
use weft_testkit::netns::Netns;
use weft_types::SpiffeId;

/// What the application says first.
pub(super) const GREETING: &str = "app greets";
/// Silence that counts as such: nothing here takes longer than milliseconds.
const SILENCE: Duration = Duration::from_secs(8);
const HTTP: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n";
/// The preface and empty SETTINGS (RFC 9113 section 3.4).
const H2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

pub(super) const PROTOCOLS: [Protocol; 5] = [
    Protocol::Tcp,
    Protocol::Tls,
    Protocol::Foreign,
    Protocol::Http,
    Protocol::H2c,
];

/// What is said first.
#[derive(Clone, Copy, Debug)]
pub(super) enum Protocol {
    /// Nothing but an end of stream.
    Tcp,
    /// TLS without a client certificate, HTTP/2 inside.
    Tls,
    /// The same with a certificate of another trust domain.
    Foreign,
    /// A request of HTTP/1.1.
    Http,
    /// HTTP/2 in clear.
    H2c,
}

/// The TLS configurations of all dials.
pub(super) struct Prober {
    bare: Arc<ClientConfig>,
    foreign: Arc<ClientConfig>,
}

impl Prober {
    pub(super) fn new() -> Self {
        Self {
            bare: config(None),
            foreign: config(Some(stranger())),
        }
    }

    /// One that shows a certificate of the mesh in place of the foreign one.
    pub(super) fn showing(credentials: &Credentials, expected: &SpiffeId) -> Self {
        let expected = std::slice::from_ref(expected);
        Self {
            foreign: credentials.client_config(expected).unwrap(),
            ..Self::new()
        }
    }

    /// The word for what came back.
    pub(super) fn dial(&self, netns: &Netns, to: SocketAddr, protocol: Protocol) -> String {
        let stream = netns
            .enter(|| Ok(TcpStream::connect_timeout(&to, SILENCE)))
            .unwrap();
        let Ok(stream) = stream else {
            return "-".to_owned();
        };
        stream.set_read_timeout(Some(SILENCE)).unwrap();
        stream.set_write_timeout(Some(SILENCE)).unwrap();
        match protocol {
            Protocol::Tcp => {
                let _ = stream.shutdown(Shutdown::Write);
                first(stream)
            }
            Protocol::Http => said(stream, HTTP),
            Protocol::H2c => said(stream, H2),
            Protocol::Tls => within(&self.bare, stream),
            Protocol::Foreign => within(&self.foreign, stream),
        }
    }
}

fn said(mut stream: impl Read + Write, words: &[u8]) -> String {
    // Who is reset while it speaks may still have been told why.
    let _ = stream.write_all(words);
    first(stream)
}

fn within(config: &Arc<ClientConfig>, stream: TcpStream) -> String {
    let name = ServerName::try_from("probe.invalid").unwrap();
    let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut tls = rustls::StreamOwned::new(connection, Sniffed::new(stream));
    let inside = said(&mut tls, H2);
    if inside != "-" || !tls.conn.is_handshaking() {
        return inside;
    }
    // No TLS at all: what else was it?
    classify(&tls.sock.seen)
}

fn first(mut stream: impl Read) -> String {
    let mut buffer = [0; 64];
    match stream.read(&mut buffer) {
        Ok(length) => classify(&buffer[..length]),
        Err(error) if is_silence(&error) => "silence".to_owned(),
        Err(_) => "-".to_owned(),
    }
}

fn is_silence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

fn classify(bytes: &[u8]) -> String {
    let word = match bytes {
        // Nothing, an alert, or a handshake that its own alert ended (RFC 8446 section 5.1).
        [] | [0x15 | 0x16, 3, ..] => "-",
        bytes if bytes.starts_with(b"HTTP/1.") => "http",
        bytes if bytes.starts_with(GREETING.as_bytes()) => "app",
        // SETTINGS on stream 0.
        [_, _, _, 4, _, 0, 0, 0, 0, ..] => "h2",
        other => return format!("{other:02x?}").replace(' ', ""),
    };
    word.to_owned()
}

/// A stream that remembers the first bytes that came in.
struct Sniffed {
    stream: TcpStream,
    seen: Vec<u8>,
}

impl Sniffed {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            seen: Vec::new(),
        }
    }
}

impl Read for Sniffed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.stream.read(buffer)?;
        if self.seen.len() < 64 {
            self.seen.extend_from_slice(&buffer[..length]);
        }
        Ok(length)
    }
}

impl Write for Sniffed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

type Certified = (CertificateDer<'static>, PrivateKeyDer<'static>);

/// A workload of another mesh, with our form of identity.
fn stranger() -> Certified {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let uri = "spiffe://evil.example/ns/default/sa/a".try_into().unwrap();
    params.subject_alt_names = vec![SanType::URI(uri)];
    let certificate = params.self_signed(&key).unwrap();
    let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    (certificate.der().clone(), der)
}

fn config(certified: Option<Certified>) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let trusting = Arc::new(Trusting(Arc::clone(&provider)));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(trusting);
    let mut config = match certified {
        Some((certificate, key)) => builder
            .with_client_auth_cert(vec![certificate], key)
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// Takes any server: the question is whom the server takes.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
