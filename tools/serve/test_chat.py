"""/v1/chat/completions with the openai client, langchain-openai and litellm."""

import json

import jsonschema
import litellm
import pytest
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

from running import NAME

SAID = [{"role": "user", "content": "Tell me of Elizabeth."}]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"enum": ["日本語", "Zoë", "👩‍🚀"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "words": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 2},
    },
    "required": ["name", "age", "words"],
    "additionalProperties": False,
}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}


def ask(client, messages=SAID, **fields):
    return client.chat.completions.create(
        model=NAME, messages=messages, **{"max_tokens": 24, "temperature": 0, **fields}
    )


def test_a_reply_has_the_shape_and_text_of_generate(client, alone, tokenizer):
    whole = ask(client)
    (choice,) = whole.choices
    assert whole.object == "chat.completion" and whole.model == NAME
    assert choice.message.role == "assistant" and choice.logprobs is None
    rendered = tokenizer.apply_chat_template(SAID, add_generation_prompt=True, tokenize=False)
    ids = tuple(tokenizer(rendered, add_special_tokens=False).input_ids)
    assert whole.usage.prompt_tokens == len(ids)
    assert choice.message.content == alone.greedy(ids, 24)["text"]


def test_parts_and_turns_are_rendered(client):
    parts = [{"role": "user", "content": [{"type": "text", "text": "Tell me of "}, {"type": "text", "text": "Elizabeth."}]}]
    assert ask(client, parts).choices[0].message.content == ask(client).choices[0].message.content
    turns = [*SAID, {"role": "assistant", "content": "She is here."}, {"role": "user", "content": "Go on."}]
    assert ask(client, turns).usage.prompt_tokens > ask(client).usage.prompt_tokens


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_has_the_text_of_the_whole(client, n):
    fields = {"n": n, "temperature": 1, "seed": 3, "logprobs": True, "top_logprobs": 2}
    whole = ask(client, **fields)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}, **fields))
    *most, last = chunks
    assert last.choices == [] and last.usage.total_tokens == whole.usage.total_tokens
    assert all(chunk.usage is None and chunk.object == "chat.completion.chunk" for chunk in most)
    for choice in whole.choices:
        parts = [c for chunk in most for c in chunk.choices if c.index == choice.index]
        assert parts[0].delta.role == "assistant"
        assert all(part.delta.role is None for part in parts[1:])
        assert "".join(part.delta.content or "" for part in parts) == choice.message.content
        assert [part.finish_reason for part in parts if part.finish_reason] == [choice.finish_reason]
        entries = [entry for part in parts if part.logprobs for entry in part.logprobs.content]
        assert [entry.token for entry in entries] == [entry.token for entry in choice.logprobs.content]


@pytest.mark.parametrize("top", [0, 5, 20])
def test_logprobs_have_tokens_bytes_and_the_most_likely(client, top):
    choice = ask(client, logprobs=True, top_logprobs=top).choices[0]
    entries = choice.logprobs.content
    joined = b"".join(bytes(entry.bytes) for entry in entries if entry.bytes)
    assert joined.decode().strip() == choice.message.content.strip()
    for entry in entries:
        assert entry.logprob <= 0 and len(entry.top_logprobs) == top
        if top:
            # Greedy: the chosen one is the most likely, with the same number.
            assert entry.top_logprobs[0].token == entry.token
            assert entry.top_logprobs[0].logprob == entry.logprob
            assert [e.logprob for e in entry.top_logprobs] == sorted((e.logprob for e in entry.top_logprobs), reverse=True)


def test_both_names_of_the_limit_are_obeyed(client):
    extra = {"ignore_eos": True}
    for field in ["max_tokens", "max_completion_tokens"]:
        whole = client.chat.completions.create(model=NAME, messages=SAID, extra_body=extra, **{field: 7})
        assert whole.usage.completion_tokens == 7 and whole.choices[0].finish_reason == "length"
    # Without either the reply may take what room there is.
    whole = client.chat.completions.create(model=NAME, messages=SAID, temperature=0, extra_body=extra)
    assert whole.usage.total_tokens == 512


