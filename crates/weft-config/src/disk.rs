//! The last good state on disk, so that a restart serves while the controller is away.
//!
//! ```text
//! file = record* trailer     record  = length, Resource (protobuf); the first one says whose state it is
//!                            trailer = length of the records (u64, big endian), their SHA-256, magic
//! ```
//!
//! In: copies of a state. Out: resources, as if a server had sent them.
//! A file that is cut, damaged, foreign or of another format is reported and otherwise as good as absent;
//! a disk that is full costs the copy, never the running state: a new file takes the old one's place by rename.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::sync::watch;
use tracing::{debug, warn};
use weft_proto::wire::discovery::Resource;
use weft_proto::{Any, Message};

use crate::settings::ConfigSettings;
use crate::status::SharedStatus;

/// Versions of one type, by resource name. Empty: the server should send it again, or say that it is gone.
pub(crate) type Versions = imbl::OrdMap<Arc<str>, Arc<str>>;

/// A copy of a state on its way to the disk.
pub(crate) trait Image: Send + 'static {
    /// Every resource: type, name and message.
    fn resources(&self) -> Box<dyn Iterator<Item = (&'static str, String, Any)> + '_>;
}

/// Names the layout above; another layout gets another magic.
const MAGIC: &[u8; 8] = b"WEFTCFG1";
const TRAILER: usize = 8 + 32 + MAGIC.len();
/// The state of 100 000 workloads takes about 40 MB; a file beyond this is not ours.
const FILE_MAX: u64 = 1 << 30;
/// Share of the time that writing may take: one part in twenty.
const IDLE_FACTOR: u32 = 20;
/// Bounds of the pause between two writes: a burst of changes is one write, and a power cut costs at most this much.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Where a state is kept, and whose it is.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    owner: Vec<String>,
}

/// A copy of a state and its versions.
pub(crate) struct Job<I> {
    image: I,
    versions: HashMap<&'static str, Versions>,
}

/// Why a file is of no use. None of these harms anything but the head start.
#[derive(Debug, Error)]
pub(crate) enum DiskError {
    /// The file system.
    #[error("cannot use {}: {source}: check space and permissions", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Not written by us, cut short, or damaged.
    #[error("{} is damaged ({reason}): it is replaced at the next sync", path.display())]
    Damaged { path: PathBuf, reason: &'static str },
    /// Written for another node, cluster or controller.
    #[error("{} belongs to {found}: it is replaced at the next sync", path.display())]
    Foreign { path: PathBuf, found: String },
}

impl<I> Job<I> {
    pub(crate) fn new(image: I, versions: HashMap<&'static str, Versions>) -> Arc<Self> {
        Arc::new(Self { image, versions })
    }
}

impl Disk {
    pub(crate) fn new(dir: &Path, file: &str, settings: &ConfigSettings) -> Self {
        Self {
            path: dir.join(file),
            owner: vec![
                settings.controller.clone(),
                settings.cluster.clone(),
                settings.node.to_string(),
            ],
        }
    }

    /// Reads what was last written; None when there is nothing.
    ///
    /// What another version of this program wrote comes without resource versions:
    /// it may have dropped fields that this one reads, so the server has to send it again.
    pub(crate) fn read(&self) -> Result<Option<Vec<Resource>>, DiskError> {
        let bytes = match self.bytes() {
            Ok(bytes) => bytes,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.io(source)),
        };
        let damaged = |reason| DiskError::Damaged {
            path: self.path.clone(),
            reason,
        };
        let mut records = checked(&bytes).map_err(damaged)?;
        let mut next = || -> Result<Option<Resource>, DiskError> {
            if records.is_empty() {
                return Ok(None);
            }
            Resource::decode_length_delimited(&mut records)
                .map(Some)
                .map_err(|_| damaged("a record does not decode"))
        };
        let header = next()?.ok_or_else(|| damaged("it is empty"))?;
        if header.aliases != self.owner {
            return Err(DiskError::Foreign {
                path: self.path.clone(),
                found: header.aliases.join(" "),
            });
        }
        let same_program = header.version == env!("CARGO_PKG_VERSION");
        let mut resources = Vec::new();
        while let Some(mut resource) = next()? {
            if !same_program {
                resource.version.clear();
            }
            resources.push(resource);
        }
        Ok(Some(resources))
    }

