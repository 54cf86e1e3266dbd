"""/v1/completions with the openai client."""

import json

import pytest

from running import MODEL, NAME

TEXTS = ["She", "It is a truth universally acknowledged, that", '"My dear Jane," said Elizabeth,']
TOKENS = 24
# Ids of the bytes 0x80 to 0xff, of which only some sequences are characters.
BYTES = [byte + 6 for byte in range(0x80, 0x100)]


def complete(client, prompt, **fields):
    return client.completions.create(model=NAME, prompt=prompt, **{"max_tokens": TOKENS, "temperature": 0, **fields})


def chunks_of(client, prompt, **fields):
    return list(complete(client, prompt, stream=True, **fields))


def texts_of(chunks):
    """The text of each choice, joined."""
    texts = {}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    return [texts[index] for index in sorted(texts)]


def ids(tokenizer, text):
    return tokenizer(text).input_ids


def test_each_form_of_a_prompt_has_the_tokens_of_generate(client, alone, tokenizer):
    expected = [alone.greedy(text, TOKENS)["text"] for text in TEXTS]
    lists = [ids(tokenizer, text) for text in TEXTS]
    assert [complete(client, text).choices[0].text for text in TEXTS] == expected
    assert [complete(client, ids).choices[0].text for ids in lists] == expected
    for prompts in [TEXTS, lists]:
        whole = complete(client, prompts)
        assert whole.object == "text_completion" and whole.model == NAME and whole.id
        assert [choice.index for choice in whole.choices] == [0, 1, 2]
        assert [choice.text for choice in whole.choices] == expected
        assert whole.usage.prompt_tokens == sum(map(len, lists))


def test_ids_get_no_bos_and_texts_do(client, tokenizer):
    bare = tokenizer("She", add_special_tokens=False).input_ids
    assert complete(client, "She").usage.prompt_tokens == len(bare) + 1
    assert complete(client, bare).usage.prompt_tokens == len(bare)
    assert complete(client, bare, logprobs=0, echo=True).choices[0].logprobs.token_logprobs[0] is None


def test_choices_of_n_are_prompt_major(client):
    whole = complete(client, TEXTS[:2], n=3, temperature=1, seed=5, echo=True)
    assert [choice.index for choice in whole.choices] == list(range(6))
    for choice in whole.choices:
        assert choice.text.startswith(TEXTS[choice.index // 3]), choice
    assert len({choice.text for choice in whole.choices[:3]}) > 1, "replies to one prompt have one key"
    again = complete(client, TEXTS[:2], n=3, temperature=1, seed=5, echo=True)
    assert [choice.text for choice in again.choices] == [choice.text for choice in whole.choices]


def test_echo_puts_the_prompt_before_the_reply(client):
    reply = complete(client, TEXTS[1]).choices[0].text
    assert complete(client, TEXTS[1], echo=True).choices[0].text == TEXTS[1] + reply
    alone = complete(client, TEXTS[1], echo=True, max_tokens=0)
    assert alone.choices[0].text == TEXTS[1] and alone.usage.completion_tokens == 0
    assert texts_of(chunks_of(client, TEXTS[1], echo=True)) == [TEXTS[1] + reply]


@pytest.mark.parametrize("count", [0, 5])
def test_logprobs_are_those_of_generate(client, alone, count):
    choice = complete(client, TEXTS[0], logprobs=count).choices[0]
    given = choice.logprobs
    options = ["--greedy", "--max-new-tokens", str(TOKENS), "--logprobs", "5"]
    expected = alone.generate(TEXTS[0], *options)["logprobs"]
    assert len(given.tokens) == len(given.token_logprobs) == len(given.top_logprobs) == len(given.text_offset)
    assert given.token_logprobs == pytest.approx([entry["logprob"] for entry in expected], abs=1e-4)
    for token, logprob, top, entry in zip(given.tokens, given.token_logprobs, given.top_logprobs, expected, strict=True):
        # The chosen one's number is the same to the bit, since clients compare them.
        assert top[token] == logprob
        assert max(1, count) <= len(top) <= count + 1
        best = sorted((value for _, value in entry["top"]), reverse=True)[:count]
        assert sorted(top.values(), reverse=True)[:count] == pytest.approx(best, abs=1e-4)
    assert given.text_offset == sorted(given.text_offset)
    assert given.text_offset[0] == 0


def test_logprobs_of_a_prompt_come_with_echo(client, tokenizer):
    choice = complete(client, TEXTS[1], echo=True, logprobs=2, max_tokens=3).choices[0]
    given = choice.logprobs
    assert len(given.tokens) == len(ids(tokenizer, TEXTS[1])) + 3
    assert given.token_logprobs[0] is None and given.top_logprobs[0] is None
    assert all(value <= 0 for value in given.token_logprobs[1:])
    assert complete(client, TEXTS[1]).choices[0].logprobs is None


def test_a_stop_string_ends_a_reply_and_never_shows(client, tokenizer):
    text = complete(client, TEXTS[0], max_tokens=60).choices[0].text
    assert len(text) > 60
    # Stops of every length, from every place: within a token, and over the ends of several.
    for begin in range(3, 50, 7):
        for length in [1, 3, 9, 17]:
            stop = text[begin : begin + length]
            expected = text[: text.index(stop)]
            whole = complete(client, TEXTS[0], max_tokens=60, stop=stop).choices[0]
            assert (whole.text, whole.finish_reason) == (expected, "stop"), repr(stop)
            if length > 1:
                chunks = chunks_of(client, TEXTS[0], max_tokens=60, stop=["no such text", stop])
                assert texts_of(chunks) == [expected], repr(stop)
                assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"


def test_a_stop_that_only_begins_is_shown(client):
    text = complete(client, TEXTS[0]).choices[0].text
    begun = text[-6:] + "@@@"
    assert complete(client, TEXTS[0], stop=begun).choices[0].text == text
    assert texts_of(chunks_of(client, TEXTS[0], stop=begun)) == [text]


def test_stops_that_clients_send_for_none_are_none(client):
    text = complete(client, TEXTS[0]).choices[0].text
    many = [f"@@{index}" for index in range(20)]
    for stop in [None, [], [""], "", many, ["<eos>"]]:
        assert complete(client, TEXTS[0], stop=stop).choices[0].text == text


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 1234567890123])
def test_a_seed_gives_the_tokens_of_generate(client, alone, seed):
    extra = {"top_k": 50}
    options = ["--do-sample", "--temperature", "0.8", "--top-k", "50", "--top-p", "0.95", "--seed", str(seed)]
    expected = alone.generate(TEXTS[1], *options, "--max-new-tokens", str(TOKENS))["text"]
    fields = {"seed": seed, "temperature": 0.8, "top_p": 0.95, "extra_body": extra}
    assert complete(client, TEXTS[1], **fields).choices[0].text == expected
    assert texts_of(chunks_of(client, TEXTS[1], **fields)) == [expected]
    # Each prompt of a list has the tokens that it has alone.
    together = complete(client, [TEXTS[0], TEXTS[1], TEXTS[2]], **fields).choices
    assert together[1].text == expected


