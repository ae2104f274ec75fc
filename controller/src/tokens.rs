//! Bearer tokens of nodes in standalone: a folder of `NODE.token` files, or one file of `NODE TOKEN` lines.
//!
//! In: files, read again when they change. Out: the node that a token belongs to.
//! Missing ones are made for nodes that are named. Only hashes are kept in memory, and looked up: no comparison whose time tells a prefix.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rand::RngCore as _;
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::sync::watch;
use weft_runtime::{Shutdown, spawn};
use weft_types::NodeName;

use crate::wake::{Wake, WakeError};

const EXTENSION: &str = "token";
/// 256 bits, in hex.
const TOKEN_BYTES: usize = 32;
/// Shorter ones could be guessed.
const TOKEN_TEXT_MIN: usize = 16;

type Hash = [u8; 32];

/// All tokens.
#[derive(Clone, Debug)]
pub(crate) struct Tokens {
    path: PathBuf,
    nodes: Arc<ArcSwap<HashMap<Hash, NodeName>>>,
    changed: watch::Sender<()>,
}

/// Why there are no tokens. The operator is to blame.
#[derive(Debug, Error)]
pub(crate) enum TokenError {
    /// They cannot be read or made.
    #[error("tokens {path}: {error}; check --tokens")]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// They cannot be watched.
    #[error("tokens: {0}")]
    Watch(#[from] WakeError),
}

impl Tokens {
    /// Reads the tokens, makes those of `nodes`, and follows changes until shutdown.
    pub(crate) fn open(
        shutdown: &Shutdown,
        path: &Path,
        nodes: &[NodeName],
    ) -> Result<Self, TokenError> {
        let failed = |error| TokenError::Io {
            path: path.to_owned(),
            error,
        };
        if !path.is_file() {
            std::fs::create_dir_all(path).map_err(failed)?;
        }
        let tokens = Self {
            path: path.to_owned(),
            nodes: Arc::default(),
            changed: watch::Sender::new(()),
        };
        let mut wake = Wake::new(&[path.to_owned()])?;
        tokens.read().map_err(failed)?;
        for node in nodes {
            tokens.ensure(node).map_err(failed)?;
        }
        let (follower, ended) = (tokens.clone(), shutdown.clone());
        let follow = async move {
            loop {
                tokio::select! {
                    () = ended.draining() => return,
                    () = wake.next() => {}
                }
                if let Err(error) = follower.read() {
                    let path = follower.path.display();
                    tracing::warn!(%path, %error, "tokens cannot be read, those read before stay");
                }
            }
        };
        spawn(shutdown, "tokens", follow);
        Ok(tokens)
    }

    /// The node that a token belongs to.
    pub(crate) fn node_of(&self, token: &str) -> Option<NodeName> {
        self.nodes.load().get(&hash(token)).cloned()
    }

    /// Wakes up when tokens have changed.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Makes a token for a node that has none. One file of lines is the operator's own and stays as it is.
    pub(crate) fn ensure(&self, node: &NodeName) -> io::Result<()> {
        if self.path.is_file() {
            return Ok(());
        }
        let path = self.path.join(format!("{node}.{EXTENSION}"));
        let mut random = [0; TOKEN_BYTES];
        rand::rng().fill_bytes(&mut random);
        let mut token = String::with_capacity(2 * TOKEN_BYTES);
        for byte in random {
            let _ = write!(token, "{byte:02x}");
        }
        let beside = self.path.join(format!(".{node}.{EXTENSION}.new"));
        if path.exists() {
            return Ok(());
        }
        let _ = std::fs::remove_file(&beside);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(token.as_bytes())?;
        file.sync_all()?;
        // Whoever waits for the file finds it whole.
        std::fs::rename(&beside, &path)?;
        self.read()
    }

    fn read(&self) -> io::Result<()> {
        let found = if self.path.is_file() {
            refuse_exposed(&self.path)?;
            lines(&std::fs::read_to_string(&self.path)?)
        } else {
            folder(&self.path)?
        };
        let nodes = unique(found);
        if nodes != **self.nodes.load() {
            self.nodes.store(Arc::new(nodes));
            self.changed.send_replace(());
        }
        Ok(())
    }
}

fn folder(path: &Path) -> io::Result<Vec<(NodeName, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        let is_token = path
            .extension()
            .is_some_and(|extension| extension == EXTENSION);
        let Some(node) = path.file_stem().and_then(|stem| stem.to_str()) else {
            continue;
        };
        if !is_token || node.starts_with('.') {
            continue;
        }
        let read = refuse_exposed(&path).and_then(|()| std::fs::read_to_string(&path));
        match read {
            Ok(token) => found.push((NodeName::from(node), token.trim().to_owned())),
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, %error, "token is not used");
            }
        }
    }
    Ok(found)
}

