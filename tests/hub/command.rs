//! The commands, with names on the Hub instead of folders.

use std::fs;

use predicates::prelude::*;

use crate::common::{data, fails_naming};
use crate::server::etag_of;
use crate::support::{Hub, REPO, add_checkpoint, tokens};

/// Two prompts, as JSON lines.
const PROMPTS: &str = "{\"prompt\": \"It is a truth\"}\n{\"prompt\": \"The\"}\n";

#[test]
fn a_model_from_the_hub_gives_the_tokens_that_its_folder_gives() {
    let hub = Hub::new();
    add_checkpoint(&hub, "flax", &data("gemma-small"));
    hub.server.add(
        REPO,
        "main",
        &[("config.json", b"{}"), ("model.safetensors", b"not wanted")],
    );
    let (expected, _) = tokens(
        &hub,
        &[data("gemma-small").to_str().expect("a name")],
        PROMPTS,
    );
    assert_eq!(expected.lines().count(), 2);
    for model in [&[REPO, "--revision", "flax"][..], &[REPO]] {
        let (found, stderr) = tokens(&hub, model, PROMPTS);
        assert_eq!(found, expected);
        assert!(
            stderr.contains("google/gemma-small: flax_model.msgpack of revision flax"),
            "{stderr}"
        );
    }
}

#[test]
fn a_sharded_model_from_the_hub_is_inspected_and_converted() {
    let hub = Hub::new();
    add_checkpoint(&hub, "main", &data("random-sharded"));
    let output = hub.command(&["inspect", REPO, "--json"]).assert().success();
    let report: serde_json::Value =
        serde_json::from_slice(&output.get_output().stdout).expect("one object");
    assert_eq!(report["fit"]["fits"], true);
    assert_eq!(report["files"].as_array().map(Vec::len), Some(5));

    let to = hub.home.path().join("converted");
    hub.command(&[
        "convert",
        REPO,
        to.to_str().expect("a name"),
        "--to",
        "npz",
        "--revision",
        "main",
    ])
    .env("HF_HUB_OFFLINE", "1")
    .assert()
    .success();
    assert!(to.join("flax_model.npz").is_file() && to.join("config.json").is_file());
    assert!(!to.join("config.json").is_symlink());
}

#[test]
fn a_model_from_the_hub_is_compared_with_flax() {
    let hub = Hub::new();
    add_checkpoint(&hub, "flax", &data("random-mha"));
    let reference = data("random-mha").join("reference-float32.npz");
    hub.command(&["parity", "--model", REPO, "--revision", "flax"])
        .arg(reference)
        .assert()
        .success()
        .stdout(predicate::str::contains("within tolerance"));
}

#[test]
fn a_plan_needs_the_configuration_alone() {
    let hub = Hub::new();
    add_checkpoint(&hub, "main", &data("random-mha"));
    // What is planned for does not exist; by then the configuration is there.
    let args = ["plan", "--model", REPO, "--topology", "v0:1x1"];
    hub.command(&args)
        .assert()
        .code(1)
        .stderr(predicate::str::contains(
            "google/gemma-small: config.json, generation_config.json of revision main",
        ));
    let requests = hub.server.requests();
    assert!(
        !requests
            .iter()
            .any(|request| request.path.contains("flax_model"))
    );
}

#[test]
fn a_folder_wins_over_a_name_on_the_hub() {
    let hub = Hub::new();
    let there = hub.home.path().join(REPO);
    fs::create_dir_all(&there).expect("made");
    for entry in fs::read_dir(data("random-mha")).expect("listed") {
        let path = entry.expect("listed").path();
        fs::copy(&path, there.join(path.file_name().expect("a name"))).expect("copied");
    }
    hub.command(&["inspect", REPO])
        .current_dir(hub.home.path())
        .assert()
        .success()
        .stderr("");
    hub.command(&["inspect", REPO, "--revision", "flax"])
        .current_dir(hub.home.path())
        .assert()
        .success()
        .stderr(predicate::str::contains("warning: --revision flax"));
    assert!(hub.server.requests().is_empty());
}

#[test]
fn what_is_neither_a_folder_nor_a_name_says_so() {
    let hub = Hub::new();
    for model in [
        "gemma",
        "./gemma",
        "/no/such/gemma",
        "a/b/c",
        "google/gemma--2b",
    ] {
        for command in [
            &["inspect", model][..],
            &["generate", "x", "--model", model],
        ] {
            fails_naming(
                &mut hub.command(command),
                &[model, "no such file or folder", "not a repository name"],
            );
        }
    }
    fails_naming(
        &mut hub.command(&["inspect", "google/gemma-3b"]),
        &[
            "google/gemma-3b: no such file or folder",
            "no such repository on http://127.0.0.1",
        ],
    );
    assert!(
        hub.server
            .requests()
            .iter()
            .all(|request| request.path.contains("gemma-3b"))
    );
}

#[test]
fn the_tokens_variable_and_the_stored_token_open_a_gate() {
    let hub = Hub::new();
    add_checkpoint(&hub, "main", &data("random-mha"));
    hub.server.state().gate = Some(("hf_right".to_owned(), 403, "GatedRepo"));
    fails_naming(
        &mut hub.command(&["inspect", REPO]),
        &[
            "accept the licence on http://127.0.0.1",
            "/google/gemma-small",
            "HF_TOKEN",
        ],
    );
    hub.command(&["inspect", REPO])
        .env("HF_TOKEN", "hf_right")
        .assert()
        .success();
    fs::remove_dir_all(hub.repo_folder()).expect("removed");
    fs::write(hub.home.path().join("token"), "hf_right\n").expect("written");
    hub.command(&["inspect", REPO]).assert().success();
}

