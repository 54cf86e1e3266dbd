//! Clients that go, stall, lie or attack; signals; devices that are told to end.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{PATIENCE, Server};

fn long(stream: bool) -> Value {
    json!({"prompt": "She", "max_tokens": 200, "temperature": 1.0, "ignore_eos": true,
        "stream": stream})
}

fn is_idle(server: &Server) -> Option<()> {
    let names = ["vllm:num_requests_running", "vllm:num_requests_waiting"];
    let left: f64 = names.iter().map(|name| server.metric(name)).sum();
    (left == 0.0).then_some(())
}

#[test]
fn a_row_is_freed_when_its_client_goes() {
    let server = Server::start(&["--rows", "1"], &[]);
    // In decode, streamed.
    let mut events = server.events("/v1/completions", &long(true));
    for _ in 0..3 {
        events.next().expect("a token");
    }
    let made = server.metric("vllm:generation_tokens_total");
    events.close();
    server.eventually("the row is free", is_idle);
    let after = server.metric("vllm:generation_tokens_total");
    assert!(after - made < 100.0, "{made} {after}");
    // Unstreamed, and while another waits for the row.
    let body = long(false).to_string();
    let running = server.open("POST", "/v1/completions", &[], body.as_bytes());
    let waiting = server.open("POST", "/v1/completions", &[], body.as_bytes());
    server.eventually("one runs and one waits", |server| {
        let is_so = server.metric("vllm:num_requests_running") == 1.0
            && server.metric("vllm:num_requests_waiting") == 1.0;
        is_so.then_some(())
    });
    drop(waiting);
    server.eventually("the waiting one is gone", |server| {
        (server.metric("vllm:num_requests_waiting") == 0.0).then_some(())
    });
    drop(running);
    server.eventually("the row is free", is_idle);
    // The row serves others.
    let body = json!({"prompt": "She", "max_tokens": 2, "temperature": 0});
    server.ask("/v1/completions", &body);
}

#[test]
fn a_signal_lets_running_requests_end() {
    let mut server = Server::start(&["--rows", "2"], &[]);
    let mut events = server.events("/v1/completions", &long(true));
    events.next().expect("a token");
    server.signal("-TERM");
    server.eventually("health says so", |server| {
        (server.get("/health").status == 503).then_some(())
    });
    let body = json!({"prompt": "She", "max_tokens": 2});
    let (status, message, _) = server.post("/v1/completions", &body).problem();
    assert_eq!(status, 503);
    assert!(message.contains("shutting down"), "{message}");
    let rest: Vec<String> = events.collect();
    assert_eq!(
        rest.last().map(String::as_str),
        Some("[DONE]"),
        "it came to its end"
    );
    assert!(server.wait().success());

    // A second signal ends at once.
    let mut server = Server::start(&["--rows", "1"], &[]);
    let body = json!({"prompt": "She", "max_tokens": 250, "n": 64, "ignore_eos": true});
    let _open = server.open("POST", "/v1/completions", &[], body.to_string().as_bytes());
    server.eventually("it runs", |server| {
        (server.metric("vllm:num_requests_running") == 1.0).then_some(())
    });
    server.signal("-INT");
    server.eventually("it is ending", |server| {
        (server.get("/health").status == 503).then_some(())
    });
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(143));
}

#[test]
fn what_is_not_a_request_is_refused_and_harms_nobody() {
    let server = Server::start(&[], &[]);
    let completions = "/v1/completions";
    for (body, status) in [
        (&b""[..], 400),
        (b"{", 400),
        (b"[]", 400),
        (b"\xff\xfe", 400),
        (b"{\"prompt\": NaN}", 400),
        ("[".repeat(1 << 20).as_bytes(), 400),
        (format!("{{\"a\":{}}}", "[".repeat(1 << 20)).as_bytes(), 400),
        (
            format!("{{\"prompt\": [{}1]}}", "1,".repeat(1_000_000)).as_bytes(),
            400,
        ),
    ] {
        let response = server.send("POST", completions, &[], body);
        assert_eq!(response.status, status, "{:?}", &body[..body.len().min(40)]);
    }
    let large = vec![b' '; (16 << 20) + 1];
    assert_eq!(server.send("POST", completions, &[], &large).status, 413);
    assert_eq!(server.get("/nothing/here").problem().0, 404);
    assert_eq!(server.get(completions).problem().0, 405);
    let long = format!("X-Long: {}", "a".repeat(400_000));
    assert_eq!(server.send("GET", "/health", &[&long], b"").status, 431);
    let mut stream = server.connect();
    stream
        .write_all(b"\x16\x03\x01\x02\x00\x01\x00nonsense\r\n\r\n")
        .expect("it reads");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"));
    assert_eq!(server.get("/health").status, 200);
}

/// Clients that send nothing, or take nothing, delay nobody.
#[test]
fn slow_clients_delay_nobody() {
    let server = Server::start(&["--rows", "4"], &[]);
    let mut silent = Vec::new();
    for _ in 0..100 {
        let mut stream = server.connect();
        stream
            .write_all(b"POST /v1/completions HT")
            .expect("it reads");
        silent.push(stream);
    }
    let body = json!({"prompt": "She", "max_tokens": 250, "n": 4, "ignore_eos": true,
        "logprobs": 20, "stream": true, "seed": 1});
    let stalled = server.open("POST", "/v1/completions", &[], body.to_string().as_bytes());
    let began = Instant::now();
    let quick = json!({"prompt": "She", "max_tokens": 4, "temperature": 0});
    server.ask("/v1/completions", &quick);
    assert!(began.elapsed() < PATIENCE);
    server.eventually("the stalled one ends", is_idle);
    drop((silent, stalled));
    server.ask("/v1/completions", &quick);
}

#[test]
fn too_many_requests_are_told_when_to_come_again() {
    let server = Server::start(&["--rows", "1", "--max-queue", "2"], &[]);
    let events = server.events("/v1/completions", &long(true));
    let body = long(false).to_string();
    let held: Vec<_> = (0..2)
        .map(|_| server.open("POST", "/v1/completions", &[], body.as_bytes()))
        .collect();
    server.eventually("two wait", |server| {
        (server.metric("vllm:num_requests_waiting") == 2.0).then_some(())
    });
    let response = server.post(
        "/v1/completions",
        &json!({"prompt": "She", "max_tokens": 1}),
    );
    assert_eq!(response.status, 429, "{}", response.text());
    let seconds = response.header("retry-after").expect("it says when");
    assert!(seconds.parse::<u64>().is_ok_and(|seconds| seconds >= 1));
    let response = server.post("/generate", &json!({"inputs": "She"}));
    assert_eq!(
        (response.status, response.json()["error_type"].clone()),
        (429, json!("overloaded"))
    );
    drop((held, events));
    server.eventually("all are gone", is_idle);
    thread::sleep(Duration::from_millis(10));
    server.ask(
        "/v1/completions",
        &json!({"prompt": "She", "max_tokens": 1}),
    );
}