def test_without_a_seed_replies_differ(client):
    replies = {complete(client, "She", temperature=1).choices[0].text for _ in range(4)}
    assert len(replies) > 1


def test_usage_counts_the_tokens(client, tokenizer):
    whole = complete(client, TEXTS[:2], n=2, temperature=1, seed=3, logprobs=0)
    usage = whole.usage
    assert usage.completion_tokens == sum(len(choice.logprobs.tokens) for choice in whole.choices)
    assert usage.prompt_tokens == sum(len(ids(tokenizer, text)) for text in TEXTS[:2])
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert all(choice.finish_reason in ("stop", "length") for choice in whole.choices)


def test_max_tokens_is_16_by_default(client):
    whole = client.completions.create(model=NAME, prompt="She", temperature=0, extra_body={"ignore_eos": True})
    assert whole.usage.completion_tokens == 16 and whole.choices[0].finish_reason == "length"


def test_a_stream_has_the_text_and_usage_of_the_whole(client):
    fields = {"n": 2, "temperature": 1, "seed": 9, "logprobs": 2}
    whole = complete(client, TEXTS[:2], **fields)
    chunks = chunks_of(client, TEXTS[:2], stream_options={"include_usage": True}, **fields)
    assert texts_of(chunks) == [choice.text for choice in whole.choices]
    *most, last = chunks
    assert last.choices == [] and last.usage.completion_tokens == whole.usage.completion_tokens
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens
    assert all(chunk.usage is None for chunk in most)
    assert all(chunk.object == "text_completion" and chunk.id == last.id for chunk in chunks)
    for choice in whole.choices:
        parts = [c for chunk in most for c in chunk.choices if c.index == choice.index]
        assert [c.finish_reason for c in parts if c.finish_reason] == [choice.finish_reason]
        tokens = [token for c in parts if c.logprobs for token in c.logprobs.tokens]
        logprobs = [value for c in parts if c.logprobs for value in c.logprobs.token_logprobs]
        assert tokens == choice.logprobs.tokens
        assert logprobs == pytest.approx(choice.logprobs.token_logprobs, abs=1e-4)
    assert len(most) > 8, "the reply came in one piece"
    assert all(chunk.usage is None for chunk in chunks_of(client, TEXTS[0]))


def test_a_stream_ends_with_done(server):
    events = list(server.events("/v1/completions", {"prompt": "She", "stream": True, "model": NAME}))
    assert events[-1] == "[DONE]" and events.count("[DONE]") == 1
    assert all(json.loads(event)["object"] == "text_completion" for event in events[:-1])
    counted = {"include_usage": True, "continuous_usage_stats": True}
    body = {"prompt": "She", "stream": True, "max_tokens": 5, "stream_options": counted}
    usages = [json.loads(event)["usage"] for event in list(server.events("/v1/completions", body))[:-1]]
    counts = [usage["completion_tokens"] for usage in usages]
    assert counts == sorted(counts) and counts[-1] == 5


