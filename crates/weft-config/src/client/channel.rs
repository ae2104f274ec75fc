//! The TLS channel to the controller, and the files that it is made from.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Uri};

use super::FILES_CHECK;
use super::error::SessionError;
use crate::settings::ConfigSettings;

/// A controller in the same cluster answers in milliseconds; the backoff covers the rest.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A stream is silent for hours when nothing changes: pings tell a dead peer from a quiet one.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Lets a first sync of tens of megabytes run at full speed.
const WINDOW: u32 = 4 * 1024 * 1024;

/// The files that a connection is made from, and what they looked like when it was made.
#[derive(Debug)]
pub(super) struct Files {
    controller: Option<Uri>,
    root: PathBuf,
    token: PathBuf,
    root_seen: Option<Seen>,
    token_seen: Option<Seen>,
}

/// Enough of a file's state to notice a change: replacing (rename, projected volumes) and rewriting both show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    modified: SystemTime,
    length: u64,
    inode: u64,
}

impl Files {
    pub(super) fn new(settings: &ConfigSettings) -> Self {
        Self {
            controller: settings.endpoint().ok(),
            root: settings.root_cert.clone(),
            token: settings.token.clone(),
            root_seen: None,
            token_seen: None,
        }
    }

    /// Notes what the files look like, before a try that reads them: only a change after this is a reason for another one.
    pub(super) fn look(&mut self) {
        self.root_seen = Seen::of(&self.root);
        self.token_seen = Seen::of(&self.token);
    }

    /// Reads the token.
    pub(super) fn token(&mut self) -> Result<MetadataValue<Ascii>, SessionError> {
        let failed = |reason: String| SessionError::Token {
            path: self.token.clone(),
            reason,
        };
        self.token_seen = Seen::of(&self.token);
        let text =
            std::fs::read_to_string(&self.token).map_err(|error| failed(error.to_string()))?;
        let text = text.trim();
        if text.is_empty() {
            return Err(failed("it is empty".to_owned()));
        }
        let mut value: MetadataValue<Ascii> = format!("Bearer {text}")
            .parse()
            .map_err(|_| failed("it has characters that a header cannot carry".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Whether the root file differs from what the connection was made with.
    pub(super) fn root_differs(&self) -> bool {
        Seen::of(&self.root) != self.root_seen
    }

    /// Ready once any file differs from what the last try saw. Cancel-safe.
    pub(super) async fn changed(&self) {
        while !self.root_differs() && Seen::of(&self.token) == self.token_seen {
            tokio::time::sleep(FILES_CHECK).await;
        }
    }

    fn read_root(&mut self) -> Result<Vec<u8>, SessionError> {
        let failed = |reason: String| SessionError::Root {
            path: self.root.clone(),
            reason,
        };
        self.root_seen = Seen::of(&self.root);
        let pem = std::fs::read(&self.root).map_err(|error| failed(error.to_string()))?;
        // Without this, an empty file would show as a certificate that nobody signed.
        let marker = b"-----BEGIN CERTIFICATE-----";
        if !pem.windows(marker.len()).any(|window| window == marker) {
            return Err(failed("it holds no PEM certificate".to_owned()));
        }
        Ok(pem)
    }
}

impl Seen {
    fn of(path: &std::path::Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            modified: metadata.modified().ok()?,
            length: metadata.len(),
            inode: metadata.ino(),
        })
    }
}

/// Opens a connection with the roots as they are on disk now.
pub(super) async fn connect(files: &mut Files) -> Result<Channel, SessionError> {
    let pem = files.read_root()?;
    let uri = files
        .controller
        .clone()
        .expect("the address was parsed before the client started");
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
    let endpoint = Endpoint::from(uri)
        .tls_config(tls)
        .map_err(|error| SessionError::connect(&error))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    endpoint
        .connect()
        .await
        .map_err(|error| SessionError::connect(&error))
}