#[test]
fn a_missing_revision_is_named_with_those_that_there_are() {
    let hub = Hub::new();
    add_checkpoint(&hub, "main", &data("random-mha"));
    fails_naming(
        &mut hub.command(&["inspect", REPO, "--revision", "flax"]),
        &["google/gemma-small: no revision \"flax\"; there are: main"],
    );
}

#[test]
fn nothing_but_the_line_is_printed_where_there_is_no_terminal() {
    let hub = Hub::new();
    add_checkpoint(&hub, "main", &data("random-mha"));
    let output = hub
        .command(&["inspect", REPO, "--json"])
        .output()
        .expect("it runs");
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        !stderr.contains('\r') && !stderr.contains('\x1b'),
        "{stderr:?}"
    );
    serde_json::from_slice::<serde_json::Value>(&output.stdout)
        .expect("one object and nothing else");
}

#[test]
fn no_log_message_and_no_error_has_a_secret() {
    let hub = Hub::new();
    add_checkpoint(&hub, "main", &data("random-mha"));
    let run = |endpoint: &str| {
        let output = hub
            .command(&["inspect", REPO])
            .env("HF_ENDPOINT", endpoint)
            .env("HF_TOKEN", "hf_secret")
            .env("GEMMA_XLA_LOG", "trace")
            .output()
            .expect("it runs");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let endpoint = hub.server.endpoint();
    let with_password = endpoint.replace("http://", "http://ada:pa55word@");
    hub.server.fault("/api/models/google/nothing", 1, 500);
    for endpoint in [
        endpoint.as_str(),
        &with_password,
        "http://ada:pa55word@127.0.0.1:9",
    ] {
        let said = run(endpoint);
        for secret in ["hf_secret", "pa55word"] {
            assert!(!said.contains(secret), "{endpoint}: {said}");
        }
    }
}

#[test]
fn an_error_of_a_file_in_the_cache_says_what_to_delete() {
    let hub = Hub::new();
    add_checkpoint(&hub, "main", &data("random-mha"));
    hub.command(&["inspect", REPO]).assert().success();
    let blobs = hub.repo_folder().join("blobs");
    let weights = fs::read_dir(&blobs)
        .expect("listed")
        .map(|entry| entry.expect("listed").path())
        .max_by_key(|path| path.metadata().expect("a file").len())
        .expect("blobs");
    let content = fs::read(&weights).expect("read");
    fs::write(&weights, &content[..content.len() / 2]).expect("written");
    let mut offline = hub.command(&["inspect", REPO]);
    offline.env("HF_HUB_OFFLINE", "1");
    let name = weights.file_name().expect("a name").to_string_lossy();
    fails_naming(&mut offline, &["flax_model.msgpack", "delete", &name]);
    // With the Hub in reach it is downloaded again.
    hub.command(&["inspect", REPO]).assert().success();
    hub.assert_blobs_are_whole();
}

#[test]
fn a_cache_named_by_variables_is_used_where_the_hub_gives_no_access() {
    let hub = Hub::new();
    add_checkpoint(&hub, "main", &data("random-mqa"));
    let home = hub.home.path();
    let inspect = |hf_home: &str, offline: bool| {
        let mut command = hub.command(&["inspect", REPO, "--json"]);
        command.env("HF_HOME", hf_home).env("PLACE", home);
        command.env("HOME", home);
        if offline {
            command.env("HF_HUB_OFFLINE", "1");
        }
        let output = command.output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    assert!(inspect("$PLACE/of python", false).contains("downloaded"));
    assert!(home.join("of python/hub").is_dir());
    // An expired token, a refusal, a failure, and a captive portal.
    for (status, body) in [(401, ""), (403, ""), (503, ""), (200, "<html>log in")] {
        hub.server.state().faults = vec![crate::server::Fault {
            path: "/api/models",
            times: usize::MAX,
            status,
            headers: vec![("retry-after", "0".to_owned())],
            body,
        }];
        let said = inspect("~/of python", false);
        assert!(said.contains("warning: "), "{status}: {said}");
        assert!(
            said.contains("using what is in the cache"),
            "{status}: {said}"
        );
    }
    hub.server.requests();
    assert!(inspect("${PLACE}/of python", true).contains("all in the cache"));
    assert!(hub.server.requests().is_empty());
}

#[test]
fn a_file_that_nothing_measures_is_refused_by_name() {
    let hub = Hub::new();
    add_checkpoint(&hub, "main", &data("gemma-small"));
    {
        let mut state = hub.server.state();
        state.no_length = true;
        state
            .etags
            .insert("config.json".to_owned(), "tag-1".to_owned());
    }
    fails_naming(&mut hub.command(&["inspect", REPO]), &["config.json"]);
}

#[test]
fn a_link_in_the_place_of_a_partial_download_is_not_followed() {
    let hub = Hub::new();
    add_checkpoint(&hub, "main", &data("gemma-small"));
    let elsewhere = hub.home.path().join("elsewhere");
    fs::write(&elsewhere, "mine").expect("it is written");
    let blobs = hub.repo_folder().join("blobs");
    fs::create_dir_all(&blobs).expect("a folder");
    for entry in fs::read_dir(data("gemma-small")).expect("a folder") {
        let path = entry.expect("it is listed").path();
        let tag = etag_of(&fs::read(path).expect("it reads"));
        let partial = blobs.join(format!("{tag}.incomplete"));
        std::os::unix::fs::symlink(&elsewhere, partial).expect("a link");
    }
    hub.command(&["inspect", REPO]).assert().success();
    assert_eq!(fs::read(&elsewhere).expect("it reads"), b"mine");
}
