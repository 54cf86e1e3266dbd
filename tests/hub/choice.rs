//! Which revision and which files are taken.

use gemma_xla::hub::{Error, Wanted, fetch};

use crate::support::{Hub, REPO, noise};

#[test]
fn main_with_flax_weights_is_taken() {
    let (hub, _) = Hub::with_weights(30_000);
    hub.server.add(
        REPO,
        "flax",
        &[("config.json", b"{}"), ("flax_model.msgpack", b"other")],
    );
    let snapshot = hub.fetch(None).unwrap();
    assert_eq!(
        (snapshot.revision.as_str(), snapshot.weights.as_deref()),
        ("main", Some("flax_model.msgpack"))
    );
}

#[test]
fn flax_weights_of_the_flax_revision_are_preferred_to_safetensors() {
    let hub = Hub::new();
    let safetensors = noise(30_000);
    hub.server.add(
        REPO,
        "main",
        &[("config.json", b"{}"), ("model.safetensors", &safetensors)],
    );
    let snapshot = hub.fetch(None).unwrap();
    assert_eq!(
        (snapshot.revision.as_str(), snapshot.weights.as_deref()),
        ("main", Some("model.safetensors"))
    );

    hub.server.add(
        REPO,
        "flax",
        &[("config.json", b"{}"), ("flax_model.msgpack", b"flax")],
    );
    let snapshot = hub.fetch(None).unwrap();
    assert_eq!(
        (snapshot.revision.as_str(), snapshot.weights.as_deref()),
        ("flax", Some("flax_model.msgpack"))
    );
    let main = hub.fetch(Some("main")).unwrap();
    assert_eq!(
        main.weights.as_deref(),
        Some("model.safetensors"),
        "what is asked for is given"
    );
}

#[test]
fn a_flax_revision_without_flax_weights_is_left_alone() {
    let hub = Hub::new();
    hub.server.add(
        REPO,
        "main",
        &[("config.json", b"{}"), ("model.safetensors", b"torch")],
    );
    hub.server.add(
        REPO,
        "flax",
        &[("config.json", b"{}"), ("README.md", b"soon")],
    );
    assert_eq!(hub.fetch(None).unwrap().revision, "main");
}

#[test]
fn a_repository_without_main_is_taken_from_flax() {
    let hub = Hub::new();
    hub.server.add(
        REPO,
        "flax",
        &[("config.json", b"{}"), ("flax_model.msgpack", b"flax")],
    );
    assert_eq!(hub.fetch(None).unwrap().revision, "flax");
}

