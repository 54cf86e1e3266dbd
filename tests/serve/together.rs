//! Requests beside each other.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::common::{data, gemma_xla};
use crate::openai::generated_by;
use crate::support::Server;

/// A number below `most` that looks random.
fn random(state: &mut u64, most: u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % most
}

/// Requests of every kind in random order over several connections, each with the tokens that
/// `generate` gives for it alone, and no program compiled meanwhile.
#[test]
fn a_requests_tokens_do_not_depend_on_its_neighbours() {
    let count: usize = std::env::var("GEMMA_XLA_SERVE_REQUESTS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(80);
    // The small Gemma stores bfloat16, and what is added to such norms is rounded in a prompt and not
    // in a step. In float32 throughout, tokens depend on neither.
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("float32");
    gemma_xla()
        .arg("convert")
        .args([data("gemma-small"), model.clone()])
        .args(["--to", "msgpack", "--dtype", "f32"])
        .assert()
        .success();
    let generated = |prompts: &[Value], flags: &[&str]| generated_by(&model, prompts, flags);
    let server = Server::begin(&model, &["--rows", "5"], &[]);
    server.wait_until_ready();
    let programs = server.metric("gemma_xla:programs");
    let mut state = 1;
    let prompts: Vec<Vec<u64>> = (0..24)
        .map(|_| {
            let length = 1 + random(&mut state, 60);
            let rest = (0..length).map(|_| 3 + random(&mut state, 900));
            std::iter::once(2).chain(rest).collect()
        })
        .collect();
    let lines: Vec<Value> = prompts
        .iter()
        .map(|ids| json!({"token_ids": ids}))
        .collect();
    let greedy = generated(&lines, &["--max-new-tokens", "16", "--batch-size", "1"]);
    let sampled: Vec<Value> = lines
        .iter()
        .map(|line| {
            let flags = ["--max-new-tokens", "16", "--do-sample", "--seed", "3"];
            generated(std::slice::from_ref(line), &flags).remove(0)
        })
        .collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for worker in 0..8_u64 {
            let (server, prompts, greedy, sampled) = (&server, &prompts, &greedy, &sampled);
            let next = &next;
            scope.spawn(move || {
                let mut state = worker;
                while next.fetch_add(1, Ordering::Relaxed) < count {
                    let which = random(&mut state, prompts.len() as u64) as usize;
                    let draws = random(&mut state, 2) == 1;
                    let mut body = json!({"prompt": prompts[which], "max_tokens": 16});
                    let expected = match draws {
                        true => {
                            body["seed"] = json!(3);
                            &sampled[which]
                        }
                        false => {
                            body["temperature"] = json!(0);
                            &greedy[which]
                        }
                    };
                    if random(&mut state, 3) == 0 {
                        body["logprobs"] = json!(2);
                    }
                    let answer = server.ask("/v1/completions", &body);
                    let choice = &answer["choices"][0];
                    assert_eq!(choice["text"], expected["text"], "{body}");
                    let tokens = expected["token_ids"].as_array().map(Vec::len);
                    assert_eq!(answer["usage"]["completion_tokens"], json!(tokens));
                }
            });
        }
    });
    assert_eq!(
        server.metric("gemma_xla:programs"),
        programs,
        "nothing is compiled"
    );
    assert_eq!(server.metric("vllm:num_requests_running"), 0.0);
    assert!(
        server.metric("vllm:prefix_cache_hits_total") > 0.0,
        "prompts come again"
    );
}

/// A request of many replies does not keep others waiting to its end.
#[test]
fn a_small_request_passes_a_large_one() {
    let server = Server::start(&["--rows", "2"], &[]);
    let large = json!({"prompt": "She", "n": 24, "max_tokens": 60, "temperature": 1.0,
        "ignore_eos": true, "stream": true});
    let mut events = server.events("/v1/completions", &large);
    events.next().expect("it has begun");
    let small = json!({"prompt": "He", "max_tokens": 2, "temperature": 0});
    server.ask("/v1/completions", &small);
    let waiting = server.metric("vllm:num_requests_waiting");
    assert!(
        waiting >= 10.0,
        "the large one is far from its end: {waiting}"
    );
    events.close();
    server.eventually("the large one is dropped", |server| {
        let left =
            server.metric("vllm:num_requests_waiting") + server.metric("vllm:num_requests_running");
        (left == 0.0).then_some(())
    });
}
