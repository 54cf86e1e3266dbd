"""Computes the sampled tokens of the fixtures by hand and ends with an error where they are not the
same.

    python check_keys.py ../../tests/data

Keys, noise, warpers and choice are numpy's alone (threefry.py); Flax gives only the logits, from
one pass over each finished sequence. Also holds threefry.py's hash, split, fold_in and bits against
sampling/vectors.json, and its floats to a few units in the last place.
"""

import argparse
import json
import sys
from pathlib import Path

import threefry
from reference import forward, left_pad, load_model

import numpy as np


def check_vectors(vectors):
    for entry in vectors["hashes"]:
        high, low = threefry.threefry2x32(entry["key"], *(np.uint32([word]) for word in entry["counter"]))
        assert [int(high[0]), int(low[0])] == entry["hash"], entry
    for entry in vectors["keys"]:
        key = threefry.prng_key(int(entry["seed"]))
        assert list(key) == entry["key"], entry["seed"]
        for name, count in (("split", 2), ("split_5", 5)):
            assert [list(half) for half in threefry.split(key, count)] == entry[name], entry["seed"]
        for data, folded in entry["fold_in"]:
            assert list(threefry.fold_in(key, data)) == folded, (entry["seed"], data)
        steps = entry["step_keys"]
        assert [list(drawn) for drawn in threefry.step_keys(key, len(steps))] == steps, entry["seed"]
    for entry in vectors["noise"]:
        shape = entry["shape"]
        bits = threefry.random_bits(entry["key"], shape)
        assert bits.tolist() == entry["bits_32"] and (bits & 0xFF).tolist() == entry["bits_8"]
        uniform = threefry.uniform(entry["key"], shape, 0.0)
        assert uniform.view(np.uint32).tolist() == entry["uniform_float32"]
        noise = np.array(entry["gumbel_float32"], np.uint32).view(np.float32)
        assert np.allclose(threefry.gumbel(entry["key"], shape), noise, rtol=2e-6, atol=2e-7)


def check_run(model, prompts, members, generated, key, settings, pad, eos):
    """Compares one call of `generate` with the same run by hand."""
    ids, mask = left_pad([prompts[index]["token_ids"] for index in members], pad)
    steps = max(map(len, generated))
    padded = np.array([tokens + [pad] * (steps - len(tokens)) for tokens in generated], np.int32)
    full_mask = np.concatenate([mask, np.ones_like(padded)], axis=1)
    logits = forward(model, np.concatenate([ids, padded], axis=1), full_mask)
    # What follows a prompt comes from its last position, and so on; the last token's own logits are
    # not used.
    logits = logits[:, ids.shape[1] - 1 : -1].swapaxes(0, 1)
    values = {name: value for name, value in settings.items() if name != "do_sample"}
    chosen, _ = threefry.replay(logits, key, **values)
    for row, tokens in enumerate(generated):
        assert chosen[: len(tokens), row].tolist() == tokens, (members, settings, key)
        assert tokens[-1] == eos or len(tokens) == steps


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds gemma-small and sampling")
    data = parser.parse_args().data
    check_vectors(json.loads((data / "sampling" / "vectors.json").read_text()))
    fixture = json.loads((data / "gemma-small" / "sampling-float32.json").read_text())
    model = load_model(data / "gemma-small", "float32")
    metadata, prompts = fixture["metadata"], fixture["prompts"]
    pad, eos = metadata["pad_token_id"], metadata["eos_token_id"]
    count = 0
    for run in fixture["runs"]:
        settings = fixture["settings"][run["setting"]]
        key = threefry.prng_key(run["seed"])
        check_run(model, prompts, list(range(len(prompts))), run["batch"], key, settings, pad, eos)
        for index in range(len(prompts)):
            check_run(model, prompts, [index], [run["alone"][index]], key, settings, pad, eos)
            folded = threefry.fold_in(key, index)
            check_run(model, prompts, [index], [run["folded"][index]], folded, settings, pad, eos)
        count += 1 + 2 * len(prompts)
    print(f"{count} calls of generate, {len(fixture['runs'])} settings and seeds: the tokens are the same by hand")
    return 0


if __name__ == "__main__":
    sys.exit(main())
