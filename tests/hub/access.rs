//! Tokens, gates, and who is told the token.

use gemma_xla::hub::{Error, Settings};

use crate::support::{Hub, token};

#[test]
fn a_gated_repository_says_where_to_accept_the_licence() {
    for (status, code) in [(401, "GatedRepo"), (403, "GatedRepo"), (401, ""), (403, "")] {
        let (hub, _) = Hub::with_weights(30_000);
        hub.server.state().gate = Some(("hf_right".to_owned(), status, code));
        let error = hub.error(None);
        assert!(matches!(error, Error::NoAccess { .. }), "{error}");
        let message = error.to_string();
        let page = format!("{}/google/gemma-small", hub.server.endpoint());
        for part in [
            "google/gemma-small",
            "licence",
            &page,
            "HF_TOKEN",
            &status.to_string(),
        ] {
            assert!(message.contains(part), "no {part} in: {message}");
        }
        assert!(!message.contains("the token that was sent"), "{message}");

        let wrong = Settings {
            token: token("hf_wrong"),
            ..hub.settings()
        };
        let message = hub
            .fetch_with(None, &wrong, &|_| {})
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("the token that was sent does not have access"),
            "{message}"
        );
        assert!(!message.contains("hf_wrong"), "{message}");
        assert!(hub.assert_blobs_are_whole().is_empty());
    }
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let (hub, _) = Hub::with_weights(30_000);
    hub.server.state().gate = Some(("hf_right".to_owned(), 401, "GatedRepo"));
    let settings = Settings {
        token: token("hf_right"),
        ..hub.settings()
    };
    hub.fetch_with(None, &settings, &|_| {}).unwrap();
    let requests = hub.server.requests();
    assert!(requests.iter().any(|request| request.at_cdn));
    for request in requests {
        let sent = request.headers.contains_key("authorization");
        assert_eq!(sent, !request.at_cdn, "{request:?}");
    }
}

#[test]
fn without_a_token_none_is_sent() {
    let (hub, _) = Hub::with_weights(30_000);
    hub.fetch(None).unwrap();
    let requests = hub.server.requests();
    assert!(
        !requests
            .iter()
            .any(|request| request.headers.contains_key("authorization"))
    );
}

#[test]
fn a_repository_that_is_not_there_or_not_shown_is_named() {
    let hub = Hub::new();
    let message = hub.error(None).to_string();
    for part in [
        "google/gemma-small: no such repository",
        &hub.server.endpoint(),
        "HF_TOKEN",
        "licence",
    ] {
        assert!(message.contains(part), "no {part} in: {message}");
    }
    // A server that tells, and one that has no words for it.
    hub.server.fault("/revision/main", 1, 404);
    let error = hub.error(None);
    assert!(matches!(error, Error::RepoNotFound { .. }), "{error}");
}

#[test]
fn a_file_that_is_listed_and_not_there_is_named() {
    let (hub, _) = Hub::with_weights(30_000);
    hub.server.state().listed.push("tokenizer.json".to_owned());
    let message = hub.error(None).to_string();
    assert!(
        message.contains("tokenizer.json: not in revision"),
        "{message}"
    );
}
