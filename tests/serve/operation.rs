//! Health, keys, metrics, logs, the page and the environments that a server is put in.

use std::process::Command;

use serde_json::{Value, json};

use crate::common::{copy_of, data, gemma_xla};
use crate::support::Server;

#[test]
fn keys_are_needed_for_everything_but_health_and_the_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys");
    std::fs::write(&file, "first\n\n  second  \n").expect("it is written");
    let file = file.to_str().expect("UTF-8");
    let server = Server::start(&["--api-key-file", file], &[("GEMMA_XLA_API_KEY", "third")]);
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/").status, 200);
    for path in [
        "/v1/models",
        "/metrics",
        "/version",
        "/info",
        "/openapi.json",
        "/nothing",
    ] {
        let response = server.get(path);
        assert_eq!(response.problem().0, 401, "{path}");
        assert_eq!(
            response.header("www-authenticate").as_deref(),
            Some("Bearer")
        );
    }
    for key in ["first", "second", "third"] {
        let header = format!("Authorization: Bearer {key}");
        assert_eq!(
            server.send("GET", "/v1/models", &[&header], b"").status,
            200
        );
    }
    for header in [
        "Authorization: Bearer fourth",
        "Authorization: Bearer ",
        "Authorization: Basic first",
        "Authorization: first",
    ] {
        assert_eq!(
            server.send("GET", "/v1/models", &[header], b"").status,
            401,
            "{header}"
        );
    }
}

#[test]
fn metrics_the_page_and_the_description_are_there() {
    let server = Server::start(
        &["--served-model-name", "austen", "--cors", "http://a.test"],
        &[],
    );
    let models = server.get("/v1/models").json();
    assert_eq!(models["data"][0]["id"], "austen");
    assert_eq!(server.get("/v1/models/austen").status, 200);
    assert_eq!(server.get("/v1/models/other").status, 404);
    let body = json!({"prompt": "She", "max_tokens": 7, "temperature": 0, "model": "austen"});
    server.ask("/v1/completions", &body);
    let metrics = server.get("/metrics");
    assert!(
        metrics
            .header("content-type")
            .expect("a type")
            .contains("openmetrics")
    );
    let text = metrics.text();
    for name in [
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:request_success_total",
        "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_hits_total",
        "vllm:time_to_first_token_seconds_bucket",
        "vllm:inter_token_latency_seconds_sum",
        "vllm:request_time_per_output_token_seconds_count",
        "vllm:e2e_request_latency_seconds_bucket",
        "vllm:request_queue_time_seconds_bucket",
        "vllm:request_prefill_time_seconds_bucket",
        "vllm:request_decode_time_seconds_bucket",
        "vllm:request_prompt_tokens_bucket",
        "vllm:request_generation_tokens_bucket",
        "vllm:iteration_tokens_total_bucket",
        "tgi_queue_size",
        "tgi_batch_current_size",
        "tgi_request_count",
        "tgi_request_success",
        "tgi_request_duration_bucket",
    ] {
        assert!(
            text.lines().any(|line| line.starts_with(name)),
            "{name}: {text}"
        );
    }
    assert!(text.contains("model_name=\"austen\""));
    assert_eq!(server.metric("vllm:generation_tokens_total"), 7.0);
    let ended = text
        .lines()
        .find(|line| line.contains("finished_reason=\"length\""));
    assert!(ended.is_some_and(|line| line.ends_with(" 1")), "{text}");

    let page = server.get("/");
    assert!(page.text().contains("v1/chat/completions"));
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(
        policy.contains("default-src 'none'") && policy.contains("'sha256-"),
        "{policy}"
    );
    let description = server.get("/openapi.json").json();
    assert_eq!(description["openapi"], "3.1.0");
    assert!(description["paths"]["/v1/chat/completions"]["post"].is_object());
    assert!(server.get("/version").json()["version"].is_string());

    let from = |origin: &str| {
        let header = format!("Origin: {origin}");
        let response = server.send("GET", "/v1/models", &[&header], b"");
        response.header("access-control-allow-origin")
    };
    assert_eq!(from("http://a.test").as_deref(), Some("http://a.test"));
    assert_eq!(from("http://b.test"), None);
}