    fn bytes(&self) -> io::Result<Vec<u8>> {
        if fs::metadata(&self.path)?.len() > FILE_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        fs::read(&self.path)
    }

    /// Replaces the copy. An older one that cannot be replaced goes: its policies may allow what is denied by now, and a program
    /// without a copy waits for the controller. Its room often is what the new one needs.
    fn write<I: Image>(&self, job: &Job<I>) -> Result<(), DiskError> {
        self.replace(job).or_else(|_no_room| {
            let _ = fs::remove_file(&self.path);
            self.replace(job)
        })
    }

    fn replace<I: Image>(&self, job: &Job<I>) -> Result<(), DiskError> {
        let next = self.path.with_extension("next");
        let written = self.write_next(&next, job).and_then(|()| {
            fs::rename(&next, &self.path)?;
            // The rename itself must survive a power cut.
            File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
        });
        written.map_err(|source| {
            // A half-written file only takes space that is already short.
            let _ = fs::remove_file(&next);
            self.io(source)
        })
    }

    fn write_next<I: Image>(&self, next: &Path, job: &Job<I>) -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(next)?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let mut digest = Sha256::new();
        let mut length = 0u64;
        let mut put = |resource: &Resource| {
            let record = resource.encode_length_delimited_to_vec();
            digest.update(&record);
            length += record.len() as u64;
            out.write_all(&record)
        };
        put(&Resource {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            aliases: self.owner.clone(),
            ..Resource::default()
        })?;
        for (url, name, message) in job.image.resources() {
            let versions = job.versions.get(url);
            let version = versions.and_then(|versions| versions.get(name.as_str()));
            put(&Resource {
                version: version.map(ToString::to_string).unwrap_or_default(),
                resource: Some(message),
                name,
                ..Resource::default()
            })?;
        }
        out.write_all(&length.to_be_bytes())?;
        out.write_all(&digest.finalize())?;
        out.write_all(MAGIC)?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_data()
    }

    fn io(&self, source: io::Error) -> DiskError {
        DiskError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

/// Writes every state that arrives, the last one first when they come faster than the disk takes them.
pub(crate) async fn write<I: Image + Sync>(
    disk: Disk,
    mut jobs: watch::Receiver<Option<Arc<Job<I>>>>,
    status: SharedStatus,
) {
    while jobs.changed().await.is_ok() {
        let Some(job) = jobs.borrow_and_update().clone() else {
            continue;
        };
        let begin = Instant::now();
        let to = disk.clone();
        let written = tokio::task::spawn_blocking(move || to.write(&job)).await;
        let error = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            // The runtime is going down.
            Err(_) => return,
        };
        let took = begin.elapsed();
        debug!(?took, error, "configuration written to disk");
        let news = status.update(|status| {
            let before = std::mem::replace(&mut status.disk_error, error.clone());
            error.is_some() && before != error
        });
        if news {
            warn!(
                error,
                "the configuration is not on disk: a restart without the controller would serve nothing"
            );
        }
        tokio::time::sleep((took * IDLE_FACTOR).clamp(PAUSE_MIN, PAUSE_MAX)).await;
    }
}

/// The records of a file whose trailer fits them.
fn checked(bytes: &[u8]) -> Result<&[u8], &'static str> {
    let split = bytes.len().checked_sub(TRAILER).ok_or("it is too short")?;
    let (records, trailer) = bytes.split_at(split);
    let (length, rest) = trailer.split_at(8);
    let (digest, magic) = rest.split_at(32);
    if magic != MAGIC {
        return Err("it does not end as our format does");
    }
    if length != (records.len() as u64).to_be_bytes() {
        return Err("its length is wrong");
    }
    if Sha256::digest(records).as_slice() != digest {
        return Err("its checksum is wrong");
    }
    Ok(records)
}
