//! Files as they come and go, good and broken.

use std::path::PathBuf;

use super::{Directory, KEPT, NEVER_GOOD, SET_ASIDE};
use crate::source::files::Files;
use crate::source::keep::Keep;
use crate::source::{Change, Update};

const A: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n";
const B: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n";
const BROKEN: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {nam: a}\n";

fn directory() -> (tempfile::TempDir, Directory) {
    let folder = tempfile::tempdir().unwrap();
    let keep = Keep::open(folder.path().to_owned()).unwrap();
    (folder, Directory::new(keep))
}

fn files(files: &[(&str, &str)]) -> Files {
    let file = |(path, text): &(&str, &str)| (PathBuf::from(path), Ok((*text).to_owned()));
    files.iter().map(file).collect()
}

/// `+name` for put, `-name` for deleted.
fn changes(update: &Update) -> Vec<String> {
    let change = |change: &Change| match change {
        Change::Put(object) => format!("+{}", object.key().name),
        Change::Delete(key) => format!("-{}", key.name),
    };
    update.changes.iter().map(change).collect()
}

#[test]
fn only_what_changed_is_told() {
    let (_folder, mut directory) = directory();
    assert_eq!(changes(&directory.take(files(&[("1.yaml", A)]))), ["+a"]);
    let two = files(&[("1.yaml", A), ("2.yaml", B)]);
    assert_eq!(changes(&directory.take(two.clone())), ["+b"]);
    assert!(directory.take(two).changes.is_empty());
    assert_eq!(changes(&directory.take(files(&[("2.yaml", B)]))), ["-a"]);
}

#[test]
fn a_broken_file_is_told_with_its_line_and_its_objects_stay() {
    let (_folder, mut directory) = directory();
    directory.take(files(&[("1.yaml", A)]));
    for broken in [BROKEN, "", "x: ["] {
        let update = directory.take(files(&[("1.yaml", broken)]));
        assert!(update.changes.is_empty(), "{broken:?}");
        assert_eq!(update.problems[0].effect, KEPT);
    }
    let update = directory.take(files(&[("1.yaml", BROKEN)]));
    assert_eq!(
        (update.problems[0].line, update.problems[0].field.as_str()),
        (3, "metadata.nam")
    );
    let update = directory.take(files(&[("1.yaml", A)]));
    assert!(update.problems.is_empty() && update.changes.is_empty());
}

#[test]
fn a_file_that_was_never_good_gives_nothing() {
    let (_folder, mut directory) = directory();
    let update = directory.take(files(&[("1.yaml", BROKEN), ("2.yaml", B)]));
    assert_eq!(changes(&update), ["+b"]);
    assert_eq!(update.problems[0].effect, NEVER_GOOD);
}

#[test]
fn the_last_good_state_survives_a_restart() {
    let (folder, mut directory) = directory();
    directory.take(files(&[("1.yaml", A)]));
    let keep = || Keep::open(folder.path().to_owned()).unwrap();
    let mut restarted = Directory::new(keep());
    let update = restarted.take(files(&[("1.yaml", BROKEN)]));
    assert_eq!(changes(&update), ["+a"]);
    assert_eq!(update.problems[0].effect, KEPT);
    // A file that was removed on purpose does not come back.
    restarted.take(files(&[]));
    let update = Directory::new(keep()).take(files(&[("1.yaml", BROKEN)]));
    assert!(update.changes.is_empty());
}

#[test]
fn of_an_object_in_two_files_the_first_holds_and_the_other_is_told() {
    let (_folder, mut directory) = directory();
    let labelled = A.replace("name: a", "name: a, labels: {x: z}");
    let update = directory.take(files(&[("1.yaml", A), ("2.yaml", &labelled)]));
    let Change::Put(object) = &update.changes[0] else {
        panic!("deleted")
    };
    assert!(object.metadata().labels.is_none());
    assert_eq!(update.problems[0].file, PathBuf::from("2.yaml"));
    assert_eq!(update.problems[0].effect, SET_ASIDE);
    assert_eq!(
        changes(&directory.take(files(&[("2.yaml", &labelled)]))),
        ["+a"]
    );
}
