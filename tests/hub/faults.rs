//! Servers and connections that fail.

use std::fs;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use gemma_xla::hub::{Error, Event, Settings};

use crate::server::{Fault, etag_of};
use crate::support::{Hub, files_of, noise};

#[test]
fn failures_that_pass_are_waited_for() {
    for status in [429, 500, 502, 503, 504] {
        for path in ["/api/models", "/resolve/", "/content/"] {
            let (hub, weights) = Hub::with_weights(30_000);
            hub.server.fault(path, 3, status);
            let snapshot = hub.fetch(None).unwrap();
            assert_eq!(files_of(&snapshot.folder)["flax_model.msgpack"], weights);
        }
    }
}

#[test]
fn failures_that_stay_end_in_a_line_that_says_which() {
    let (hub, _) = Hub::with_weights(30_000);
    for (status, said) in [
        (500, "500"),
        (503, "503"),
        (429, "too many requests"),
        (418, "418"),
    ] {
        for path in ["/api/models", "/resolve/", "/content/"] {
            hub.server.state().faults.clear();
            hub.server.fault(path, usize::MAX, status);
            let message = hub.error(None).to_string();
            assert!(
                message.contains(said) && message.contains("http://127.0.0.1"),
                "{message}"
            );
            assert!(
                !message.contains("secret"),
                "addresses are signed: {message}"
            );
        }
    }
    assert_eq!(hub.assert_blobs_are_whole().len(), 1, "the configuration");
}

#[test]
fn what_the_server_says_of_a_failure_is_passed_on() {
    let (hub, _) = Hub::with_weights(30_000);
    hub.server.state().faults.push(Fault {
        path: "/api/models",
        times: 1,
        status: 400,
        headers: Vec::new(),
        body: "{\"error\": \"Bad\\nthings\"}",
    });
    let message = hub.error(None).to_string();
    assert!(
        message.contains("the server responded with status 400 (Bad things)"),
        "{message}"
    );
}

#[test]
fn the_pause_that_a_server_asks_for_is_kept_unless_it_is_too_long() {
    let (hub, _) = Hub::with_weights(30_000);
    let busy = |seconds: &str| Fault {
        path: "/api/models",
        times: 1,
        status: 429,
        headers: vec![("retry-after", seconds.to_owned())],
        body: "",
    };
    hub.server.state().faults.push(busy("1"));
    let waited = Mutex::new(Vec::new());
    let start = Instant::now();
    hub.fetch_with(None, &hub.settings(), &|event| {
        if let Event::Waiting { pause, .. } = event {
            waited.lock().unwrap().push(pause);
        }
    })
    .unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(*waited.lock().unwrap(), [Duration::from_secs(1)]);

    fs::remove_dir_all(hub.repo_folder()).unwrap();
    hub.server.state().faults.push(busy("3600"));
    let start = Instant::now();
    let message = hub.error(None).to_string();
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(message.contains("3600 s"), "{message}");
}

#[test]
fn a_cut_connection_is_resumed_where_it_was_cut() {
    let (hub, weights) = Hub::with_weights(300_000);
    hub.server.state().cut_after = Some(50_000);
    let snapshot = hub.fetch(None).unwrap();
    assert_eq!(files_of(&snapshot.folder)["flax_model.msgpack"], weights);
    let requests = hub.server.requests();
    let ranges: Vec<&str> = requests
        .iter()
        .filter(|request| request.at_cdn)
        .map(|request| request.headers.get("range").map_or("all", String::as_str))
        .collect();
    assert_eq!(
        ranges,
        [
            "all",
            "bytes=50000-",
            "bytes=100000-",
            "bytes=150000-",
            "bytes=200000-",
            "bytes=250000-"
        ]
    );
    let tags: Vec<_> = requests
        .iter()
        .filter_map(|request| request.headers.get("if-range"))
        .collect();
    assert!(
        !tags.is_empty() && tags.iter().all(|tag| tag.starts_with("\"multipart-")),
        "{tags:?}"
    );
}

#[test]
fn a_connection_that_is_cut_at_once_each_time_is_given_up() {
    let (hub, _) = Hub::with_weights(300_000);
    hub.server.state().cut_after = Some(0);
    let error = hub.error(None);
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");

    // What had come by then is kept for the next time.
    hub.server.state().cut_after = Some(100_000);
    let stop = Mutex::new(false);
    let error = hub
        .fetch_with(None, &hub.settings(), &|event| {
            if matches!(event, Event::Waiting { .. })
                && !std::mem::replace(&mut *stop.lock().unwrap(), true)
            {
                hub.server.state().cut_after = Some(0);
            }
        })
        .unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains(
            "flax_model.msgpack: the download was interrupted after 100000 bytes of 300000"
        ),
        "{message}"
    );
    assert_eq!(hub.incomplete().len(), 1);
    hub.server.state().cut_after = None;
    hub.server.requests();
    hub.fetch(None).unwrap();
    let resumed = hub
        .server
        .requests()
        .into_iter()
        .find(|request| request.at_cdn)
        .unwrap();
    assert_eq!(resumed.headers["range"], "bytes=100000-");
}