#[test]
fn lines_are_json_where_asked_and_have_no_prompt() {
    let server = Server::start(&["--log-format", "json"], &[]);
    let headers = ["X-Request-Id: abc-1", "traceparent: 00-11-22-01"];
    let body = json!({"prompt": "Secret words", "max_tokens": 2}).to_string();
    let response = server.send("POST", "/v1/completions", &headers, body.as_bytes());
    assert_eq!(response.header("x-request-id").as_deref(), Some("abc-1"));
    assert_eq!(
        response.header("traceparent").as_deref(),
        Some("00-11-22-01")
    );
    assert!(
        server
            .get("/version")
            .header("x-request-id")
            .is_some_and(|id| id.len() == 16)
    );
    let logged = server.eventually("it is logged", |server| {
        let lines = server.lines();
        lines.into_iter().find(|line| line.contains("abc-1"))
    });
    let logged: Value = serde_json::from_str(&logged).expect("JSON");
    assert_eq!(
        (&logged["status"], &logged["path"]),
        (&json!(200), &json!("/v1/completions"))
    );
    assert!(logged["time"].is_string() && logged["seconds"].is_number());
    for line in server.lines() {
        // XLA has lines of its own.
        if line.starts_with('{') {
            serde_json::from_str::<Value>(&line).expect("JSON");
        }
        assert!(!line.contains("Secret"), "{line}");
    }
}

#[test]
fn vertex_and_containers_find_what_they_name() {
    let server = Server::start(
        &["--host", "127.0.0.1"],
        &[
            ("AIP_HEALTH_ROUTE", "/alive"),
            ("AIP_PREDICT_ROUTE", "/v1/endpoints/1:predict"),
        ],
    );
    assert_eq!(server.get("/alive").status, 200);
    assert_eq!(server.get("/ping").status, 200);
    let body = json!({"instances": [
        {"prompt": "She", "max_tokens": 3},
        {"messages": [{"role": "user", "content": "Hello"}]},
    ], "parameters": {"temperature": 0, "max_tokens": 2}});
    let answer = server.ask("/v1/endpoints/1:predict", &body);
    let predictions = answer["predictions"].as_array().expect("a list");
    assert_eq!(predictions.len(), 2);
    assert_eq!(predictions[0]["usage"]["completion_tokens"], 3);
    assert_eq!(predictions[1]["object"], "chat.completion");
    let wrong = json!({"instances": [{"prompt": 3}]});
    assert_eq!(
        server.post("/v1/endpoints/1:predict", &wrong).problem().0,
        400
    );
}

#[test]
fn what_cannot_be_served_ends_with_one_line() {
    let model = data("gemma-small");
    let serve = |arguments: &[&str], environment: &[(&str, &str)]| {
        let output = gemma_xla()
            .args(["serve", "--model"])
            .arg(&model)
            .args(arguments)
            .envs(environment.iter().copied())
            .output()
            .expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), stderr)
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    for (arguments, environment, expected) in [
        (
            vec!["--port", port.as_str()],
            vec![],
            "cannot listen on 127.0.0.1",
        ),
        (
            vec!["--api-key-file", "/nothing/here"],
            vec![],
            "/nothing/here",
        ),
        (vec!["--api-key-file", "/dev/null"], vec![], "/dev/null"),
        (vec![], vec![("AIP_HTTP_PORT", "http")], "AIP_HTTP_PORT"),
        (
            vec!["--port", "0"],
            vec![("AIP_HEALTH_ROUTE", "alive")],
            "health_route",
        ),
    ] {
        let (code, stderr) = serve(&arguments, &environment);
        assert_eq!(code, Some(1), "{stderr}");
        let last = stderr.lines().last().expect("a line");
        assert!(
            last.starts_with("error: ") && last.contains(expected),
            "{stderr}"
        );
    }
    let (code, stderr) = serve(&["--rows", "0"], &[]);
    assert_eq!(code, Some(2), "{stderr}");

    // A model that cannot be loaded ends the server.
    let broken = copy_of("gemma-small");
    let weights = broken.path().join("flax_model.msgpack");
    let bytes = std::fs::read(&weights).expect("it reads");
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).expect("it is written");
    let output = Command::new(env!("CARGO_BIN_EXE_gemma-xla"))
        .args(["serve", "--port", "0", "--model"])
        .arg(broken.path())
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr
            .lines()
            .last()
            .is_some_and(|line| line.starts_with("error: ")),
        "{stderr}"
    );
}