def test_a_stop_string_never_shows(client):
    text = ask(client, max_tokens=60).choices[0].message.content
    stop = text[20:31]
    expected = text[: text.index(stop)]
    whole = ask(client, max_tokens=60, stop=[stop]).choices[0]
    assert (whole.message.content, whole.finish_reason) == (expected, "stop")
    chunks = list(ask(client, max_tokens=60, stop=[stop], stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_json_schema_is_followed(client, temperature):
    fields = {"response_format": JSON_SCHEMA, "max_tokens": 300, "temperature": temperature, "seed": 2}
    whole = ask(client, **fields).choices[0]
    assert whole.finish_reason == "stop", whole
    jsonschema.validate(json.loads(whole.message.content), SCHEMA)
    # The names are written byte by byte by this tokenizer; no piece may have half a character.
    chunks = list(ask(client, stream=True, **fields))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.message.content
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_json_object_is_one(client):
    whole = ask(client, response_format={"type": "json_object"}, max_tokens=200).choices[0]
    assert whole.message.content.lstrip().startswith("{")
    if whole.finish_reason == "stop":
        assert isinstance(json.loads(whole.message.content), dict)
    plain = ask(client, response_format={"type": "text"}).choices[0]
    assert plain.message.content == ask(client).choices[0].message.content


def test_nulls_are_defaults(server):
    names = (
        "frequency_penalty logit_bias logprobs top_logprobs max_tokens max_completion_tokens n presence_penalty "
        "response_format seed service_tier stop stream stream_options temperature top_p tools tool_choice "
        "parallel_tool_calls user functions function_call modalities metadata store reasoning_effort"
    ).split()
    given = {"messages": SAID, "seed": 1, "max_tokens": 9}
    plain = server.post("/v1/chat/completions", given)
    nulls = server.post("/v1/chat/completions", {**dict.fromkeys(names), **given})
    assert nulls["choices"] == plain["choices"]


@pytest.fixture
def langchain(server):
    return ChatOpenAI(model=NAME, base_url=f"{server.url}/v1", api_key="none", temperature=0, max_tokens=24, max_retries=0)


def test_langchain_asks_streams_and_reads_json(langchain, client, server):
    expected = ask(client).choices[0].message.content
    question = SAID[0]["content"]
    reply = langchain.invoke(question)
    assert reply.content == expected
    assert reply.usage_metadata["output_tokens"] == ask(client).usage.completion_tokens
    assert "".join(chunk.content for chunk in langchain.stream(question)) == expected
    assert [reply.content for reply in langchain.batch([question] * 4)] == [expected] * 4
    scored = langchain.bind(logprobs=True).invoke(question)
    assert len(scored.response_metadata["logprobs"]["content"]) == reply.usage_metadata["output_tokens"]

    class Person(BaseModel):
        age: int

    bounded = ChatOpenAI(model=NAME, base_url=f"{server.url}/v1", api_key="none", temperature=0, max_tokens=200)
    schema = {**SCHEMA, "title": "person", "description": "a person"}
    person = bounded.with_structured_output(schema, method="json_schema").invoke(question)
    jsonschema.validate(person, SCHEMA)


def test_langchain_completes(client, server):
    plain = OpenAI(model=NAME, base_url=f"{server.url}/v1", api_key="none", temperature=0, max_tokens=24)
    expected = client.completions.create(model=NAME, prompt="She", temperature=0, max_tokens=24).choices[0].text
    assert plain.invoke("She") == expected
    assert "".join(plain.stream("She")) == expected


def test_litellm_asks_and_streams(client, server):
    expected = ask(client).choices[0].message.content
    fields = {"model": f"openai/{NAME}", "api_base": f"{server.url}/v1", "api_key": "none", "num_retries": 0}
    chat = {**fields, "messages": SAID, "temperature": 0, "max_tokens": 24}
    assert litellm.completion(**chat).choices[0].message.content == expected
    chunks = list(litellm.completion(**chat, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected
    text = {**fields, "model": f"text-completion-openai/{NAME}", "prompt": "She", "temperature": 0, "max_tokens": 24}
    plain = client.completions.create(model=NAME, prompt="She", temperature=0, max_tokens=24).choices[0].text
    assert litellm.text_completion(**text).choices[0].text == plain
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(**{**chat, "max_tokens": 100_000})
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**{**chat, "model": "openai/another"})
