//! Text Generation Inference's interface.

use serde_json::{Value, json};

use crate::openai::alone;
use crate::support::Server;

#[test]
fn replies_are_those_of_generate() {
    let server = Server::start(&[], &[]);
    let expected = alone(&json!({"prompt": "She"}), &["--max-new-tokens", "6"]);
    let parameters = json!({"max_new_tokens": 6, "details": true, "decoder_input_details": true,
        "top_n_tokens": 2});
    let body = json!({"inputs": "She", "parameters": parameters});
    let answer = server.ask("/generate", &body);
    assert_eq!(answer["generated_text"], expected["text"]);
    let details = &answer["details"];
    assert_eq!(details["finish_reason"], "length");
    assert_eq!(details["generated_tokens"], 6);
    assert_eq!(details["prefill"].as_array().map(Vec::len), Some(2));
    assert!(details["prefill"][0]["logprob"].is_null());
    let ids: Vec<Value> = details["tokens"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|token| token["id"].clone())
        .collect();
    assert_eq!(json!(ids), expected["token_ids"]);
    assert_eq!(details["top_tokens"][0].as_array().map(Vec::len), Some(2));

    let root = server.ask(
        "/",
        &json!({"inputs": "She", "parameters": {"max_new_tokens": 6}}),
    );
    assert_eq!(root[0]["generated_text"], expected["text"]);
    let full = json!({"inputs": "She", "parameters": {"max_new_tokens": 6,
        "return_full_text": true}});
    let full = server.ask("/generate", &full);
    let text = full["generated_text"].as_str().expect("a text");
    assert_eq!(text.strip_prefix("She"), expected["text"].as_str());

    // A stream has an event a token, the last one with the whole text.
    let body = json!({"inputs": "She", "parameters": {"max_new_tokens": 6}});
    let events: Vec<Value> = server
        .events("/generate_stream", &body)
        .map(|event| serde_json::from_str(&event).expect("JSON"))
        .collect();
    assert_eq!(events.len(), 6);
    let pieces: String = events
        .iter()
        .map(|event| event["token"]["text"].as_str().expect("a text"))
        .collect();
    assert_eq!(json!(pieces), expected["text"]);
    let last = events.last().expect("events");
    assert_eq!(last["generated_text"], expected["text"]);
    assert_eq!(last["details"]["finish_reason"], "length");
    assert!(
        events[..5]
            .iter()
            .all(|event| event["generated_text"].is_null())
    );

    let seeded = json!({"inputs": "She", "parameters": {"max_new_tokens": 6, "seed": 7,
        "do_sample": true}});
    let flags = ["--max-new-tokens", "6", "--do-sample", "--seed", "7"];
    let expected = alone(&json!({"prompt": "She"}), &flags);
    assert_eq!(
        server.ask("/generate", &seeded)["generated_text"],
        expected["text"]
    );

    let tokens = server.ask("/tokenize", &json!({"inputs": "She was"}));
    let tokens = tokens.as_array().expect("a list");
    assert_eq!(tokens[0]["text"], "<bos>");
    assert_eq!(tokens.last().expect("tokens")["stop"], 7);
    let info = server.get("/info").json();
    assert_eq!(
        (&info["model_id"], &info["max_total_tokens"]),
        (&json!("gemma-small"), &json!(256))
    );
    for (body, field) in [
        (json!({}), "inputs"),
        (
            json!({"inputs": "a", "parameters": {"typical_p": 0.5}}),
            "typical_p",
        ),
        (
            json!({"inputs": "a", "parameters": {"max_new_tokens": 0}}),
            "max_new_tokens",
        ),
        (
            json!({"inputs": "a", "parameters": {"grammar": {"type": "x"}}}),
            "grammar",
        ),
        (json!({"inputs": "a", "parameter": {}}), "parameter"),
    ] {
        let response = server.post("/generate", &body);
        assert_eq!(response.status, 422, "{body}");
        let error = response.json();
        assert_eq!(error["error_type"], "validation");
        assert!(
            error["error"].as_str().expect("a text").contains(field),
            "{error}"
        );
    }
    let regex = json!({"inputs": "She", "parameters": {"max_new_tokens": 20,
        "grammar": {"type": "regex", "value": "(yes|no)"}}});
    let text = server.ask("/generate", &regex)["generated_text"].clone();
    assert!(
        ["yes", "no"].contains(&text.as_str().expect("a text")),
        "{text}"
    );
}
