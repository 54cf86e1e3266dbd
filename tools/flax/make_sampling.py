"""Writes what Flax samples on a small Gemma, and JAX's random numbers behind it, for the tests.

    python make_sampling.py ../../tests/data

makes gemma-small/sampling-float32.json, gemma-small/sampling-bfloat16.json and
sampling/vectors.json. The tokens are those of Transformers' own `generate`. A seed is taken for a
setting only where its float32 runs are unambiguous: replayed in numpy (threefry.py) from the logits
of one pass over the finished sequences, plain or jitted, they give the same tokens, also where
every logit is moved at random by up to PERTURBATION of the logits' scale.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import threefry
from reference import DTYPES, forward, forward_jitted, left_pad, load_model, new_tokens, stop_ids, versions

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

PROMPTS = ("She", "It is a truth universally acknowledged, that", '"My dear Jane," said Elizabeth,')
SETTINGS = {
    "temperature": dict(temperature=0.7, top_k=0, top_p=1.0),
    "top_k": dict(temperature=1.0, top_k=50, top_p=1.0),
    "top_p": dict(temperature=1.0, top_k=0, top_p=0.9),
    "all": dict(temperature=1.3, top_k=20, top_p=0.8),
}
NEW_TOKENS = 20
SEEDS = 5
PERTURBATION = 1e-5
DRAWS = 4

KEYS = {"0": 0, "1": 1, "42": 42, "2^31": 2**31, "2^32 - 1": 2**32 - 1, "2^32 + 5": 2**32 + 5, "2^63 - 1": 2**63 - 1}


def sample(model, rows, key, settings, eos, pad):
    """New tokens of each row, up to and with eos, and the whole sequences with their mask."""
    ids, mask = left_pad(rows, pad)
    output = model.generate(
        jnp.asarray(ids), attention_mask=jnp.asarray(mask), prng_key=jnp.asarray(key, jnp.uint32), max_new_tokens=NEW_TOKENS,
        do_sample=True, num_beams=1, min_length=0, eos_token_id=eos, pad_token_id=pad, **settings,
    )
    sequences = np.asarray(output.sequences, np.int32)
    return new_tokens(sequences, ids.shape[1], eos), sequences, mask


def replayed(model, sequences, mask, tokens, key, settings, rng):
    """The least margin of a run that numpy's replay confirms; None where one of the replays parts
    from it.

    The logits are those of a plain pass and of a jitted one, each as it is and with every logit
    moved: `generate` runs the prompt plain and the rest jitted, and the two differ where parameters
    are stored in bfloat16 (see README.md).
    """
    width = mask.shape[1]
    full_mask = np.concatenate([mask, np.ones((len(mask), sequences.shape[1] - width), np.int32)], axis=1)
    least = np.inf
    for run in (forward, forward_jitted):
        logits = run(model, sequences, full_mask)[:, width - 1 : -1].swapaxes(0, 1)
        reach = PERTURBATION * np.abs(logits).max()
        for draw in range(DRAWS + 1):
            noise = rng.uniform(-reach, reach, logits.shape).astype(np.float32) if draw else np.float32(0)
            chosen, margins = threefry.replay(logits + noise, key, **settings)
            for row, ids in enumerate(tokens):
                if chosen[: len(ids), row].tolist() != ids:
                    return None
                if not draw:
                    least = min(least, float(margins[: len(ids), row].min()))
    return least


def keyed(seed, count):
    """The key of each run of one seed: (kind, rows of prompts, key)."""
    key = np.asarray(jax.random.PRNGKey(seed)).tolist()
    runs = [("batch", list(range(count)), key)]
    runs += [("alone", [index], key) for index in range(count)]
    for index in range(count):
        folded = np.asarray(jax.random.fold_in(jax.random.PRNGKey(seed), index)).tolist()
        runs.append(("folded", [index], folded))
    return runs


def run_of(model, rows, name, seed, eos, pad, check):
    """What one setting and seed give; None where `check` finds it ambiguous."""
    rng = np.random.default_rng(seed)
    run = {"setting": name, "seed": seed, "batch": None, "alone": [], "folded": []}
    least = np.inf
    for kind, members, key in keyed(seed, len(rows)):
        tokens, sequences, mask = sample(model, [rows[index] for index in members], key, SETTINGS[name], eos, pad)
        if kind == "batch":
            run[kind] = tokens
        else:
            run[kind] += tokens
        if check:
            margin = replayed(model, sequences, mask, tokens, key, SETTINGS[name], rng)
            if margin is None:
                return None
            least = min(least, margin)
    return run | {"least_margin": float(f"{least:.3g}")} if check else run


def make_tokens(folder, dtype, seeds=None):
    """Writes sampling-DTYPE.json into the model's folder. Returns the seeds of each setting: those
    of `seeds`, or else the first that are unambiguous."""
    model = load_model(folder, dtype)
    eos, pad = stop_ids(model)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = [tokenizer.encode(text).ids for text in PROMPTS]
    assert len(set(map(len, rows))) == len(rows)
    runs, taken = [], {}
    for name in SETTINGS:
        found = []
        for seed in seeds[name] if seeds else range(1000):
            run = run_of(model, rows, name, seed, eos, pad, check=seeds is None)
            print(f"{dtype}, {name}: seed {seed}: {'taken' if run else 'ambiguous'}", flush=True)
            if run:
                found.append(run)
            if len(found) == SEEDS:
                break
        taken[name] = [run["seed"] for run in found]
        runs += found
        # Every call of `generate` leaves compiled code mapped, and a process may have only so many
        # mappings.
        jax.clear_caches()
    metadata = {
        "model": folder.name,
        "dtype": dtype,
        "versions": versions(),
        "platform": jax.default_backend(),
        "jax_threefry_partitionable": bool(jax.config.jax_threefry_partitionable),
        "max_new_tokens": NEW_TOKENS,
        "eos_token_id": eos,
        "pad_token_id": pad,
        "keys": "batch and alone: PRNGKey(seed); folded: prompt i alone with fold_in(PRNGKey(seed), i)",
    }
    if seeds is None:
        metadata["perturbation"] = PERTURBATION
    settings = {name: {"do_sample": True, **values} for name, values in SETTINGS.items()}
    prompts = [{"text": text, "token_ids": ids} for text, ids in zip(PROMPTS, rows)]
    write(folder / f"sampling-{dtype}.json", {"metadata": metadata, "prompts": prompts, "settings": settings, "runs": runs})
    return taken


def write(path, content):
    """JSON with each entry of a list of objects on a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = []
    for key, value in content.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines = ",\n".join("  " + json.dumps(entry, ensure_ascii=False) for entry in value)
            parts.append(f"{json.dumps(key)}: [\n{lines}\n ]")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    path.write_text("{\n " + ",\n ".join(parts) + "\n}\n", encoding="utf-8")


