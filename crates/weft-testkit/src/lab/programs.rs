//! Copies of the programs that labs run: a later build must not change a running lab, and the
//! proxy's user must be able to execute them wherever the checkout lies.
//!
//! In: the folder of a build. Out: a folder below `/var/lib/weft-lab`, one for each build and
//! shared by all labs that run it. Not here: starting them.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::lab::place::{Place, make_folder, wait_for_lock};

/// Not below `/run`, which Debian mounts noexec.
const STORE: &str = "/var/lib/weft-lab";

/// The programs of a lab, and the server that its pods may run.
const PROGRAMS: [&str; 5] = [
    "weft-controller",
    "weft-node",
    "weft-agent",
    "weft-proxy",
    "weft-peer",
];

/// Copies a build's programs unless that was done before. `record` is called before anyone else
/// may clean up, so that it can note the folder.
pub(crate) fn keep(build: &Path, record: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let _lock = lock(|file| wait_for_lock(file, "another lab to be done with the programs"))?;
    let folder = Path::new(STORE).join(fingerprint(build)?);
    if !folder.exists() {
        let unfinished = folder.with_extension("new");
        let _ = fs::remove_dir_all(&unfinished);
        make_folder(&unfinished, 0o755)?;
        for program in PROGRAMS {
            let source = build.join(program);
            fs::copy(&source, unfinished.join(program))
                .with_context(|| format!("cannot copy {}", source.display()))?;
        }
        fs::rename(&unfinished, &folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    record(&folder)?;
    Ok(folder)
}

/// Removes the copies that no lab runs any more. After an upgrade of one node the others still run the old ones, which their
/// lab no longer names.
pub(crate) fn clean_up() -> Result<()> {
    if !Path::new(STORE).exists() {
        return Ok(());
    }
    // Whatever is being taken down is taken down to its end: no signal ends this wait.
    let lock = lock(|file| {
        rustix::fs::flock(file, rustix::fs::FlockOperation::LockExclusive)
            .context("cannot lock the store of programs")
    })?;
    let used: Vec<PathBuf> = Place::all()
        .iter()
        .filter_map(|name| Place::of(name).record().ok())
        .map(|record| record.programs)
        .chain(folders_of_running_programs())
        .collect();
    let mut left = false;
    for entry in fs::read_dir(STORE)
        .context("cannot read the store")?
        .flatten()
    {
        if entry.file_name() == "lock" {
            continue;
        }
        if used.contains(&entry.path()) {
            left = true;
        } else {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    if !left {
        let _ = fs::remove_file(Path::new(STORE).join("lock"));
        let _ = fs::remove_dir(STORE);
    }
    drop(lock);
    Ok(())
}

/// Tells builds apart without reading hundreds of megabytes.
fn fingerprint(build: &Path) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    for program in PROGRAMS {
        let path = build.join(program);
        let metadata = fs::metadata(&path)
            .with_context(|| format!("{} is missing: build it first", path.display()))?;
        (metadata.len(), metadata.mtime(), metadata.mtime_nsec()).hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// The folders of all programs that run on this machine.
fn folders_of_running_programs() -> impl Iterator<Item = PathBuf> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path().join("exe")).ok())
        .filter_map(|program| Some(program.parent()?.to_owned()))
}

fn lock(take: impl Fn(&File) -> Result<()>) -> Result<File> {
    let path = Path::new(STORE).join("lock");
    loop {
        make_folder(Path::new(STORE), 0o755)?;
        let Ok(file) = File::create(&path) else {
            continue; // cleaned up between the two lines
        };
        take(&file)?;
        // Whoever cleaned up removed the file that we waited for.
        let current = fs::metadata(&path).is_ok_and(|now| {
            file.metadata()
                .is_ok_and(|ours| ours.ino() == now.ino() && ours.dev() == now.dev())
        });
        if current {
            return Ok(file);
        }
    }
}
