//! What must hold for the repository itself: dependency edges, one graph of features, sizes, heads, no module cycles.

use std::path::Path;

use weft_testkit::repo::{cycles, edges, features, limits, sizes};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests are a folder of the workspace")
}

#[test]
fn crates_depend_only_on_what_their_layer_may() {
    let findings = edges::findings(root()).unwrap();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn automation_programs_and_tests_compile_each_dependency_once() {
    let findings = features::findings(root()).unwrap();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn files_and_functions_are_short_and_have_heads() {
    let findings = sizes::findings(root()).unwrap();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn the_table_of_limits_is_that_of_the_code() {
    let findings = limits::findings(root()).unwrap();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn modules_form_no_cycles() {
    let findings = cycles::findings(root()).unwrap();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}
