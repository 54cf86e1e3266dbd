//! Holds the cases against the crate's source: no operation may be without one.

use std::fs;
use std::path::Path;

/// The Rust files of a folder, as one text each.
fn sources(folder: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    fs::read_dir(&folder)
        .expect("the folder is in the repository")
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| fs::read_to_string(path).expect("it can be read"))
        .collect()
}

/// The builder's methods that are written out. Those of single elementwise operations come from a
/// macro, and their cases from its lists.
fn operations() -> Vec<String> {
    let mut names: Vec<String> = sources("hlo/src/ops")
        .iter()
        .flat_map(|text| text.split("pub fn ").skip(1))
        .filter_map(|rest| {
            let (name, parameters) = rest.split_once('(')?;
            let method = parameters.trim_start().starts_with("&self");
            let plain = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            (method && plain).then(|| name.to_owned())
        })
        .collect();
    names.sort();
    names
}

#[test]
fn every_operation_of_the_builder_has_a_case() {
    let operations = operations();
    assert!(operations.len() > 40, "found only {operations:?}");
    let cases = sources("tests/hlo_ops").concat();
    let missing: Vec<_> = operations
        .iter()
        .filter(|name| !cases.contains(&format!("b.{name}(")))
        .collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
}
