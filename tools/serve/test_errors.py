"""What is refused, and how the clients see it."""

import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from running import NAME, Server

KEY = "a-key-of-this-test"
OTHER_KEY = "another-key"
SAID = [{"role": "user", "content": "Hello."}]


def refused(call):
    """The exception of the openai client."""
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    return caught.value


COMPLETIONS = [
    ({"temperature": -1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_p": -0.1}, "top_p"),
    ({"min_p": 2}, "min_p"),
    ({"top_k": 1.5}, "top_k"),
    ({"n": 0}, "n"),
    ({"n": 100_000}, "n"),
    ({"best_of": 3}, "best_of"),
    ({"logprobs": 100_000}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"echo": "yes"}, "echo"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 100_000}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"seed": "one"}, "seed"),
    ({"stop": 3}, "stop"),
    ({"stop": [f"@{index}" for index in range(1000)]}, "stop"),
    ({"logit_bias": {"cat": 1}}, "logit_bias"),
    ({"logit_bias": {"99999": 1}}, "logit_bias"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"stop_token_ids": ["a"]}, "stop_token_ids"),
    ({"suffix": "the end"}, "suffix"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    ({"frobnicate": 1}, "frobnicate"),
    ({"prompt": None}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": {"a": 1}}, "prompt"),
    ({"prompt": ["a", 1]}, "prompt"),
    ({"prompt": [1.5]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [2048]}, "prompt"),
    ({"prompt": [5] * 512}, "prompt"),
    ({"prompt": [5] * 1_000_000}, "prompt"),
    ({"prompt": "word " * 100_000}, "prompt"),
]
CHATS = [
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": [1]}, "messages"),
    ({"messages": [{"content": "x"}]}, "messages"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
    ({"messages": [{"role": "system", "content": "x"}, *SAID]}, "messages"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 100_000}, "top_logprobs"),
    ({"logprobs": 3}, "logprobs"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"max_completion_tokens": 100_000}, "max_completion_tokens"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "cat"}}}}, "response_format"),
    ({"modalities": ["audio"]}, "modalities"),
    ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
]


@pytest.mark.parametrize("route, base, fields, name", [
    *[("completions", {"prompt": "She"}, *case) for case in COMPLETIONS],
    *[("chat/completions", {"messages": SAID}, *case) for case in CHATS],
], ids=lambda value: value if isinstance(value, str) else None)
def test_a_400_names_the_field(client, route, base, fields, name):
    error = refused(lambda: client.post(f"/{route}", cast_to=object, body={**base, **fields}))
    assert isinstance(error, openai.BadRequestError), error
    assert error.param is not None and error.param.split(".")[0].split("[")[0] == name, error.body
    assert name in error.message and error.type == "invalid_request_error"
    assert len(error.message) < 1000


def test_the_template_s_words_are_shown(client):
    messages = [{"role": "system", "content": "Be brief."}, *SAID]
    error = refused(lambda: client.chat.completions.create(model=NAME, messages=messages))
    assert "not of role system" in error.message


def test_a_model_that_is_not_served_is_a_404(client):
    for call in [
        lambda: client.completions.create(model="gpt-9", prompt="She"),
        lambda: client.chat.completions.create(model="gpt-9", messages=SAID),
        lambda: client.models.retrieve("gpt-9"),
    ]:
        error = refused(call)
        assert isinstance(error, openai.NotFoundError)
        assert error.code == "model_not_found" and "gpt-9" in error.message
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).object == "model"


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b"3", b'"x"', b"null", b"\xff\xfe", b'{"prompt": NaN}', b'{"prompt": "a", "temperature": Infinity}',
    b"[" * 100_000, b'{"prompt": ' + b"[" * 100_000, b'{"a":' * 100_000, b'{"prompt": "\\ud800"}',
    b'{"prompt": "She", "temperature": 1e999}', b'{"prompt": "She", "max_tokens": 1e30}',
], ids=range(15))
def test_a_malformed_body_is_a_400(server, body):
    for route in ["/v1/completions", "/v1/chat/completions"]:
        status, _, answer = server.send(route, body)
        assert status == 400, (status, answer)
        assert set(json.loads(answer)["error"]) == {"message", "type", "param", "code"}
    status, _, answer = server.send("/generate", body)
    assert status == 422 and json.loads(answer)["error_type"] == "validation"
    assert server.health() == 200


def test_a_body_that_is_too_large_is_a_413(client):
    error = refused(lambda: client.completions.create(model=NAME, prompt="x" * (20 << 20)))
    assert error.status_code == 413 and error.message


def test_routes_and_methods_that_there_are_not(server):
    assert server.send("/v1/embeddings", {"input": "x"})[0] == 404
    assert server.send("/v1/completions")[0] == 405
    # It would make lm-evaluation-harness use a tokenizer that forgets <bos>.
    assert server.send("/tokenizer_info")[0] == 404


