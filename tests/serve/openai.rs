//! OpenAI's interfaces.

use std::path::Path;

use serde_json::{Value, json};

use crate::common::{data, gemma_xla};
use crate::support::Server;

/// What `generate` makes of prompts, a JSON line each, with further arguments.
pub fn generated(prompts: &[Value], arguments: &[&str]) -> Vec<Value> {
    generated_by(&data("gemma-small"), prompts, arguments)
}

/// The same by another model.
pub fn generated_by(model: &Path, prompts: &[Value], arguments: &[&str]) -> Vec<Value> {
    let arguments = [&["--format", "jsonl"], arguments].concat();
    results("generate", model, prompts, &arguments)
}

/// What a command makes of JSON lines by a model in float32.
fn results(command: &str, model: &Path, lines: &[Value], arguments: &[&str]) -> Vec<Value> {
    let folder = tempfile::tempdir().expect("a folder");
    let input = folder.path().join("lines.jsonl");
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(&input, text).expect("it is written");
    let output = gemma_xla()
        .args([command, "--dtype", "f32", "--model"])
        .arg(model)
        .arg("--input")
        .arg(&input)
        .args(arguments)
        .output()
        .expect("the binary runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// What `generate` makes of one prompt by itself.
pub fn alone(prompt: &Value, arguments: &[&str]) -> Value {
    generated(std::slice::from_ref(prompt), arguments).remove(0)
}

fn texts(answer: &Value) -> Vec<String> {
    let choices = answer["choices"].as_array().expect("choices");
    let text = |choice: &Value| choice["text"].as_str().expect("a text").to_owned();
    choices.iter().map(text).collect()
}

/// The whole text of a stream, and its other events.
fn streamed(server: &Server, body: &Value) -> (String, Vec<Value>) {
    let mut events: Vec<String> = server.events("/v1/completions", body).collect();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let events: Vec<Value> = events
        .iter()
        .map(|event| serde_json::from_str(event).expect("JSON"))
        .collect();
    let mut text = String::new();
    for event in &events {
        if let Some(choice) = event["choices"].get(0) {
            text.push_str(choice["text"].as_str().expect("a text"));
        }
    }
    (text, events)
}

#[test]
fn completions_are_those_of_generate() {
    let server = Server::start(&[], &[]);
    let greedy = |prompt: Value| json!({"prompt": prompt, "max_tokens": 12, "temperature": 0});
    let by_text = alone(&json!({"prompt": "She"}), &["--max-new-tokens", "12"]);
    let by_ids = alone(
        &json!({"token_ids": [2, 638, 405]}),
        &["--max-new-tokens", "12"],
    );
    let (text, ids) = (by_text["text"].as_str(), by_ids["text"].as_str());
    let (text, ids) = (text.expect("a text"), ids.expect("a text"));

    // Each form of a prompt.
    let answer = server.ask("/v1/completions", &greedy(json!("She")));
    assert_eq!(texts(&answer), [text]);
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(answer["model"], "gemma-small");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let usage = &answer["usage"];
    assert_eq!(
        (&usage["prompt_tokens"], &usage["completion_tokens"]),
        (&json!(2), &json!(12))
    );
    assert_eq!(usage["total_tokens"], 14);
    let answer = server.ask("/v1/completions", &greedy(json!(["She", "She"])));
    assert_eq!(texts(&answer), [text, text]);
    assert_eq!(answer["usage"]["prompt_tokens"], 4);
    assert_eq!(
        texts(&server.ask("/v1/completions", &greedy(json!([2, 638, 405])))),
        [ids]
    );
    let lists = json!([[2, 638, 405], [2, 638]]);
    assert_eq!(
        texts(&server.ask("/v1/completions", &greedy(lists))),
        [ids, text]
    );

    // A seed, alone and for several replies; a null is a default.
    let seeded = json!({"prompt": "She", "max_tokens": 12, "seed": 5, "temperature": 1.3,
        "top_k": 0, "top_p": 0.9, "stop": null, "logprobs": null, "suffix": null, "n": null});
    let flags = [
        "--max-new-tokens",
        "12",
        "--do-sample",
        "--seed",
        "5",
        "--temperature",
        "1.3",
        "--top-k",
        "0",
        "--top-p",
        "0.9",
    ];
    let sampled = alone(&json!({"prompt": "She"}), &flags);
    let answer = server.ask("/v1/completions", &seeded);
    assert_eq!(json!(texts(&answer)[0]), sampled["text"]);
    let mut several = seeded.clone();
    several["n"] = json!(3);
    several["prompt"] = json!(["She", "He"]);
    let answer = server.ask("/v1/completions", &several);
    let found = texts(&answer);
    assert_eq!(found.len(), 6);
    assert_eq!(
        found,
        texts(&server.ask("/v1/completions", &several)),
        "a seed repeats itself"
    );
    assert_ne!(found[0], found[1]);
    several["prompt"] = json!("He");
    assert_eq!(
        found[3..],
        texts(&server.ask("/v1/completions", &several)),
        "prompt by prompt"
    );
    let unseeded = json!({"prompt": "She", "max_tokens": 24, "temperature": 2.0, "top_k": 0});
    let one = texts(&server.ask("/v1/completions", &unseeded));
    assert_ne!(
        one,
        texts(&server.ask("/v1/completions", &unseeded)),
        "without a seed"
    );

    // Streams say the same.
    let mut body = greedy(json!("She"));
    body["stream"] = json!(true);
    let (whole, events) = streamed(&server, &body);
    assert_eq!(whole, text);
    assert!(events.iter().all(|event| event.get("usage").is_none()));
    let reasons = events
        .iter()
        .filter(|event| !event["choices"][0]["finish_reason"].is_null());
    assert_eq!(reasons.count(), 1);
    body["stream_options"] = json!({"include_usage": true});
    let (whole, events) = streamed(&server, &body);
    assert_eq!(whole, text);
    let (last, others) = events.split_last().expect("events");
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 12);
    assert!(others.iter().all(|event| event["usage"].is_null()));
}

#[test]
fn stop_texts_logprobs_and_echo_are_as_clients_expect() {
    let server = Server::start(&[], &[]);
    let base = json!({"prompt": "She", "max_tokens": 20, "temperature": 0});
    let with = |more: Value| {
        let mut body = base.clone();
        let more = more.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(more);
        body
    };
    let whole = texts(&server.ask("/v1/completions", &base)).remove(0);

    // A stop text across tokens never shows, streamed or not.
    let stop: String = whole.chars().skip(9).take(4).collect();
    let before = whole.split(&stop).next().expect("a beginning").to_owned();
    let body = with(json!({"stop": [stop, "", "<eos>"]}));
    let answer = server.ask("/v1/completions", &body);
    assert_eq!(texts(&answer), [before.as_str()]);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let mut body = body;
    body["stream"] = json!(true);
    assert_eq!(streamed(&server, &body).0, before);

    // Tokens, their log-probabilities and offsets.
    let answer = server.ask("/v1/completions", &with(json!({"logprobs": 0})));
    let logprobs = &answer["choices"][0]["logprobs"];
    let list = |name: &str| logprobs[name].as_array().expect("a list").clone();
    let (tokens, values) = (list("tokens"), list("token_logprobs"));
    assert_eq!(
        (tokens.len(), values.len(), list("text_offset").len()),
        (20, 20, 20)
    );
    let joined: String = tokens
        .iter()
        .map(|token| token.as_str().expect("a text"))
        .collect();
    assert_eq!(joined, whole);
    for (place, top) in list("top_logprobs").iter().enumerate() {
        let top = top.as_object().expect("an object");
        assert_eq!(top.len(), 1, "the chosen one alone");
        assert_eq!(top[tokens[place].as_str().expect("a text")], values[place]);
    }
    let answer = server.ask("/v1/completions", &with(json!({"logprobs": 5})));
    let top = &answer["choices"][0]["logprobs"]["top_logprobs"];
    for (place, top) in top.as_array().expect("a list").iter().enumerate() {
        let top = top.as_object().expect("an object");
        assert!((5..=6).contains(&top.len()));
        let greatest = top
            .values()
            .filter_map(Value::as_f64)
            .fold(f64::MIN, f64::max);
        let chosen = answer["choices"][0]["logprobs"]["token_logprobs"][place].as_f64();
        assert_eq!(chosen, Some(greatest), "greedy");
    }

    // What lm-evaluation-harness asks for: prompt and one token, the first without a number.
    let prompt = [2, 638, 405, 415, 374];
    let body = json!({"prompt": [prompt, [2, 9, 30, 31, 32]], "max_tokens": 1, "temperature": 0,
        "logprobs": 1, "seed": 1234, "echo": true});
    let answer = server.ask("/v1/completions", &body);
    for choice in answer["choices"].as_array().expect("choices") {
        let logprobs = &choice["logprobs"];
        let values = logprobs["token_logprobs"].as_array().expect("a list");
        assert_eq!(values.len(), 6);
        assert!(values[0].is_null() && values[1..].iter().all(Value::is_number));
        assert!(logprobs["top_logprobs"][0].is_null());
    }
    // The first prompt is what the model itself says.
    let logprobs = &answer["choices"][0]["logprobs"];
    for place in 2..6 {
        let value = logprobs["token_logprobs"][place]
            .as_f64()
            .expect("a number");
        let top = logprobs["top_logprobs"][place]
            .as_object()
            .expect("an object");
        let greatest = top
            .values()
            .filter_map(Value::as_f64)
            .fold(f64::MIN, f64::max);
        assert_eq!(value, greatest, "is_greedy compares them for equality");
    }
    // Only the prompt.
    let body = json!({"prompt": prompt, "max_tokens": 0, "logprobs": 1, "echo": true});
    let answer = server.ask("/v1/completions", &body);
    let values = answer["choices"][0]["logprobs"]["token_logprobs"].clone();
    assert_eq!(values.as_array().map(Vec::len), Some(5));
    assert_eq!(answer["usage"]["completion_tokens"], 0);
    // Echo, streamed and not.
    let mut body = with(json!({"echo": true, "logprobs": 1}));
    let text = texts(&server.ask("/v1/completions", &body)).remove(0);
    assert_eq!(text, format!("She{whole}"));
    body["stream"] = json!(true);
    assert_eq!(streamed(&server, &body).0, text);
}

#[test]
fn scores_equal_those_of_score() {
    let server = Server::start(&["--rows", "4"], &[]);
    let texts: Vec<Vec<u32>> = (0..6_u32)
        .map(|at| {
            (0..4 + 7 * at)
                .map(|i| if i == 0 { 2 } else { 3 + (i * 29 + at) % 500 })
                .collect()
        })
        .collect();
    let lines: Vec<Value> = texts
        .iter()
        .map(|ids| json!({"context_ids": ids[..1], "continuation_ids": ids[1..]}))
        .collect();
    let scores = results("score", &data("gemma-small"), &lines, &[]);
    // One at a time, and all at once.
    let body = |prompts: Value| json!({"prompt": prompts, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": true});
    let together = server.ask("/v1/completions", &body(json!(texts)));
    for (place, (ids, score)) in texts.iter().zip(&scores).enumerate() {
        let single = server.ask("/v1/completions", &body(json!([ids])));
        for choice in [&together["choices"][place], &single["choices"][0]] {
            let logprobs = &choice["logprobs"];
            let found = logprobs["token_logprobs"].as_array().expect("a list");
            let expected = score["token_logprobs"].as_array().expect("a list");
            let mut is_greedy = true;
            for (at, expected) in expected.iter().enumerate() {
                let found = found[at + 1].as_f64().expect("a number");
                assert!((found - expected.as_f64().expect("a number")).abs() < 1e-4);
                let top = logprobs["top_logprobs"][at + 1]
                    .as_object()
                    .expect("an object");
                let greatest = top
                    .values()
                    .filter_map(Value::as_f64)
                    .fold(f64::MIN, f64::max);
                is_greedy &= found == greatest;
            }
            assert_eq!(score["is_greedy"], is_greedy);
        }
    }
}

#[test]
fn chat_is_rendered_by_the_template_and_streams() {
    let server = Server::start(&[], &[]);
    let messages = json!([{"role": "user", "content": "Hello"}]);
    let body = json!({"messages": messages, "max_tokens": 10, "temperature": 0});
    let answer = server.ask("/v1/chat/completions", &body);
    assert_eq!(answer["object"], "chat.completion");
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["role"], "assistant");
    let expected = generated(
        &[json!({"messages": messages})],
        &["--chat", "--max-new-tokens", "10"],
    );
    assert_eq!(message["content"], expected[0]["text"]);

    let mut stream = body.clone();
    stream["stream"] = json!(true);
    stream["stream_options"] = json!({"include_usage": true});
    let mut events: Vec<String> = server.events("/v1/chat/completions", &stream).collect();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let events: Vec<Value> = events
        .iter()
        .map(|event| serde_json::from_str(event).expect("JSON"))
        .collect();
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String = events
        .iter()
        .filter_map(|event| event["choices"].get(0)?["delta"]["content"].as_str())
        .collect();
    assert_eq!(json!(text), message["content"]);
    let counts = |usage: &Value| {
        (
            usage["prompt_tokens"].clone(),
            usage["total_tokens"].clone(),
        )
    };
    let told = &events.last().expect("usage")["usage"];
    assert_eq!(counts(told), counts(&answer["usage"]));
    // The prompt came again: all but its last token were there.
    assert_eq!(told["prompt_tokens_details"]["cached_tokens"], 14);

    // Log-probabilities have the bytes of each token.
    let mut told = body.clone();
    told["logprobs"] = json!(true);
    told["top_logprobs"] = json!(2);
    told["max_completion_tokens"] = json!(4);
    told.as_object_mut()
        .expect("an object")
        .remove("max_tokens");
    let answer = server.ask("/v1/chat/completions", &told);
    let content = answer["choices"][0]["logprobs"]["content"].clone();
    let content = content.as_array().expect("a list");
    assert_eq!(content.len(), 4);
    for entry in content {
        let bytes: Vec<u8> = serde_json::from_value(entry["bytes"].clone()).expect("bytes");
        assert_eq!(
            entry["token"].as_str().map(str::as_bytes),
            Some(bytes.as_slice())
        );
        assert_eq!(entry["top_logprobs"].as_array().map(Vec::len), Some(2));
        assert_eq!(entry["top_logprobs"][0]["logprob"], entry["logprob"]);
    }

    // Parts of texts, and what the template refuses, in its own words.
    let parts = json!([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]);
    let mut by_parts = body.clone();
    by_parts["messages"] = json!([{"role": "user", "content": parts}]);
    let answer = server.ask("/v1/chat/completions", &by_parts);
    assert_eq!(answer["choices"][0]["message"], *message);
    let mut system = body.clone();
    system["messages"] = json!([{"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"}]);
    let (status, text, field) = server.post("/v1/chat/completions", &system).problem();
    assert_eq!((status, field.as_deref()), (400, Some("messages")));
    assert!(
        text.contains("not of role system"),
        "the template's words: {text}"
    );
    drop(server);

    let server = Server::start(&["--merge-system"], &[]);
    let merged = server.ask("/v1/chat/completions", &system);
    let mut one = body.clone();
    one["messages"] = json!([{"role": "user", "content": "Be brief.\n\nHello"}]);
    let one = server.ask("/v1/chat/completions", &one);
    assert_eq!(
        merged["choices"][0]["message"],
        one["choices"][0]["message"]
    );
}

#[test]
fn replies_follow_a_response_format() {
    let server = Server::start(&[], &[]);
    let schema = json!({"type": "object", "required": ["name", "age"],
        "additionalProperties": false, "properties": {
            "name": {"enum": ["Emma", "Fanny"]}, "age": {"type": "integer", "maximum": 99,
            "minimum": 10}}});
    let format = json!({"type": "json_schema",
        "json_schema": {"name": "person", "strict": true, "schema": schema}});
    let body = json!({"messages": [{"role": "user", "content": "Who?"}], "max_tokens": 80,
        "temperature": 0, "response_format": format});
    // Free replies run beside it, and are what they are alone.
    let free = json!({"prompt": "She", "max_tokens": 40, "temperature": 0});
    let expected = texts(&server.ask("/v1/completions", &free));
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| texts(&server.ask("/v1/completions", &free)));
        let answer = server.ask("/v1/chat/completions", &body);
        let content = answer["choices"][0]["message"]["content"]
            .as_str()
            .expect("a text");
        let value: Value = serde_json::from_str(content).expect("it is JSON");
        assert!(["Emma", "Fanny"].contains(&value["name"].as_str().expect("a name")));
        assert!((10..=99).contains(&value["age"].as_i64().expect("a number")));
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        assert_eq!(beside.join().expect("no panic"), expected);
    });
    for (format, field) in [
        (json!({"type": "xml"}), "response_format.type"),
        (
            json!({"type": "json_schema"}),
            "response_format.json_schema",
        ),
        (
            json!({"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}),
            "response_format",
        ),
    ] {
        let mut body = body.clone();
        body["response_format"] = format;
        let (status, _, found) = server.post("/v1/chat/completions", &body).problem();
        assert_eq!((status, found.as_deref()), (400, Some(field)));
    }
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    let server = Server::start(&["--max-queue", "16"], &[]);
    let ids = vec![5; 300];
    for (more, status, field) in [
        (json!({"temperature": -1}), 400, "temperature"),
        (json!({"temperature": "hot"}), 400, "temperature"),
        (json!({"top_p": 0}), 400, "top_p"),
        (json!({"top_k": 100_000}), 400, "top_k"),
        (json!({"n": 0}), 400, "n"),
        (json!({"n": 17}), 400, "n"),
        (json!({"best_of": 2}), 400, "best_of"),
        (json!({"logprobs": 21}), 400, "logprobs"),
        (json!({"max_tokens": 0}), 400, "max_tokens"),
        (json!({"max_tokens": 255}), 400, "max_tokens"),
        (json!({"max_tokens": -1}), 400, "max_tokens"),
        (json!({"prompt": []}), 400, "prompt"),
        (json!({"prompt": null}), 400, "prompt"),
        (json!({"prompt": 3}), 400, "prompt"),
        (json!({"prompt": [2, "a"]}), 400, "prompt"),
        (json!({"prompt": [4_294_967_296_u64]}), 400, "prompt"),
        (json!({"prompt": [1_000_000]}), 400, "prompt"),
        (json!({"prompt": ids}), 400, "prompt"),
        (json!({"prompt": "word ".repeat(200_000)}), 400, "prompt"),
        (json!({"stop": 3}), 400, "stop"),
        (json!({"stop": vec!["x"; 65]}), 400, "stop"),
        (json!({"logit_bias": {"a": 1}}), 400, "logit_bias.a"),
        (json!({"logit_bias": {"1000000": 1}}), 400, "logit_bias"),
        (json!({"suffix": "s"}), 400, "suffix"),
        (json!({"stream_options": {}}), 400, "stream_options"),
        (json!({"seed": 1.5}), 400, "seed"),
        (json!({"min_tokens": 3}), 400, "min_tokens"),
        (json!({"min_tokens": 3000}), 400, "min_tokens"),
        (json!({"model": "gpt-4"}), 404, "model"),
        (json!({"nonsense": 1}), 400, "nonsense"),
    ] {
        let mut body = json!({"prompt": "She", "max_tokens": 2});
        let more = more.as_object().expect("an object").clone();
        body.as_object_mut()
            .expect("an object")
            .extend(more.clone());
        let response = server.post("/v1/completions", &body);
        let (found, message, param) = response.problem();
        let shown: String = format!("{more:?}: {message}").chars().take(200).collect();
        assert_eq!((found, param.as_deref()), (status, Some(field)), "{shown}");
        assert!(message.len() < 400, "{shown}");
    }
    let chat = |messages: Value| json!({"messages": messages, "max_tokens": 2});
    let user = json!([{"role": "user", "content": "a"}]);
    for (mut body, more, field) in [
        (chat(json!([])), json!({}), "messages"),
        (chat(json!([3])), json!({}), "messages[0]"),
        (chat(json!([{"content": "a"}])), json!({}), "messages[0]"),
        (
            chat(json!([{"role": "user", "content": [{"type": "image_url"}]}])),
            json!({}),
            "messages[0]",
        ),
        (
            chat(user.clone()),
            json!({"tools": [{"type": "function"}]}),
            "tools",
        ),
        (
            chat(user.clone()),
            json!({"top_logprobs": 2}),
            "top_logprobs",
        ),
        (chat(user.clone()), json!({"logprobs": 3}), "logprobs"),
    ] {
        let more = more.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(more);
        let (status, _, param) = server.post("/v1/chat/completions", &body).problem();
        assert_eq!((status, param.as_deref()), (400, Some(field)), "{body}");
    }
    // Fields that ask for nothing, and those that change nothing, are taken.
    let harmless = json!({"prompt": "She", "max_tokens": 2, "user": "u", "best_of": 1,
        "suffix": "", "metadata": {"a": "b"}, "logit_bias": {}, "stream": false});
    server.ask("/v1/completions", &harmless);
    let mut harmless = chat(user);
    harmless["tools"] = json!([]);
    harmless["tool_choice"] = json!("none");
    server.ask("/v1/chat/completions", &harmless);
}