#[test]
fn a_connection_that_falls_silent_is_resumed() {
    let (hub, weights) = Hub::with_weights(300_000);
    hub.server.state().stall_after = Some((100_000, Duration::from_secs(20)));
    let settings = Settings {
        silence_timeout: Duration::from_millis(300),
        ..hub.settings()
    };
    let start = Instant::now();
    let snapshot = hub.fetch_with(None, &settings, &|_| {}).unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(files_of(&snapshot.folder)["flax_model.msgpack"], weights);
}

#[test]
fn a_slow_connection_is_no_silent_one() {
    let (hub, _) = Hub::with_weights(30_000);
    hub.server.state().pace = Some((1_000, Duration::from_millis(40)));
    let settings = Settings {
        silence_timeout: Duration::from_millis(600),
        ..hub.settings()
    };
    hub.fetch_with(None, &settings, &|_| {}).unwrap();
    let contents = hub
        .server
        .requests()
        .into_iter()
        .filter(|request| request.at_cdn);
    assert_eq!(
        contents.count(),
        1,
        "1.2 s in all, and never 0.6 s without a byte"
    );
}

#[test]
fn a_server_that_knows_no_ranges_is_asked_for_the_whole_again() {
    let (hub, weights) = Hub::with_weights(300_000);
    let blobs = hub.repo_folder().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(
        blobs.join(format!("{}.incomplete", etag_of(&weights))),
        &weights[..70_000],
    )
    .unwrap();
    hub.server.state().whole_only = true;
    let snapshot = hub.fetch(None).unwrap();
    assert_eq!(files_of(&snapshot.folder)["flax_model.msgpack"], weights);
}

#[test]
fn a_server_without_head_is_asked_otherwise() {
    let (hub, weights) = Hub::with_weights(300_000);
    hub.server.state().no_head = true;
    let snapshot = hub.fetch(None).unwrap();
    assert_eq!(files_of(&snapshot.folder)["flax_model.msgpack"], weights);
}

#[test]
fn a_file_that_has_moved_at_the_hub_is_what_it_is_there() {
    let (hub, _) = Hub::with_weights(30_000);
    hub.server.state().moved = true;
    hub.server.state().gate = Some(("hf_right".to_owned(), 401, "GatedRepo"));
    let settings = Settings {
        token: crate::support::token("hf_right"),
        ..hub.settings()
    };
    let snapshot = hub.fetch_with(None, &settings, &|_| {}).unwrap();
    assert_eq!(files_of(&snapshot.folder)["config.json"], b"{}");
    hub.assert_blobs_are_whole();
}

#[test]
fn leftovers_that_are_not_the_files_beginning_are_thrown_away() {
    let (hub, weights) = Hub::with_weights(300_000);
    let blobs = hub.repo_folder().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let leftover = blobs.join(format!("{}.incomplete", etag_of(&weights)));
    // Of other bytes; whole, but with a hole as some writers leave it; longer than the file.
    let mut holed = weights.clone();
    holed[1_000..2_000].fill(0);
    for left in [noise(90_000), holed, noise(400_000)] {
        fs::write(&leftover, left).unwrap();
        let snapshot = hub.fetch(None).unwrap();
        assert_eq!(files_of(&snapshot.folder)["flax_model.msgpack"], weights);
        hub.assert_blobs_are_whole();
        fs::remove_file(blobs.join(etag_of(&weights))).unwrap();
    }
}

#[test]
fn a_content_that_is_not_what_its_etag_says_is_refused() {
    for (file, wrong) in [
        ("flax_model.msgpack", "ab".repeat(32)),
        ("config.json", "cd".repeat(20)),
    ] {
        let (hub, _) = Hub::with_weights(30_000);
        hub.server
            .state()
            .etags
            .insert(file.to_owned(), wrong.clone());
        let error = hub.error(None);
        assert!(matches!(error, Error::WrongHash { .. }), "{error}");
        let message = error.to_string();
        assert!(
            message.starts_with(file) && message.contains(&wrong),
            "{message}"
        );
        assert!(!hub.repo_folder().join("blobs").join(&wrong).exists());
        let left = hub
            .repo_folder()
            .join("blobs")
            .join(format!("{wrong}.incomplete"));
        assert!(!left.exists(), "it would be wrong the next time too");
        hub.assert_blobs_are_whole();
    }
}

