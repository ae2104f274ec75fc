//! Files as they come and go, good and broken.

use std::path::{Path, PathBuf};

use super::{Directory, KEPT, NEVER_GOOD, SET_ASIDE};
use crate::source::broken::NEIGHBOURS_MAX;
use crate::source::keep::Keep;
use crate::source::{Change, SourceProblem, Update};

const A: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n";
const B: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n";
const BROKEN: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {nam: a}\n";

fn directory() -> (tempfile::TempDir, Directory) {
    let folder = tempfile::tempdir().unwrap();
    let keep = Keep::open(folder.path().to_owned()).unwrap();
    (folder, Directory::new(keep))
}

/// Takes in these files and no others.
fn take(directory: &mut Directory, files: &[(&str, &str)]) -> Update {
    let file = |(path, text): &(&str, &str)| (PathBuf::from(path), Ok((*text).to_owned()));
    let texts = files.iter().map(file).collect();
    let exists = |path: &Path| files.iter().any(|(file, _)| Path::new(file) == path);
    directory.take(exists, texts)
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
    assert_eq!(changes(&take(&mut directory, &[("1.yaml", A)])), ["+a"]);
    let two = [("1.yaml", A), ("2.yaml", B)];
    assert_eq!(changes(&take(&mut directory, &two)), ["+b"]);
    assert!(take(&mut directory, &two).changes.is_empty());
    assert_eq!(changes(&take(&mut directory, &[("2.yaml", B)])), ["-a"]);
}

#[test]
fn a_broken_file_is_told_with_its_line_and_its_objects_stay() {
    let (_folder, mut directory) = directory();
    take(&mut directory, &[("1.yaml", A)]);
    for broken in [BROKEN, "", "x: ["] {
        let update = take(&mut directory, &[("1.yaml", broken)]);
        assert!(update.changes.is_empty(), "{broken:?}");
        assert_eq!(update.problems[0].effect, KEPT);
    }
    let update = take(&mut directory, &[("1.yaml", BROKEN)]);
    assert_eq!(
        (update.problems[0].line, update.problems[0].field.as_str()),
        (3, "metadata.nam")
    );
    let update = take(&mut directory, &[("1.yaml", A)]);
    assert!(update.problems.is_empty() && update.changes.is_empty());
}

#[test]
fn a_file_that_was_never_good_gives_nothing() {
    let (_folder, mut directory) = directory();
    let update = take(&mut directory, &[("1.yaml", BROKEN), ("2.yaml", B)]);
    assert_eq!(changes(&update), ["+b"]);
    assert_eq!(update.problems[0].effect, NEVER_GOOD);
}

#[test]
fn the_last_good_state_survives_a_restart() {
    let (folder, mut directory) = directory();
    take(&mut directory, &[("1.yaml", A)]);
    let keep = || Keep::open(folder.path().to_owned()).unwrap();
    let mut restarted = Directory::new(keep());
    let update = take(&mut restarted, &[("1.yaml", BROKEN)]);
    assert_eq!(changes(&update), ["+a"]);
    assert_eq!(update.problems[0].effect, KEPT);
    // A file that was removed on purpose does not come back.
    take(&mut restarted, &[]);
    let update = take(&mut Directory::new(keep()), &[("1.yaml", BROKEN)]);
    assert!(update.changes.is_empty());
}

#[test]
fn of_an_object_in_two_files_the_first_holds_and_the_other_is_told() {
    let (_folder, mut directory) = directory();
    let labelled = A.replace("name: a", "name: a, labels: {x: z}");
    let update = take(&mut directory, &[("1.yaml", A), ("2.yaml", &labelled)]);
    let Change::Put(object) = &update.changes[0] else {
        panic!("deleted")
    };
    assert!(object.metadata().labels.is_none());
    assert_eq!(update.problems[0].file, PathBuf::from("2.yaml"));
    assert_eq!(update.problems[0].effect, SET_ASIDE);
    assert_eq!(
        changes(&take(&mut directory, &[("2.yaml", &labelled)])),
        ["+a"]
    );
}