@pytest.mark.parametrize("seed", range(6))
def test_characters_are_never_split(client, seed):
    # Bytes become likely, and an early end impossible.
    bias = {**{str(id): 14 for id in BYTES}, "1": -100}
    fields = {"seed": seed, "temperature": 1, "logit_bias": bias, "max_tokens": 80}
    whole = complete(client, "She", **fields).choices[0].text
    assert any(ord(character) > 0x7F for character in whole)
    chunks = chunks_of(client, "She", **fields)
    assert texts_of(chunks) == [whole]


def test_fields_that_clients_add_are_obeyed(client, alone):
    greedy = complete(client, "She").choices[0].text
    for extra in [{"top_k": 1}, {"min_p": 1.0}]:
        assert complete(client, "She", temperature=1, seed=4, extra_body=extra).choices[0].text == greedy
    expected = alone.generate("She", "--greedy", "--max-new-tokens", "24", "--repetition-penalty", "1.3")["text"]
    assert complete(client, "She", extra_body={"repetition_penalty": 1.3}).choices[0].text == expected
    options = ["--greedy", "--max-new-tokens", "24", "--presence-penalty", "0.7", "--frequency-penalty", "0.4"]
    expected = alone.generate("She", *options)["text"]
    assert complete(client, "She", presence_penalty=0.7, frequency_penalty=0.4).choices[0].text == expected


def test_ids_can_be_forbidden_forced_and_stopped_at(client, alone):
    tokens = alone.greedy("She", TOKENS)["token_ids"]
    first = complete(client, "She", max_tokens=1).choices[0].text
    other = complete(client, "She", max_tokens=1, logit_bias={str(tokens[0]): -100}).choices[0].text
    assert other != first
    stopped = complete(client, "She", extra_body={"stop_token_ids": [tokens[5]]})
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.usage.completion_tokens == tokens.index(tokens[5]) + 1
    # With a bias of 100 the reply ends at once, unless it must not.
    ended = complete(client, "She", logit_bias={"1": 100})
    assert (ended.choices[0].text, ended.choices[0].finish_reason) == ("", "stop")
    assert ended.usage.completion_tokens == 1
    for extra in [{"min_tokens": 7}, {"ignore_eos": True}]:
        went_on = complete(client, "She", max_tokens=9, logit_bias={"1": 100}, extra_body=extra)
        assert went_on.usage.completion_tokens >= 8, extra


def test_nulls_are_defaults(server):
    names = (
        "suffix max_tokens temperature top_p n stream stream_options logprobs echo stop presence_penalty "
        "frequency_penalty best_of logit_bias user seed top_k min_p repetition_penalty response_format "
        "stop_token_ids min_tokens ignore_eos"
    ).split()
    given = {"prompt": "She", "seed": 1}
    plain = server.post("/v1/completions", given)
    nulls = server.post("/v1/completions", {**dict.fromkeys(names), **given})
    assert nulls["choices"] == plain["choices"]


def score_request(rows):
    """What lm-evaluation-harness sends for log-likelihoods."""
    return {"prompt": rows, "max_tokens": 1, "temperature": 0, "logprobs": 1, "seed": 1234, "echo": True}


def read_scores(choices, contexts):
    """Reads them as lm-evaluation-harness does."""
    for choice, context in zip(choices, contexts, strict=True):
        logprobs = choice["logprobs"]["token_logprobs"][context:-1]
        tops = choice["logprobs"]["top_logprobs"][context:-1]
        yield logprobs, all(value == max(top.values()) for value, top in zip(logprobs, tops, strict=True))


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("at_once", [1, 8])
def test_scores_are_flax_s(server, batch, at_once):
    from concurrent.futures import ThreadPoolExecutor

    records = json.loads((MODEL / "score.json").read_text())["records"]
    records = [record for record in records if record["context_ids"] and record["continuation_ids"]]
    assert len(records) > 8

    def score(part):
        rows = [record["context_ids"] + record["continuation_ids"] for record in part]
        answer = server.post("/v1/completions", score_request(rows))
        for choice, row in zip(answer["choices"], rows, strict=True):
            assert len(choice["logprobs"]["token_logprobs"]) == len(row) + 1
            assert choice["logprobs"]["token_logprobs"][0] is None
        return list(read_scores(answer["choices"], [len(record["context_ids"]) for record in part]))

    parts = [records[at : at + batch] for at in range(0, len(records), batch)]
    with ThreadPoolExecutor(at_once) as pool:
        scores = [score for part in pool.map(score, parts) for score in part]
    for (logprobs, is_greedy), record in zip(scores, records, strict=True):
        assert logprobs == pytest.approx(record["token_logprobs"], abs=1e-4), record
        assert is_greedy == record["is_greedy"], record


def test_an_eos_as_the_new_token_counts_as_an_entry(server, tokenizer):
    rows = [ids(tokenizer, text) for text in TEXTS]
    answer = server.post("/v1/completions", {**score_request(rows), "logit_bias": {"1": 100}})
    for choice, row in zip(answer["choices"], rows, strict=True):
        assert len(choice["logprobs"]["token_logprobs"]) == len(row) + 1
        assert len(choice["logprobs"]["top_logprobs"]) == len(row) + 1
