"""The routes of Text Generation Inference, operation, and Vertex AI's contract."""

import json

import huggingface_hub
import pytest

from running import MODEL, NAME, Server

TOKENS = 20
METRICS = """
vllm:num_requests_running vllm:num_requests_waiting vllm:kv_cache_usage_perc vllm:prompt_tokens_total
vllm:generation_tokens_total vllm:request_success_total vllm:prefix_cache_queries_total
vllm:prefix_cache_hits_total vllm:time_to_first_token_seconds_bucket vllm:inter_token_latency_seconds_bucket
vllm:request_time_per_output_token_seconds_bucket vllm:e2e_request_latency_seconds_bucket
vllm:request_queue_time_seconds_bucket vllm:request_prefill_time_seconds_bucket
vllm:request_decode_time_seconds_bucket vllm:request_prompt_tokens_bucket
vllm:request_generation_tokens_bucket vllm:iteration_tokens_total_bucket tgi_queue_size
tgi_batch_current_size tgi_request_count tgi_request_success tgi_request_duration_bucket
""".split()


def body(text="She", **parameters):
    return {"inputs": text, "parameters": {"max_new_tokens": TOKENS, **parameters}}


def test_generate_has_the_text_of_generate(server, alone):
    expected = alone.greedy("She", TOKENS)
    assert server.post("/generate", body()) == {"generated_text": expected["text"]}
    full = server.post("/generate", body(return_full_text=True))["generated_text"]
    assert full == "She" + expected["text"]
    details = server.post("/generate", body(details=True, decoder_input_details=True, top_n_tokens=3))["details"]
    assert [token["id"] for token in details["tokens"]] == expected["token_ids"]
    assert details["generated_tokens"] == len(expected["token_ids"])
    assert details["finish_reason"] in ("length", "eos_token", "stop_sequence")
    assert details["prefill"][0]["logprob"] is None and len(details["prefill"]) == 2
    assert all(len(top) == 3 for top in details["top_tokens"])
    assert server.post("/", body()) == [{"generated_text": expected["text"]}]


def test_a_stream_has_the_text_of_the_whole(server):
    parameters = {"do_sample": True, "seed": 4, "temperature": 0.9}
    whole = server.post("/generate", body(details=True, **parameters))
    events = [json.loads(event) for event in server.events("/generate_stream", body(**parameters))]
    assert all(event["generated_text"] is None for event in events[:-1])
    assert events[-1]["generated_text"] == whole["generated_text"]
    assert [event["token"]["id"] for event in events] == [token["id"] for token in whole["details"]["tokens"]]
    joined = "".join(event["token"]["text"] for event in events if not event["token"]["special"])
    assert joined == whole["generated_text"]
    assert events[-1]["details"]["generated_tokens"] == len(events)


def test_huggingface_hub_s_client_asks_and_streams(server, alone):
    client = huggingface_hub.InferenceClient(server.url)
    expected = alone.greedy("She", TOKENS)
    assert client.text_generation("She", max_new_tokens=TOKENS) == expected["text"]
    assert "".join(client.text_generation("She", max_new_tokens=TOKENS, stream=True)) == expected["text"]
    whole = client.text_generation("She", max_new_tokens=TOKENS, details=True)
    assert [token.id for token in whole.details.tokens] == expected["token_ids"]
    chat = huggingface_hub.InferenceClient(base_url=server.url)
    said = chat.chat_completion([{"role": "user", "content": "Hello."}], model=NAME, max_tokens=5)
    assert said.choices[0].message.role == "assistant"


def test_characters_are_never_split(server):
    grammar = {"type": "regex", "value": "(日本語|Zoë|👩‍🚀){6}"}
    whole = server.post("/generate", {"inputs": "She", "parameters": {"max_new_tokens": 200, "grammar": grammar}})
    text = whole["generated_text"]
    assert text and "\ufffd" not in text
    parameters = {"max_new_tokens": 200, "grammar": grammar}
    events = [json.loads(e) for e in server.events("/generate_stream", {"inputs": "She", "parameters": parameters})]
    pieces = [event["token"]["text"] for event in events if not event["token"]["special"]]
    assert "".join(pieces) == text and not any("\ufffd" in piece for piece in pieces)


def test_a_seed_gives_the_tokens_of_generate(server, alone):
    options = ["--do-sample", "--temperature", "0.7", "--top-k", "40", "--seed", "11", "--max-new-tokens", str(TOKENS)]
    expected = alone.generate("She", *options)["text"]
    given = body(do_sample=True, temperature=0.7, top_k=40, seed=11)
    assert server.post("/generate", given)["generated_text"] == expected


