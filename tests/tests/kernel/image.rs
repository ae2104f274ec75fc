//! The guest's file system, as the kernel wants it: a cpio archive of the kind `newc`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Programs of this machine that the guest runs.
const PROGRAMS: [&str; 3] = ["sh", "mount", "ip"];

/// Where the driver of veth pairs is in the guest, if it is a module.
pub(crate) const MODULE: &str = "/veth.ko";

/// Folders to mount on.
const FOLDERS: [&str; 5] = ["proc", "sys", "dev", "run", "tmp"];

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;

/// Writes the archive: the tests, what they need, a module, and the first process.
pub(crate) fn write(to: &Path, tests: &[(&str, PathBuf)], module: Option<&Path>, init: &str) {
    let mut files: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    files.insert("init".into(), init.as_bytes().to_vec());
    for (name, program) in tests {
        files.insert(name.into(), fs::read(program).unwrap());
    }
    if let Some(module) = module {
        files.insert(MODULE[1..].into(), fs::read(module).unwrap());
    }
    let programs = PROGRAMS.map(program);
    for program in &programs {
        let name = program.file_name().unwrap();
        files.insert(Path::new("bin").join(name), fs::read(program).unwrap());
    }
    for used in programs
        .iter()
        .chain(tests.iter().map(|(_, program)| program))
    {
        for library in libraries(used) {
            let bytes = fs::read(&library).unwrap();
            files.insert(library.strip_prefix("/").unwrap().to_owned(), bytes);
        }
    }

    let mut archive = Vec::new();
    let mut folders: Vec<PathBuf> = FOLDERS.iter().map(PathBuf::from).collect();
    for path in files.keys() {
        folders.extend(
            path.ancestors()
                .skip(1)
                .filter(|above| *above != Path::new(""))
                .map(Path::to_owned),
        );
    }
    // Parents sort before what is in them.
    folders.sort();
    folders.dedup();
    for folder in &folders {
        entry(&mut archive, folder, DIRECTORY, &[]);
    }
    for (path, bytes) in &files {
        entry(&mut archive, path, EXECUTABLE, bytes);
    }
    entry(&mut archive, Path::new("TRAILER!!!"), 0, &[]);
    fs::write(to, archive).unwrap();
}

/// One entry: 13 numbers of eight hex digits after the magic, name and content padded to four bytes.
fn entry(archive: &mut Vec<u8>, path: &Path, mode: u32, content: &[u8]) {
    let name = path.to_str().unwrap();
    let inode = archive.len() as u32 + 1;
    let numbers = [
        inode,
        mode,
        0,
        0,
        1,
        0,
        content.len() as u32,
        0,
        0,
        0,
        0,
        name.len() as u32 + 1,
        0,
    ];
    archive.extend(b"070701");
    for number in numbers {
        archive.extend(format!("{number:08x}").bytes());
    }
    archive.extend(name.bytes());
    archive.push(0);
    pad(archive);
    archive.extend(content);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

fn program(name: &str) -> PathBuf {
    ["/bin", "/sbin", "/usr/bin", "/usr/sbin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is not installed"))
}

/// Absolute paths of the shared libraries of a program, its loader among them.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(|word| PathBuf::from(word.trim_end_matches(':')))
        .collect()
}