def test_every_response_has_a_request_id(server):
    for path in ["/v1/models", "/nothing"]:
        assert server.send(path)[1]["x-request-id"]
    assert server.send("/v1/models", headers={"x-request-id": "mine-1"})[1]["x-request-id"] == "mine-1"
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert server.send("/v1/models", headers={"traceparent": parent})[0] == 200


def test_other_origins_are_not_allowed_by_default(server):
    headers = server.send("/v1/models", headers={"Origin": "https://elsewhere.example"})[1]
    assert "access-control-allow-origin" not in headers


@pytest.fixture(scope="module")
def guarded(binary, tmp_path_factory):
    """A server with keys, one row, and room for two replies that wait."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY}\n")
    options = ["--api-key-file", keys, "--rows", "1", "--max-queue", "2", "--log-format", "json"]
    options += ["--cors", "https://page.example", "--served-model-name", "house-model", "--drain-timeout", "60"]
    server = Server(binary, *options, environment={"GEMMA_XLA_API_KEY": OTHER_KEY})
    yield server
    server.end(signal.SIGKILL)


def client_of(server, key):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=120)


def test_a_key_is_needed_for_all_but_health(guarded):
    assert guarded.health() == 200 and guarded.send("/ping")[0] == 200
    for path in ["/v1/models", "/metrics", "/info", "/version", "/openapi.json", "/nothing"]:
        for headers in [{}, {"Authorization": "Bearer "}, {"Authorization": f"Bearer {KEY}x"}, {"Authorization": KEY}]:
            status, _, answer = guarded.send(path, headers=headers)
            assert status == 401, (path, headers, status)
            assert KEY not in answer.decode()
    for path in ["/v1/completions", "/v1/chat/completions", "/generate", "/generate_stream", "/tokenize"]:
        assert guarded.send(path, {"prompt": "x"})[0] == 401
    error = refused(lambda: client_of(guarded, "wrong").models.list())
    assert isinstance(error, openai.AuthenticationError)
    for key in [KEY, OTHER_KEY]:
        assert [model.id for model in client_of(guarded, key).models.list()] == ["house-model"]


def test_the_named_origin_is_allowed(guarded):
    headers = {"Origin": "https://page.example", "Authorization": f"Bearer {KEY}"}
    assert guarded.send("/v1/models", headers=headers)[1]["access-control-allow-origin"] == "https://page.example"
    headers["Origin"] = "https://elsewhere.example"
    assert "access-control-allow-origin" not in guarded.send("/v1/models", headers=headers)[1]


def long_request(server, tokens=400):
    client = client_of(server, KEY)
    extra = {"ignore_eos": True}
    return client.completions.create(model="house-model", prompt="She", max_tokens=tokens, extra_body=extra)


def test_a_full_queue_is_a_429(guarded):
    def attempt(_):
        try:
            return long_request(guarded).usage.completion_tokens
        except openai.RateLimitError as error:
            assert int(error.response.headers["Retry-After"]) >= 1
            assert error.type == "rate_limit_error"
            return None

    with ThreadPoolExecutor(12) as pool:
        counts = list(pool.map(attempt, range(12)))
    assert None in counts, "nothing was refused"
    assert 3 <= counts.count(400) == 12 - counts.count(None), counts


def test_logs_are_json_without_prompts(guarded):
    word = "Pemberleyesque"
    client = client_of(guarded, KEY)
    client.completions.create(model="house-model", prompt=word, max_tokens=1)
    refused(lambda: client.completions.create(model="house-model", prompt=word, max_tokens=10**6))
    time.sleep(0.3)
    lines = [json.loads(line) for line in guarded.lines]
    assert lines and any("request_id" in json.dumps(line) for line in lines)
    text = "".join(guarded.lines)
    assert word not in text and KEY not in text and OTHER_KEY not in text


def test_a_client_that_goes_frees_its_row(guarded):
    stream = client_of(guarded, KEY).completions.create(
        model="house-model", prompt="She", max_tokens=400, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    begin = time.monotonic()
    long_request(guarded, 1)
    assert time.monotonic() - begin < 2, "the row was not freed"


def test_sigterm_lets_running_replies_end(guarded):
    """The last of this file: it ends the server."""
    whole, seen = [], threading.Event()

    def read():
        stream = client_of(guarded, KEY).completions.create(
            model="house-model", prompt="She", max_tokens=450, stream=True, extra_body={"ignore_eos": True},
            stream_options={"include_usage": True},
        )
        for chunk in stream:
            seen.set()
            whole.append(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    assert seen.wait(60)
    guarded.process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    # A server that listens no longer is as good as one that says that it is not ready.
    health = guarded.health()
    error = None
    if health is not None:
        assert health == 503 or not reader.is_alive(), health
        try:
            long_request(guarded, 1)
        except openai.APIError as caught:
            error = caught
        assert error is not None or not reader.is_alive()
    reader.join(120)
    assert whole[-1].usage.completion_tokens == 450
    assert guarded.process.wait(90) == 0