#[test]
fn the_weights_are_taken_in_one_form() {
    let hub = Hub::new();
    let files: [(&str, &[u8]); 7] = [
        ("config.json", b"{}"),
        ("flax_model.msgpack", b"flax"),
        ("model.safetensors", b"torch"),
        ("pytorch_model.bin", b"pickle"),
        ("tokenizer.json", b"{}"),
        ("tokenizer.model", b"pieces"),
        ("tokenizer_config.json", b"{}"),
    ];
    hub.server.add(REPO, "main", &files);
    let snapshot = hub.fetch(None).unwrap();
    assert_eq!(
        snapshot.files,
        [
            "config.json",
            "flax_model.msgpack",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
}

#[test]
fn shards_are_those_that_the_index_names() {
    let hub = Hub::new();
    let index = br#"{"metadata": {}, "weight_map": {"a": "flax_model-00001-of-00002.msgpack", "b": "flax_model-00002-of-00002.msgpack"}}"#;
    let (one, two) = (noise(30_000), noise(40_000));
    hub.server.add(
        REPO,
        "main",
        &[
            ("config.json", b"{}"),
            ("flax_model.msgpack.index.json", index),
            ("flax_model-00001-of-00002.msgpack", &one),
            ("flax_model-00002-of-00002.msgpack", &two),
            ("flax_model-00003-of-00003.msgpack", b"of another time"),
        ],
    );
    let snapshot = hub.fetch(None).unwrap();
    assert_eq!(
        snapshot.files,
        [
            "config.json",
            "flax_model-00001-of-00002.msgpack",
            "flax_model-00002-of-00002.msgpack",
            "flax_model.msgpack.index.json"
        ]
    );
}

#[test]
fn an_index_that_names_what_is_not_there_or_climbs_out_is_refused() {
    let hub = Hub::new();
    for (shard, said) in [
        ("flax_model-00001-of-00001.msgpack", "not in revision main"),
        ("../../../../evil.msgpack", "not a plain file name"),
        ("/etc/passwd", "not a plain file name"),
    ] {
        let index = serde_json::json!({"weight_map": {"a": shard}}).to_string();
        hub.server.add(
            REPO,
            "main",
            &[
                ("config.json", b"{}"),
                ("flax_model.msgpack.index.json", index.as_bytes()),
            ],
        );
        let message = hub.error(None).to_string();
        assert!(
            message.contains(shard) && message.contains(said),
            "{message}"
        );
    }
}

#[test]
fn names_and_tags_from_the_server_that_climb_out_are_refused() {
    for name in ["../evil.json", "/etc/passwd", "a/../../b", "..\\evil"] {
        let (hub, _) = Hub::with_weights(30_000);
        hub.server.state().listed.push(name.to_owned());
        let error = hub.error(None);
        assert!(
            matches!(&error, Error::FileName { file, .. } if file == name),
            "{error}"
        );
        assert!(!hub.repo_folder().exists());
    }
    for etag in ["../../../evil", "/tmp/evil", "..", ""] {
        let (hub, _) = Hub::with_weights(30_000);
        hub.server
            .state()
            .etags
            .insert("config.json".into(), etag.to_owned());
        let message = hub.error(None).to_string();
        assert!(message.contains("ETag of config.json"), "{message}");
    }
    let (hub, _) = Hub::with_weights(30_000);
    for commit in hub.server.state().revisions.values_mut() {
        "../../evil".clone_into(commit);
    }
    let mut state = hub.server.state();
    let files = state.commits.values().next().unwrap().clone();
    state
        .commits
        .insert((REPO.to_owned(), "../../evil".to_owned()), files);
    drop(state);
    let message = hub.error(None).to_string();
    assert!(
        message.contains("invalid name of a commit: \"../../evil\""),
        "{message}"
    );
}

#[test]
fn a_revision_without_weights_says_what_was_looked_for() {
    let hub = Hub::new();
    hub.server.add(
        REPO,
        "main",
        &[("config.json", b"{}"), ("pytorch_model.bin", b"pickle")],
    );
    let message = hub.error(None).to_string();
    for part in [
        REPO,
        "revision main",
        "flax_model.msgpack",
        "model.safetensors",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_missing_revision_lists_those_that_there_are() {
    let (hub, _) = Hub::with_weights(30_000);
    hub.server.add(REPO, "flax", &[("config.json", b"{}")]);
    hub.server.add(
        REPO,
        "refs/pr/1",
        &[("config.json", b"{ }"), ("flax_model.msgpack", b"x")],
    );
    let message = hub.error(Some("flux")).to_string();
    assert!(
        message.contains("no revision \"flux\"; there are: flax, main, refs/pr/1"),
        "{message}"
    );
    assert_eq!(
        hub.fetch(Some("refs/pr/1")).unwrap().revision,
        "refs/pr/1",
        "slashes and all"
    );
    let refs = hub.repo_folder().join("refs/refs/pr/1");
    assert!(refs.is_file());
    for bad in ["../main", "", "a b", "/main"] {
        assert!(
            matches!(hub.error(Some(bad)), Error::RevisionName { .. }),
            "{bad}"
        );
    }
}

#[test]
fn a_configuration_alone_needs_no_weights() {
    let (hub, _) = Hub::with_weights(30_000);
    let repo = REPO.parse().unwrap();
    let snapshot = fetch(&repo, None, Wanted::Configuration, &hub.settings(), &|_| {}).unwrap();
    assert_eq!(snapshot.files, ["config.json"]);
    assert_eq!(snapshot.weights, None);
    assert!(!hub.server.requests().iter().any(|request| request.at_cdn));
}
