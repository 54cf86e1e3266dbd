//! What is in the cache, and what is done without the server.

use std::fs;
use std::path::Path;

use gemma_xla::hub::{Error, Event, Settings};

use crate::server::etag_of;
use crate::support::{Hub, files_of, noise};

#[test]
fn the_cache_is_laid_out_as_pythons() {
    let (hub, weights) = Hub::with_weights(50_000);
    let snapshot = hub.fetch(Some("main")).unwrap();
    let repo = hub.repo_folder();
    assert_eq!(
        snapshot.folder,
        repo.join("snapshots").join(&snapshot.commit)
    );
    assert_eq!(
        fs::read_to_string(repo.join("refs/main")).unwrap(),
        snapshot.commit
    );
    for (name, content) in [
        ("config.json", &b"{}"[..]),
        ("flax_model.msgpack", &weights),
    ] {
        let link = fs::read_link(snapshot.folder.join(name)).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(etag_of(content)));
        assert_eq!(fs::read(snapshot.folder.join(name)).unwrap(), content);
    }
    assert_eq!(hub.assert_blobs_are_whole().len(), 2);
    assert!(hub.incomplete().is_empty());
}

#[test]
fn only_needed_files_are_downloaded_and_the_second_time_none() {
    let (hub, _) = Hub::with_weights(50_000);
    let first = hub.fetch(None).unwrap();
    assert_eq!(first.files, ["config.json", "flax_model.msgpack"]);
    assert_eq!(first.transferred, 2);
    assert!(
        !hub.server
            .requests()
            .iter()
            .any(|request| request.path.contains("README"))
    );
    let second = hub.fetch(None).unwrap();
    assert_eq!(second.transferred, 0);
    assert_eq!(second.folder, first.folder);
    let requests = hub.server.requests();
    assert_eq!(requests.len(), 1, "the listing: {requests:?}");
}

#[test]
fn a_blob_that_is_there_is_linked_and_not_downloaded() {
    let (hub, weights) = Hub::with_weights(50_000);
    hub.fetch(None).unwrap();
    hub.server.requests();
    hub.server.add(
        crate::support::REPO,
        "main",
        &[
            ("config.json", b"{\"new\": 1}"),
            ("flax_model.msgpack", &weights),
        ],
    );
    let snapshot = hub.fetch(None).unwrap();
    assert_eq!(snapshot.transferred, 1, "the configuration");
    assert!(!hub.server.requests().iter().any(|request| request.at_cdn));
    assert_eq!(files_of(&snapshot.folder)["flax_model.msgpack"], weights);
}

#[test]
fn a_blob_that_was_cut_short_is_downloaded_again() {
    let (hub, weights) = Hub::with_weights(50_000);
    let snapshot = hub.fetch(None).unwrap();
    fs::write(
        hub.repo_folder().join("blobs").join(etag_of(&weights)),
        "half",
    )
    .unwrap();
    fs::remove_file(snapshot.folder.join("flax_model.msgpack")).unwrap();
    hub.fetch(None).unwrap();
    hub.assert_blobs_are_whole();
}

#[test]
fn a_linked_file_that_was_cut_short_is_downloaded_again() {
    let (hub, weights) = Hub::with_weights(50_000);
    let snapshot = hub.fetch(None).unwrap();
    let file = snapshot.folder.join("flax_model.msgpack");
    // The blob behind the link, and a copy in its place, as on systems without links.
    fs::write(&file, "half").unwrap();
    assert_eq!(hub.fetch(None).unwrap().transferred, 1);
    assert_eq!(fs::read(&file).unwrap(), weights);
    hub.assert_blobs_are_whole();
    fs::remove_file(&file).unwrap();
    fs::write(&file, "half").unwrap();
    hub.fetch(None).unwrap();
    assert_eq!(fs::read(&file).unwrap(), weights);
}

#[test]
fn what_lies_in_the_place_of_a_partial_download_and_is_no_file_is_removed() {
    let (hub, weights) = Hub::with_weights(50_000);
    let elsewhere = hub.home.path().join("elsewhere");
    fs::write(&elsewhere, "mine").unwrap();
    let blobs = hub.repo_folder().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let partial = blobs.join(format!("{}.incomplete", etag_of(&weights)));
    std::os::unix::fs::symlink(&elsewhere, &partial).unwrap();
    hub.fetch(None).unwrap();
    assert_eq!(fs::read(&elsewhere).unwrap(), b"mine");
    hub.assert_blobs_are_whole();

    fs::remove_dir_all(hub.repo_folder()).unwrap();
    fs::create_dir_all(&blobs).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&partial).status();
    assert!(made.unwrap().success());
    hub.fetch(None).unwrap();
    hub.assert_blobs_are_whole();
}

#[test]
fn a_hub_that_gives_no_access_leaves_what_is_there() {
    let (hub, _) = Hub::with_weights(50_000);
    let online = hub.fetch(None).unwrap();
    for (status, body) in [
        (401, ""),
        (403, ""),
        (404, ""),
        (500, ""),
        (200, "<html>log in"),
    ] {
        hub.server.state().faults = vec![crate::server::Fault {
            path: "/api/models",
            times: usize::MAX,
            status,
            headers: vec![("x-error-code", "RepoNotFound".to_owned())],
            body,
        }];
        let told = std::sync::Mutex::new(0);
        let found = hub.fetch_with(None, &hub.settings(), &|event| {
            if let Event::Stale { .. } = event {
                *told.lock().unwrap() += 1;
            }
        });
        assert_eq!(found.unwrap().folder, online.folder, "{status}");
        assert_eq!(told.into_inner().unwrap(), 1, "{status}");
    }
    // The listing is public, and the files of a new commit are not.
    hub.server.state().faults.clear();
    let weights = noise(60_000);
    hub.server.add(
        crate::support::REPO,
        "main",
        &[("config.json", b"{}"), ("flax_model.msgpack", &weights)],
    );
    hub.server.state().gate = Some(("hf_right".to_owned(), 403, "GatedRepo"));
    assert_eq!(hub.fetch(None).unwrap().commit, online.commit);
}