fn refuse_exposed(path: &Path) -> io::Result<()> {
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        let text = format!("others may read it (mode {:o}); chmod 600 it", mode & 0o777);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(())
}

fn lines(text: &str) -> Vec<(NodeName, String)> {
    let line = |line: &str| {
        let (node, token) = line.trim().split_once(char::is_whitespace)?;
        Some((NodeName::from(node), token.trim().to_owned()))
    };
    let written = text.lines().filter(|line| !line.starts_with('#'));
    written.filter_map(line).collect()
}

/// A token that two nodes have belongs to neither: it would be a matter of luck as which one its bearer passes.
fn unique(found: Vec<(NodeName, String)>) -> HashMap<Hash, NodeName> {
    let mut nodes: HashMap<Hash, Option<NodeName>> = HashMap::new();
    for (node, token) in found {
        if token.len() < TOKEN_TEXT_MIN {
            tracing::warn!(%node, "token is shorter than {TOKEN_TEXT_MIN} characters and not used");
            continue;
        }
        let entry = nodes.entry(hash(&token));
        entry
            .and_modify(|other| {
                tracing::warn!(%node, "token is that of another node as well and not used");
                *other = None;
            })
            .or_insert(Some(node));
    }
    let known = nodes
        .into_iter()
        .filter_map(|(hash, node)| Some((hash, node?)));
    known.collect()
}

fn hash(token: &str) -> Hash {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::Tokens;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use weft_runtime::Shutdown;
    use weft_types::NodeName;

    fn write(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[tokio::test]
    async fn a_missing_token_is_made_for_nobody_but_its_owner_to_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let node = NodeName::from("n1");
        let tokens = Tokens::open(&Shutdown::new(), &path, std::slice::from_ref(&node)).unwrap();
        let file = path.join("n1.token");
        let token = std::fs::read_to_string(&file).unwrap();
        assert_eq!(tokens.node_of(&token), Some(node.clone()));
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        tokens.ensure(&node).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), token);
    }

    #[tokio::test]
    async fn exposed_short_and_shared_tokens_are_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        write(&path.join("a.token"), "exposed-exposed-exposed", 0o644);
        write(&path.join("b.token"), "short", 0o600);
        write(&path.join("c.token"), "shared-shared-shared", 0o600);
        write(&path.join("d.token"), "shared-shared-shared\n", 0o600);
        write(&path.join("e.token"), "good-good-good-good\n", 0o600);
        let tokens = Tokens::open(&Shutdown::new(), &path, &[]).unwrap();
        for bad in [
            "exposed-exposed-exposed",
            "short",
            "shared-shared-shared",
            "",
        ] {
            assert_eq!(tokens.node_of(bad), None, "{bad}");
        }
        assert_eq!(tokens.node_of("good-good-good-good"), Some("e".into()));
    }

    #[tokio::test]
    async fn one_file_of_lines_serves_as_well_and_is_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let text = "# nodes\nn1 good-good-good-good\n";
        write(&path, text, 0o600);
        let tokens = Tokens::open(&Shutdown::new(), &path, &["n2".into()]).unwrap();
        assert_eq!(tokens.node_of("good-good-good-good"), Some("n1".into()));
        assert_eq!(std::fs::read_to_string(path).unwrap(), text);
    }

    #[tokio::test]
    async fn a_token_that_is_removed_is_withdrawn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let shutdown = Shutdown::new();
        let tokens = Tokens::open(&shutdown, &path, &["n1".into()]).unwrap();
        let token = std::fs::read_to_string(path.join("n1.token")).unwrap();
        let mut changes = tokens.changes();
        changes.mark_unchanged();
        std::fs::remove_file(path.join("n1.token")).unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(10), changes.changed())
            .await
            .expect("the removal is noticed")
            .unwrap();
        assert_eq!(tokens.node_of(&token), None);
    }
}