def bits(array):
    """The exact bits of a float array, as whole numbers in its shape."""
    array = np.asarray(array)
    return array.view({2: np.uint16, 4: np.uint32}[array.dtype.itemsize]).tolist()


def key_vectors():
    """PRNGKey of seeds within and beyond 32 bits, split and fold_in of each."""
    out = []
    for name, seed in KEYS.items():
        key = jax.random.PRNGKey(seed)
        out.append({
            "seed": str(seed),
            "key": key.tolist(),
            "split": jax.random.split(key).tolist(),
            "split_5": jax.random.split(key, 5).tolist(),
            "fold_in": [[data, jax.random.fold_in(key, data).tolist()] for data in (0, 1, 2, 1000000, 2**32 - 1)],
            "step_keys": step_keys(key, 4),
        })
    return out


def step_keys(key, steps):
    """The keys that draw the first tokens, by JAX itself, as `_sample` splits them."""
    keys = []
    for _ in range(steps):
        drawn, key = jax.random.split(key)
        keys.append(drawn.tolist())
    return keys


def hash_vectors():
    """threefry2x32 of whole words, the two halves of the counter and of the result apart."""
    from jax._src.prng import threefry2x32_p

    rng = np.random.default_rng(0)
    words = [(0, 0, 0, 0), (2**32 - 1,) * 4, (0x13198A2E, 0x03707344, 0x243F6A88, 0x85A308D3)]
    words += [tuple(int(word) for word in rng.integers(0, 2**32, 4)) for _ in range(5)]
    out = []
    for words in words:
        key0, key1, high, low = (jnp.asarray([word], jnp.uint32) for word in words)
        result = threefry2x32_p.bind(key0, key1, high, low)
        out.append({"key": words[:2], "counter": words[2:], "hash": [int(half[0]) for half in result]})
    return out


def noise_vectors():
    """Bits, uniform numbers and Gumbel noise as `categorical` draws it, in float32 and bfloat16."""
    out = []
    for seed in (0, 42, 2**32 - 1):
        for shape in ((1, 11), (3, 11), (1, 64)):
            key = jax.random.split(jax.random.PRNGKey(seed))[0]
            entry = {"key": key.tolist(), "shape": shape}
            entry["bits_8"] = jax.random.bits(key, shape, jnp.uint8).tolist()
            entry["bits_32"] = jax.random.bits(key, shape, jnp.uint32).tolist()
            for name in ("float32", "bfloat16"):
                dtype = DTYPES[name]
                tiny = jnp.finfo(dtype).tiny
                entry[f"uniform_{name}"] = bits(jax.random.uniform(key, shape, dtype))
                entry[f"uniform_from_tiny_{name}"] = bits(jax.random.uniform(key, shape, dtype, minval=tiny))
                entry[f"gumbel_{name}"] = bits(jax.random.gumbel(key, shape, dtype))
            out.append(entry)
    return out


def make_vectors(path):
    metadata = {
        "versions": versions(),
        "platform": jax.default_backend(),
        "jax_threefry_partitionable": bool(jax.config.jax_threefry_partitionable),
        "jax_enable_x64": bool(jax.config.jax_enable_x64),
        "floats": "the bits of each number, as a whole number",
    }
    assert metadata["jax_threefry_partitionable"] and not metadata["jax_enable_x64"]
    write(path, {"metadata": metadata, "keys": key_vectors(), "hashes": hash_vectors(), "noise": noise_vectors()})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds gemma-small")
    data = parser.parse_args().data
    make_vectors(data / "sampling" / "vectors.json")
    with tempfile.TemporaryDirectory() as cache:
        # The loop is the same program for every seed, and JAX would compile it anew for each.
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        taken = make_tokens(data / "gemma-small", "float32")
        make_tokens(data / "gemma-small", "bfloat16", taken)
    return 0


if __name__ == "__main__":
    sys.exit(main())
