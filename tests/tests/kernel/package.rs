//! A kernel of the distribution, unpacked but not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a guest is booted from.
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    /// The driver of veth pairs, where it is a module; not compressed.
    pub(crate) veth: Option<PathBuf>,
}

/// Downloads the newest kernel of a version and unpacks it, unless that was done before. `Err` says why it cannot be had.
pub(crate) fn kernel(version: &str, cache: &Path) -> Result<Kernel, String> {
    let package = newest(version).ok_or_else(|| {
        format!("the distribution offers no cloud kernel {version}; apt-get update may help")
    })?;
    let folder = cache.join(&package);
    let unpacked = folder.join("unpacked");
    if !unpacked.exists() {
        fs::create_dir_all(&folder).unwrap();
        if !run(Command::new("apt-get")
            .args(["download", "-qq", &package])
            .current_dir(&folder))
        {
            return Err(format!("package {package} cannot be downloaded"));
        }
        let archive = find(&folder, &|path| {
            path.extension().is_some_and(|ending| ending == "deb")
        });
        // Under another name first, so that what is there is whole.
        let partial = folder.join("partial");
        let archive = archive.ok_or_else(|| format!("package {package} was not downloaded"))?;
        if !run(Command::new("dpkg-deb")
            .arg("-x")
            .arg(&archive)
            .arg(&partial))
        {
            return Err(format!("package {package} cannot be unpacked"));
        }
        fs::rename(&partial, &unpacked).unwrap();
        fs::remove_file(archive).unwrap();
    }
    let named = |start: &'static str| move |path: &Path| name(path).starts_with(start);
    let image = find(&unpacked.join("boot"), &named("vmlinuz"))
        .ok_or_else(|| format!("package {package} holds no kernel"))?;
    let veth = find(&unpacked, &named("veth.ko")).map(|module| uncompressed(&module));
    Ok(Kernel { image, veth })
}

/// The cloud kernels are the smallest, and have all that a container host needs.
fn newest(version: &str) -> Option<String> {
    let pattern = format!(
        "^linux-image-{}\\.[0-9].*-cloud-amd64$",
        version.replace('.', "\\.")
    );
    let output = Command::new("apt-cache")
        .args(["search", "--names-only", &pattern])
        .output()
        .ok()?;
    String::from_utf8(output.stdout)
        .ok()?
        .lines()
        .filter_map(|line| line.split(' ').next())
        .max_by_key(|package| numbers(package))
        .map(str::to_owned)
}

/// `linux-image-6.1.0-56-cloud-amd64` sorts by 6, 1, 0, 56.
fn numbers(package: &str) -> Vec<u64> {
    package
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

fn uncompressed(module: &Path) -> PathBuf {
    if module.extension().is_some_and(|ending| ending == "ko") {
        return module.to_owned();
    }
    let plain = module.with_extension("");
    if !plain.exists() {
        // Debian compresses with xz.
        let output = Command::new("xz").arg("-dc").arg(module).output().unwrap();
        assert!(
            output.status.success(),
            "{} cannot be uncompressed",
            module.display()
        );
        fs::write(&plain, output.stdout).unwrap();
    }
    plain
}

fn find(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    // A module that was uncompressed before comes first.
    paths.sort();
    paths.into_iter().find_map(|path| {
        if path.is_dir() && !path.is_symlink() {
            return find(&path, wanted);
        }
        wanted(&path).then_some(path)
    })
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn run(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