#[test]
fn an_etag_that_changes_between_requests_is_refused() {
    let (hub, weights) = Hub::with_weights(300_000);
    hub.server.state().cut_after = Some(50_000);
    let error = hub
        .fetch_with(None, &hub.settings(), &|event| {
            if matches!(event, Event::Waiting { .. }) {
                let mut state = hub.server.state();
                state
                    .etags
                    .insert("flax_model.msgpack".into(), "ef".repeat(32));
            }
        })
        .unwrap_err();
    assert!(matches!(error, Error::WrongEtag { .. }), "{error}");
    assert!(error.to_string().contains(&etag_of(&weights)), "{error}");
}

#[test]
fn a_content_of_another_size_is_refused() {
    for size in [29_999, 30_001, 0] {
        let (hub, weights) = Hub::with_weights(30_000);
        hub.server
            .state()
            .sizes
            .insert("flax_model.msgpack".into(), size);
        let error = hub.error(None);
        let message = error.to_string();
        // Of no bytes nothing need be asked: there it is the hash that is wrong.
        match size {
            0 => assert!(matches!(error, Error::WrongHash { .. }), "{message}"),
            _ => assert!(
                message.starts_with("flax_model.msgpack: ")
                    && message.contains(&format!("30000 bytes, expected {size}")),
                "{message}"
            ),
        }
        assert!(
            !hub.repo_folder()
                .join("blobs")
                .join(etag_of(&weights))
                .exists()
        );
        let etag = etag_of(&weights);
        assert!(
            !hub.repo_folder()
                .join("blobs")
                .join(format!("{etag}.incomplete"))
                .exists()
        );
    }
}

#[test]
fn a_content_that_nothing_says_the_end_of_is_refused() {
    let (hub, _) = Hub::with_weights(30_000);
    hub.server.state().no_length = true;
    // Neither the tag nor a length says what the file is.
    hub.server
        .state()
        .etags
        .insert("config.json".to_owned(), "tag-1".to_owned());
    let error = hub.error(None);
    assert!(matches!(error, Error::Unmeasured { .. }), "{error}");
    assert!(error.to_string().starts_with("config.json: "), "{error}");
    assert!(!hub.repo_folder().join("blobs/tag-1").exists());
    assert!(!hub.repo_folder().join("blobs/tag-1.incomplete").exists());
    // With a SHA-256 no length is needed.
    let sha256 = {
        use sha2::{Digest, Sha256};
        crate::server::hex(&Sha256::digest(b"{}"))
    };
    let mut state = hub.server.state();
    state.etags.insert("config.json".to_owned(), sha256);
    drop(state);
    let snapshot = hub.fetch(None).unwrap();
    assert_eq!(files_of(&snapshot.folder)["config.json"], b"{}");
}

#[test]
fn a_file_that_is_larger_than_any_of_its_kind_is_not_downloaded() {
    let (hub, _) = Hub::with_weights(30_000);
    hub.server.add(
        crate::support::REPO,
        "main",
        &[
            ("tokenizer.json", &noise(30_000)),
            ("config.json", b"{}"),
            ("model.npz", b"x"),
        ],
    );
    hub.server
        .state()
        .sizes
        .insert("tokenizer.json".to_owned(), 1 << 30);
    let error = hub.error(None);
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    assert!(error.to_string().starts_with("tokenizer.json: "), "{error}");
}

#[test]
fn a_listing_that_is_none_is_refused() {
    let (hub, _) = Hub::with_weights(30_000);
    for body in ["<html>", "{}", "[]", "{\"sha\": 5}"] {
        hub.server.state().faults.push(Fault {
            path: "/api/models",
            times: 1,
            status: 200,
            headers: Vec::new(),
            body,
        });
        let error = hub.error(None);
        assert!(matches!(error, Error::Response { .. }), "{error}");
    }
}

#[test]
fn redirects_in_a_circle_or_to_nowhere_end() {
    let (hub, _) = Hub::with_weights(30_000);
    for location in ["/api/models/x", "file:///etc/passwd", ""] {
        hub.server.state().faults = vec![Fault {
            path: "/api/models",
            times: 100,
            status: 307,
            headers: vec![("location", location.to_owned())],
            body: "",
        }];
        let message = hub.error(None).to_string();
        assert!(message.contains("redirect"), "{message}");
    }
}
