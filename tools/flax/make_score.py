"""Writes the log-likelihoods that Flax gives on a small Gemma in float32, for the tests of scores,
perplexity and logprobs.

    python make_score.py ../../tests/data/gemma-small

makes score.json in the model's folder:

- `records`: contexts and continuations as text and ids, the sum and each token's natural logarithm
  of its probability, and whether every token is the most likely one. A text's ids are the same
  whether the continuation is encoded alone or as what it adds to the context. An empty context is
  `<bos>` alone.
- `perplexity`: one text under several windows and strides. A window is `length` tokens from
  `begin`; it scores its last `scored` tokens, those that no earlier window scored. `bos`: "first"
  is the text's ids cut as they are, so that only the first window has `<bos>`; "each" puts `<bos>`
  before every window, which is then one token longer, and scores all of the text's tokens.
- `greedy`: what follows each prompt, with each token's logprob and the five best.
"""

import argparse
import sys
from pathlib import Path

from make_sampling import write
from reference import forward, greedy, left_pad, load_model, new_tokens, stop_ids, versions

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

TOP = 5
NEW_TOKENS = 16
LONG_WINDOWS = [(512, 512), (512, 256), (128, 64)]
SHORT_WINDOWS = [(512, 512), (100, 1), (64, 64)]
GREEDY = ("She", "Mr. Darcy bowed.", "I am sure you will be very happy to hear that")
PAIRS = [
    ("", "It is a truth"),
    ("", "She"),
    ("", "zqx"),
    ("She", " was"),
    ("She", " was very much"),
    ("She", " had been in the house"),
    ("She", " xylophone"),
    ("It is a truth universally acknowledged, that", " a single man"),
    ("It is a truth universally acknowledged, that", " it is"),
    ("It is a truth universally acknowledged, that", " bicycle"),
    ('"My dear Jane," said Elizabeth,', ' "I am'),
    ('"My dear Jane," said Elizabeth,', " déjà vu"),
    ("Mr. Darcy bowed.", " He"),
    ("Mr. Darcy bowed.", "\nElizabeth"),
    ("Nothing could be more", " agreeable"),
    ("Nothing could be more", " agreeable to her than"),
    ("In the evening, when the ladies returned to the drawing-room,", " they were all"),
    ("I am sure you will be very happy to hear that", " I have been"),
    ("東京", " 大阪 🗼"),
]


def log_softmax(logits):
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def logprobs_of(model, ids):
    """Logprobs [S, V]: row i is what follows the first i + 1 of `ids`."""
    array = np.array([ids], np.int32)
    return log_softmax(forward(model, array, np.ones_like(array))[0])


def score(model, context, continuation):
    rows = logprobs_of(model, context + continuation)[len(context) - 1 : -1]
    tokens = [float(row[token]) for row, token in zip(rows, continuation)]
    return {
        "logprob": sum(tokens),
        "token_logprobs": tokens,
        "is_greedy": [int(row.argmax()) for row in rows] == continuation,
    }


def records(model, tokenizer):
    out = []
    pairs = PAIRS + [("She", decoded(model, tokenizer, "She", 4))]
    for context, continuation in pairs:
        context_ids = tokenizer.encode(context).ids
        ids = tokenizer.encode(continuation, add_special_tokens=False).ids
        assert tokenizer.encode(context + continuation).ids == context_ids + ids, (context, continuation)
        texts = {"context": context, "continuation": continuation}
        out.append(texts | {"context_ids": context_ids, "continuation_ids": ids} | score(model, context_ids, ids))
    assert any(record["is_greedy"] and len(record["continuation_ids"]) > 3 for record in out)
    return out


def decoded(model, tokenizer, prompt, count):
    """The text of the greedy tokens after a prompt, for a continuation that is greedy."""
    ids = tokenizer.encode(prompt).ids
    tokens = greedy_tokens(model, ids, count)
    return tokenizer.decode(ids + tokens)[len(tokenizer.decode(ids)) :]


def greedy_tokens(model, ids, count):
    eos, pad = stop_ids(model)
    padded, mask = left_pad([ids], pad)
    return new_tokens(greedy(model, padded, mask, count, eos, pad), len(ids), eos)[0]


def sampled_text(model, tokenizer):
    """A text of more tokens than the model has positions: what it says itself, after three
    prompts."""
    parts = []
    for seed, prompt in enumerate(GREEDY):
        ids = tokenizer.encode(prompt).ids
        output = model.generate(
            jnp.array([ids]), prng_key=jax.random.PRNGKey(seed), max_new_tokens=220, min_length=len(ids) + 220, do_sample=True,
            top_k=0, temperature=0.8,
        )
        parts.append(tokenizer.decode(np.asarray(output.sequences[0]).tolist()))
    return " ".join(parts)


def perplexity(model, tokenizer, text, length, stride, bos):
    """Perplexity as Transformers' guide has it, window by window."""
    ids = tokenizer.encode(text, add_special_tokens=bos == "first").ids
    windows, scored_to, total, count = [], 0, 0.0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + length, len(ids))
        window = ids[begin:end]
        if bos == "each":
            window = [model.config.bos_token_id] + window
        scored = end - scored_to
        if scored == len(window):
            # Nothing comes before the first token of a text, so nothing is said of it.
            scored -= 1
        rows = logprobs_of(model, window)[len(window) - scored - 1 : -1]
        logprob = sum(float(row[token]) for row, token in zip(rows, window[len(window) - scored :]))
        windows.append({"begin": begin, "length": end - begin, "scored": scored, "logprob": logprob})
        total, count, scored_to = total + logprob, count + scored, end
        if end == len(ids):
            break
    out = {"window": length, "stride": stride, "bos": bos, "tokens": count, "logprob": total}
    out["perplexity"] = float(np.exp(-total / count))
    # The windows of a stride of one are as many as the text has tokens.
    return out if stride == 1 else out | {"windows": windows}


def greedy_logprobs(model, tokenizer):
    out = []
    for prompt in GREEDY:
        ids = tokenizer.encode(prompt).ids
        tokens = greedy_tokens(model, ids, NEW_TOKENS)
        rows = logprobs_of(model, ids + tokens)[len(ids) - 1 : -1]
        steps = []
        for row, token in zip(rows, tokens):
            best = np.argsort(-row, kind="stable")[:TOP].tolist()
            steps.append({"token_id": token, "logprob": float(row[token]), "top": [[i, float(row[i])] for i in best]})
        out.append({"prompt": prompt, "token_ids": ids, "logprobs": steps})
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the model's folder")
    folder = parser.parse_args().folder
    model = load_model(folder, "float32")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = sampled_text(model, tokenizer)
    long = tokenizer.encode(text).ids
    assert len(long) > model.config.max_position_embeddings
    short = tokenizer.decode(long[:150])
    results = []
    for name, words, windows in (("long", text, LONG_WINDOWS), ("short", short, SHORT_WINDOWS)):
        for length, stride in windows:
            results.append({"text": name} | perplexity(model, tokenizer, words, length, stride, "first"))
            # A window of all positions has no room for a <bos> more.
            if min(length, len(long)) < model.config.max_position_embeddings:
                results.append({"text": name} | perplexity(model, tokenizer, words, length, stride, "each"))
    metadata = {"model": folder.name, "dtype": "float32", "versions": versions(), "platform": jax.default_backend()}
    content = {
        "metadata": metadata,
        "records": records(model, tokenizer),
        "texts": {"long": text, "short": short},
        "perplexity": results,
        "greedy": greedy_logprobs(model, tokenizer),
    }
    write(folder / "score.json", content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