#[test]
fn a_file_that_was_not_read_again_stays_as_it_was() {
    let (_folder, mut directory) = directory();
    take(&mut directory, &[("1.yaml", A), ("2.yaml", B)]);
    let other = B.replace("name: b", "name: c");
    let texts = [(PathBuf::from("2.yaml"), Ok(other))].into();
    let update = directory.take(|_| true, texts);
    assert_eq!(changes(&update), ["-b", "+c"]);
    let update = directory.take(|path| path != Path::new("1.yaml"), [].into());
    assert_eq!(changes(&update), ["-a"]);
}

#[test]
fn an_object_that_moves_to_another_file_does_not_change() {
    let (_folder, mut directory) = directory();
    let both = format!("{A}---\n{B}");
    take(&mut directory, &[("1.yaml", &both)]);
    let update = take(&mut directory, &[("1.yaml", A), ("2.yaml", B)]);
    assert!(update.changes.is_empty() && update.problems.is_empty());
    // Defined twice for a moment, in the other order of steps.
    let update = take(&mut directory, &[("1.yaml", &both), ("2.yaml", B)]);
    assert!(update.changes.is_empty());
    assert_eq!(update.problems.len(), 1);
    let update = take(&mut directory, &[("1.yaml", &both)]);
    assert!(update.changes.is_empty() && update.problems.is_empty());
}

#[test]
fn what_stands_beside_an_error_is_told_unless_it_is_in_use_as_written() {
    let (_folder, mut directory) = directory();
    let policy = |name: &str, action: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec: {{action: {action}}}\n"
        )
    };
    let told = |update: &Update| {
        let problems = update.problems.iter();
        let line = |problem: &SourceProblem| {
            let object = problem.object.as_deref().unwrap_or_default();
            (problem.line, object.to_owned(), problem.effect)
        };
        problems.map(line).collect::<Vec<_>>()
    };
    let never = format!("{BROKEN}{}", policy("p", "DENY"));
    let update = take(&mut directory, &[("1.yaml", &never)]);
    let object = |name: &str| format!("AuthorizationPolicy default/{name}");
    assert_eq!(told(&update)[1], (5, object("p"), NEVER_GOOD));
    let message = &update.problems[1].message;
    assert!(
        message.contains("line 3 of this file is broken"),
        "{message}"
    );

    let good = format!("{A}{}", policy("p", "DENY"));
    assert!(
        take(&mut directory, &[("1.yaml", &good)])
            .problems
            .is_empty()
    );
    // What is as it was is in force as it is written; what is new or another is not.
    let broken = format!("{BROKEN}{}{}", policy("p", "DENY"), policy("new", "DENY"));
    let update = take(&mut directory, &[("1.yaml", &broken)]);
    assert_eq!(told(&update)[1..], [(10, object("new"), KEPT)]);
    let broken = format!("{BROKEN}{}", policy("p", "ALLOW"));
    let update = take(&mut directory, &[("1.yaml", &broken)]);
    assert_eq!(told(&update)[1..], [(5, object("p"), KEPT)]);
}

#[test]
fn of_many_neighbours_of_an_error_every_policy_is_named_and_the_rest_is_counted() {
    let (_folder, mut directory) = directory();
    let namespace = |index| format!("---\n{}", A.replace("name: a", &format!("name: n{index}")));
    let mut text: String = (0..NEIGHBOURS_MAX).map(namespace).collect();
    text.insert_str(0, BROKEN);
    text.push_str(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: q}\n",
    );
    let update = take(&mut directory, &[("1.yaml", &text)]);
    assert_eq!(update.problems.len(), 1 + NEIGHBOURS_MAX + 1);
    let policy = Some("PeerAuthentication default/q".to_owned());
    assert!(
        update
            .problems
            .iter()
            .any(|problem| problem.object == policy)
    );
    assert!(
        update.problems[0]
            .message
            .starts_with("1 more objects are valid")
    );
}