def test_a_stop_ends_a_reply(server):
    text = server.post("/generate", body())["generated_text"]
    stop = text[8:14]
    stopped = server.post("/generate", body(stop=[stop], details=True))
    assert stopped["details"]["finish_reason"] == "stop_sequence"
    assert stopped["generated_text"] == text[: text.index(stop)]


@pytest.mark.parametrize("given, name", [
    ({}, "inputs"),
    ({"inputs": 3}, "inputs"),
    ({"inputs": "word " * 100_000}, "inputs"),
    (body(max_new_tokens=0), "max_new_tokens"),
    (body(max_new_tokens=10**6), "max_new_tokens"),
    (body(temperature=-1), "temperature"),
    (body(top_p=2), "top_p"),
    (body(typical_p=0.5), "typical_p"),
    (body(watermark=True), "watermark"),
    (body(best_of=3), "best_of"),
    (body(frobnicate=1), "frobnicate"),
    (body(grammar={"type": "regex", "value": "("}), ""),
], ids=range(12))
def test_a_422_names_the_field(server, given, name):
    for route in ["/generate", "/generate_stream"]:
        status, _, answer = server.send(route, given)
        answer = json.loads(answer)
        assert status == 422 and set(answer) == {"error", "error_type"}, answer
        assert answer["error_type"] == "validation" and name in answer["error"], answer


def test_tokenize_and_info(server, tokenizer):
    text = "She was not, 日本"
    tokens = server.post("/tokenize", {"inputs": text})
    assert [token["id"] for token in tokens] == tokenizer(text).input_ids
    bare = server.post("/tokenize", {"inputs": text, "add_special_tokens": False})
    assert [token["id"] for token in bare] == tokenizer(text, add_special_tokens=False).input_ids
    info = json.loads(server.send("/info")[2])
    assert info["model_id"] == NAME and info["max_total_tokens"] == 512


def test_headers_have_the_times(server):
    _, headers, _ = server.send("/generate", body())
    for name in ["x-total-time", "x-queue-time", "x-inference-time", "x-time-per-token"]:
        assert float(headers[name]) >= 0, name
    assert int(headers["x-prompt-tokens"]) == 2 and 0 < int(headers["x-generated-tokens"]) <= TOKENS


def test_metrics_have_the_names_of_dashboards(server):
    def value(text, name):
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith((name + "{", name + " ")))

    before = server.send("/metrics")[2].decode()
    usage = server.post("/v1/completions", {"prompt": "She", "max_tokens": 5})["usage"]
    after = server.send("/metrics")[2].decode()
    samples = {line.split("{")[0].split(" ")[0] for line in after.splitlines() if not line.startswith("#")}
    assert not [name for name in METRICS if name not in samples]
    assert 'model_name="gemma-small"' in after and 'engine="0"' in after
    new = value(after, "vllm:generation_tokens_total") - value(before, "vllm:generation_tokens_total")
    assert new == usage["completion_tokens"]
    assert value(after, "gemma_xla:programs") == value(before, "gemma_xla:programs") > 0, "it compiles while it serves"


def test_the_page_openapi_and_version(server):
    status, headers, page = server.send("/")
    assert status == 200 and headers["Content-Type"].startswith("text/html") and b"<title>gemma-xla" in page
    assert "sha256-" in headers["Content-Security-Policy"]
    document = json.loads(server.send("/openapi.json")[2])
    for route in ["/v1/completions", "/v1/chat/completions", "/v1/models", "/generate", "/tokenize", "/health"]:
        assert route in document["paths"], route
    assert json.loads(server.send("/version")[2])["version"]


def test_vertex_s_contract(binary):
    environment = {"AIP_HEALTH_ROUTE": "/vertex/health", "AIP_PREDICT_ROUTE": "/vertex/predict", "AIP_HTTP_PORT": "1"}
    # The port is overridden: a fixed one could be taken.
    server = Server(binary, "--host", "127.0.0.1", environment=environment)
    try:
        assert server.send("/vertex/health")[0] == 200
        instances = [{"prompt": "She"}, {"messages": [{"role": "user", "content": "Hello."}]}]
        given = {"instances": instances, "parameters": {"max_tokens": 5, "temperature": 0}}
        first, second = server.post("/vertex/predict", given)["predictions"]
        assert first["object"] == "text_completion" and second["object"] == "chat.completion"
        assert server.send("/vertex/predict", {"instances": 3})[0] == 400
    finally:
        server.end()
