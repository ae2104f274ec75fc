//! The YAML files below the given paths, with their text.
//!
//! Hidden files and folders are passed over: editors and Kubernetes' own volume updates keep half-made copies there.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Largest file that is read: far above any by hand, far below what would hurt.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Deepest folder: a loop of links ends here.
const FOLDER_DEPTH_MAX: usize = 16;

/// The text of each file, or why it cannot be read.
pub(super) type Files = BTreeMap<PathBuf, Result<String, String>>;

/// Reads everything below the paths. An error is about one of the paths themselves: nothing can be said about its files.
pub(super) fn read_all(roots: &[PathBuf]) -> Result<Files, (PathBuf, io::Error)> {
    let mut files = Files::new();
    for root in roots {
        let named = |error| (root.clone(), error);
        let metadata = std::fs::metadata(root).map_err(named)?;
        if metadata.is_dir() {
            folder(root, FOLDER_DEPTH_MAX, &mut files).map_err(named)?;
        } else {
            files.insert(root.clone(), read(root));
        }
    }
    Ok(files)
}

fn folder(path: &Path, depth: usize, files: &mut Files) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        let hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
        if path.file_name().is_none_or(hidden) {
            continue;
        }
        // Follows links, as mounted ConfigMaps are made of them. A file that is gone again is no file.
        let Ok(metadata) = std::fs::metadata(&path) else {
            continue;
        };
        if metadata.is_dir() {
            if depth == 0 {
                let text = format!("{} is nested too deeply", path.display());
                return Err(io::Error::other(text));
            }
            folder(&path, depth - 1, files)?;
        } else if is_yaml(&path) {
            let text = read(&path);
            files.insert(path, text);
        }
    }
    Ok(())
}

fn is_yaml(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json"))
}

fn read(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path)
        .map_err(|error| error.to_string())?
        .len();
    if size > FILE_BYTES_MAX {
        return Err(format!("larger than {FILE_BYTES_MAX} bytes"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}