#[test]
fn a_mirror_that_the_hub_redirects_to_is_followed_without_the_token() {
    let (mirror, weights) = Hub::with_weights(50_000);
    let hub = Hub::new();
    hub.server.state().mirror = Some(mirror.server.endpoint());
    let settings = Settings {
        token: crate::support::token("hf_secret"),
        ..hub.settings()
    };
    let snapshot = hub.fetch_with(None, &settings, &|_| {}).unwrap();
    assert_eq!(files_of(&snapshot.folder)["flax_model.msgpack"], weights);
    hub.assert_blobs_are_whole();
    let sent = |request: &crate::server::Request| request.headers.contains_key("authorization");
    assert!(hub.server.requests().iter().all(sent));
    assert!(!mirror.server.requests().iter().any(sent));
}

#[test]
fn offline_takes_what_is_there_without_a_request() {
    let (hub, _) = Hub::with_weights(50_000);
    let online = hub.fetch(None).unwrap();
    hub.server.requests();
    let offline = Settings {
        offline: true,
        ..hub.settings()
    };
    for revision in [None, Some("main"), Some(online.commit.as_str())] {
        let found = hub.fetch_with(revision, &offline, &|_| {}).unwrap();
        assert_eq!(found.folder, online.folder);
        assert_eq!(found.files, online.files);
    }
    assert!(hub.server.requests().is_empty());
}

#[test]
fn offline_says_what_is_lacking() {
    let (hub, _) = Hub::with_weights(50_000);
    let offline = Settings {
        offline: true,
        ..hub.settings()
    };
    let lacks = |revision: Option<&str>, what: &str| {
        let error = hub.fetch_with(revision, &offline, &|_| {}).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::Offline { .. }), "{message}");
        assert!(
            message.contains("HF_HUB_OFFLINE") && message.contains(what),
            "{message}"
        );
    };
    lacks(None, "no revision \"main\"");
    lacks(Some("flax"), "no revision \"flax\"");
    let snapshot = hub.fetch(None).unwrap();
    fs::remove_file(snapshot.folder.join("config.json")).unwrap();
    lacks(None, "no config.json");
    fs::remove_file(snapshot.folder.join("flax_model.msgpack")).unwrap();
    lacks(None, "no weights");
}

#[test]
fn a_server_that_is_gone_leaves_what_is_there() {
    let (hub, _) = Hub::with_weights(50_000);
    let online = hub.fetch(None).unwrap();
    // A port that nobody listens at.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let gone = Settings {
        endpoint: format!("http://127.0.0.1:{port}"),
        ..hub.settings()
    };
    let told = std::sync::Mutex::new(Vec::new());
    let found = hub
        .fetch_with(None, &gone, &|event| {
            if let Event::Stale { why } = event {
                told.lock().unwrap().push(why.to_owned());
            }
        })
        .unwrap();
    assert_eq!(found.folder, online.folder);
    let told = told.into_inner().unwrap();
    assert!(
        told.len() == 1 && told[0].contains(&gone.endpoint),
        "{told:?}"
    );

    fs::remove_file(online.folder.join("flax_model.msgpack")).unwrap();
    let error = hub.fetch_with(None, &gone, &|_| {}).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[test]
fn a_revision_that_moved_is_taken_anew_and_keeps_its_old_commit_until_then() {
    let (hub, _) = Hub::with_weights(50_000);
    let old = hub.fetch(None).unwrap();
    let weights = noise(60_000);
    hub.server.add(
        crate::support::REPO,
        "main",
        &[("config.json", b"{}"), ("flax_model.msgpack", &weights)],
    );
    hub.server.fault("/content/", 100, 404);
    hub.fetch(None).unwrap_err();
    let offline = Settings {
        offline: true,
        ..hub.settings()
    };
    assert_eq!(
        hub.fetch_with(None, &offline, &|_| {}).unwrap().commit,
        old.commit
    );
    hub.server.state().faults.clear();
    let new = hub.fetch(None).unwrap();
    assert_ne!(new.commit, old.commit);
    assert_eq!(
        hub.fetch_with(None, &offline, &|_| {}).unwrap().commit,
        new.commit
    );
}

#[test]
fn two_at_a_time_download_a_file_once() {
    let (hub, weights) = Hub::with_weights(200_000);
    hub.server.state().pace = Some((20_000, std::time::Duration::from_millis(20)));
    std::thread::scope(|scope| {
        let both = [0, 1].map(|_| scope.spawn(|| hub.fetch(None).unwrap()));
        for one in both {
            let folder = one.join().unwrap().folder;
            assert_eq!(files_of(&folder)["flax_model.msgpack"], weights);
        }
    });
    let contents = hub
        .server
        .requests()
        .into_iter()
        .filter(|request| request.at_cdn);
    assert_eq!(contents.count(), 1);
}
