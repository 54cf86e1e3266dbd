//! Where a tree is found: in items, steps and runs; and what is refused, by name.

use std::fs;

use tempfile::tempdir;

use super::{assert_is_flax, files, fixture, open, written};

fn refused(path: &std::path::Path) -> String {
    let message = open(path).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn an_item_is_found_in_a_checkpoint_and_in_the_newest_finished_step_of_a_run() {
    let tree = files(&fixture("old-flat"));
    for names in [
        &["params"][..],
        &["default", "metadata"],
        &["7/items"],
        &["000010/default", "9/default"],
        &["checkpoint_100/params", "checkpoint_20/params"],
        &["2b-it"],
    ] {
        let dir = tempdir().unwrap();
        // Only the first has a tree; the others would fail.
        for (place, name) in names.iter().enumerate() {
            let mut tree = tree.clone();
            if place > 0 {
                let manifest = tree.get_mut("manifest.ocdbt").unwrap();
                manifest.truncate(10);
            }
            if *name == "metadata" {
                tree.retain(|path, _| path == "_sharding");
            }
            written(&dir, name, &tree);
        }
        fs::create_dir(dir.path().join("30.orbax-checkpoint-tmp-1")).unwrap();
        let checkpoint = open(dir.path()).unwrap();
        assert!(
            checkpoint.path().starts_with(dir.path().join(names[0])),
            "{names:?}"
        );
        assert_is_flax(&checkpoint, names[0]);
    }
}

#[test]
fn parameters_are_preferred_to_other_items_and_unknown_items_must_be_chosen() {
    let tree = files(&fixture("old-flat"));
    let dir = tempdir().unwrap();
    for item in ["train_state", "params"] {
        written(&dir, item, &tree);
    }
    let checkpoint = open(dir.path()).unwrap();
    assert!(checkpoint.path().starts_with(dir.path().join("params")));
    fs::rename(dir.path().join("params"), dir.path().join("other")).unwrap();
    let message = refused(dir.path());
    assert!(message.contains("other, train_state"), "{message}");
}

#[test]
fn an_unfinished_save_is_refused_by_name() {
    let tree = files(&fixture("nested"));
    let dir = tempdir().unwrap();
    let half = written(&dir, "0.orbax-checkpoint-tmp-17", &tree);
    for path in [&half, dir.path()] {
        let message = refused(path);
        let named = message.contains("0.orbax-checkpoint-tmp-17");
        assert!(
            named && message.contains("unfinished Orbax save"),
            "{message}"
        );
    }
    // Metadata, and nothing that it is of.
    let mut bare = tree.clone();
    bare.retain(|path, _| path.starts_with('_'));
    let dir = tempdir().unwrap();
    let message = refused(&written(&dir, "bare", &bare));
    assert!(
        message.contains("bare: an unfinished Orbax save"),
        "{message}"
    );
}

#[test]
fn the_rest_of_a_training_state_is_left_unread() {
    let mut tree = files(&fixture("maxtext-state"));
    // Damaged, it would be an error if it were read.
    let unread = tree.keys().filter(|path| path.starts_with("opt_state"));
    let unread: Vec<String> = unread.cloned().collect();
    assert!(!unread.is_empty());
    for path in unread {
        tree.insert(path, b"damaged".to_vec());
    }
    let dir = tempdir().unwrap();
    let checkpoint = open(&written(&dir, "state", &tree)).unwrap();
    assert_is_flax(&checkpoint, "state");
}

#[test]
fn a_folder_of_arrays_needs_no_metadata_of_the_tree() {
    let mut tree = files(&fixture("nested"));
    tree.retain(|path, _| path.contains('/'));
    // As keys with slashes lie: in folders of their own.
    let deep = tree
        .into_iter()
        .map(|(path, bytes)| {
            (
                format!(
                    "transformer/{}",
                    path.replacen("layer_0.attn.", "layer_0/attn/", 1)
                ),
                bytes,
            )
        })
        .collect();
    let dir = tempdir().unwrap();
    let checkpoint = open(&written(&dir, "deep", &deep)).unwrap();
    assert_is_flax(&checkpoint, "deep");
}

#[test]
fn a_folder_without_anything_of_orbax_has_no_weights() {
    let dir = tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
    fs::write(
        dir.path().join("checkpoint"),
        "model_checkpoint_path: \"x\"",
    )
    .unwrap();
    let message = refused(dir.path());
    assert!(message.contains("no weights found"), "{message}");
}
