//! A process that is killed while it downloads.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::server::etag_of;
use crate::support::{Hub, REPO, files_of, noise, set_environment};

fn binary(hub: &Hub) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-xla"));
    // What the weights are matters to no download; that they cannot be read comes after it.
    command.args(["inspect", REPO, "--json"]);
    set_environment(hub, |name, value| {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    });
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

#[test]
fn a_download_killed_at_any_moment_and_run_again_ends_with_the_right_files() {
    let hub = Hub::new();
    let index = serde_json::json!({"weight_map": {
        "a": "flax_model-00001-of-00003.msgpack",
        "b": "flax_model-00002-of-00003.msgpack",
        "c": "flax_model-00003-of-00003.msgpack",
    }})
    .to_string();
    let shards = [noise(700_000), noise(500_000), noise(150_000)];
    let names = [1, 2, 3].map(|n| format!("flax_model-0000{n}-of-00003.msgpack"));
    let mut files: Vec<(&str, &[u8])> = vec![
        ("config.json", b"{}"),
        ("flax_model.msgpack.index.json", index.as_bytes()),
    ];
    files.extend(
        names
            .iter()
            .map(String::as_str)
            .zip(shards.iter().map(Vec::as_slice)),
    );
    hub.server.add(REPO, "main", &files);
    // 0.7 s for the largest, if nothing goes wrong.
    hub.server.state().pace = Some((10_000, Duration::from_millis(10)));

    let began = Instant::now();
    assert_eq!(
        binary(&hub).status().expect("it runs").code(),
        Some(1),
        "made-up weights"
    );
    let whole = began.elapsed();
    std::fs::remove_dir_all(hub.repo_folder()).expect("removed");
    hub.server.requests();

    // Moments spread by the fractions of multiples of the golden ratio; each starts where the one
    // before was killed, and every third anew.
    let mut killed = 0;
    for round in 1..=20u32 {
        if round % 3 == 1 && hub.repo_folder().exists() {
            std::fs::remove_dir_all(hub.repo_folder()).expect("removed");
        }
        let mut child = binary(&hub).spawn().expect("it runs");
        std::thread::sleep(whole.mul_f64((f64::from(round) * 0.618_034).fract()));
        child.kill().expect("killed with SIGKILL");
        let status = child.wait().expect("it ended");
        killed += u32::from(status.code().is_none());
        hub.assert_blobs_are_whole();
    }
    assert!(
        killed >= 10,
        "only {killed} of 20 were killed before they ended"
    );

    let resumed = hub
        .server
        .requests()
        .into_iter()
        .filter(|request| request.headers.contains_key("range"));
    assert!(resumed.count() >= 5, "downloads go on where they were");
    hub.server.state().pace = None;
    assert_eq!(binary(&hub).status().expect("it runs").code(), Some(1));
    let blobs = hub.assert_blobs_are_whole();
    let commit = std::fs::read_to_string(hub.repo_folder().join("refs/main")).expect("written");
    let found = files_of(&hub.repo_folder().join("snapshots").join(commit));
    assert_eq!(found.len(), files.len());
    for (name, content) in files {
        assert!(found[name] == content, "{name}");
        assert!(blobs.contains(&etag_of(content)), "{name}");
    }
    assert!(hub.incomplete().is_empty());
}

#[test]
fn a_download_that_a_signal_ends_has_its_status_and_is_resumed() {
    for (signal, status) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        end_with(signal, status);
    }
}

fn end_with(signal: &str, status: i32) {
    let (hub, weights) = Hub::with_weights(400_000);
    hub.server.state().pace = Some((10_000, Duration::from_millis(50)));
    let mut child = binary(&hub).spawn().expect("it runs");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !hub
        .incomplete()
        .iter()
        .any(|file| file.metadata().is_ok_and(|m| m.len() > 50_000))
    {
        assert!(Instant::now() < deadline, "nothing arrives");
        std::thread::sleep(Duration::from_millis(20));
    }
    let interrupt = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status();
    assert!(interrupt.expect("kill runs").success());
    assert_eq!(child.wait().expect("it ends").code(), Some(status));
    hub.assert_blobs_are_whole();
    hub.server.state().pace = None;
    let snapshot = hub.fetch(None).expect("it can be had");
    assert_eq!(files_of(&snapshot.folder)["flax_model.msgpack"], weights);
    assert!(
        hub.server
            .requests()
            .iter()
            .any(|request| request.headers.contains_key("range"))
    );
}
