"""Writes small random Gemma checkpoints with Flax itself, and what Flax computes on them, for the tests.

    python make_fixtures.py ../../tests/data [NAME…]

Each fixture is a folder as `save_pretrained` leaves it, with reference-DTYPE.npz beside the weights. A seed is taken only
where the float32 run is unambiguous: at no greedy step are the two best logits within
0.001 of the logits' scale, one pass over the whole sequences has the same argmax, jitted or not, each row gives the same
tokens alone as in the left-padded batch, and no row emits the pad id before its eos. A checkpoint that does not read
back as it was written ends the run.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from reference import (
    first_divergences, greedy, greedy_alone, greedy_margins, left_pad, load_model, make_reference, new_tokens,
    save_reference,
)

import flax.serialization
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from transformers import FlaxGemmaForCausalLM, GemmaConfig

PROMPT_LENGTHS = (1, 3, 7, 12)
NEW_TOKENS = 24
MIN_MARGIN = 1e-3


@dataclass
class Fixture:
    """A geometry and how its checkpoint is stored."""

    config: dict
    stored: str = "float32"
    references: tuple = ("float32",)
    # Norm weights stay float32 where this is set, so that compute in half precision has to promote.
    float32_norms: bool = False
    # eos_token_id becomes a token that one row emits midway, so that pad after eos occurs.
    early_eos: bool = False
    max_shard_size: str = "10GB"
    max_chunk_bytes: int | None = None
    # Where the search for an unambiguous seed begins.
    first_seed: int = 0


FIXTURES = {
    # As many kv heads as heads, head_dim = hidden / heads; hidden_activation null beside hidden_act "gelu".
    "random-mha": Fixture(
        dict(vocab_size=157, hidden_size=32, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=4, head_dim=8, hidden_act="gelu", hidden_activation=None,
             max_position_embeddings=128),
        references=("float32", "bfloat16"),
        first_seed=2,
    ),
    # One kv head; head_dim 24 is neither hidden / heads nor a power of two; max_position_embeddings is the least for it.
    "random-mqa": Fixture(
        dict(vocab_size=203, hidden_size=48, intermediate_size=100, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=1, head_dim=24, hidden_activation="gelu_pytorch_tanh", max_position_embeddings=48),
        stored="bfloat16",
        references=("float32", "bfloat16"),
        first_seed=2,
    ),
    # Kv heads between one and all; exact gelu; parameters and compute in float16.
    "random-gqa": Fixture(
        dict(vocab_size=131, hidden_size=40, intermediate_size=88, num_hidden_layers=3, num_attention_heads=6,
             num_key_value_heads=2, head_dim=16, hidden_act="gelu_pytorch_tanh", hidden_activation="gelu",
             rms_norm_eps=1e-5, max_position_embeddings=64),
        stored="float16",
        references=("float32", "float16"),
        early_eos=True,
        first_seed=8,
    ),
    # A head of its own, lm_head/kernel.
    "random-untied": Fixture(
        dict(vocab_size=149, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=16, hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=False,
             max_position_embeddings=96),
        references=("float32",),
    ),
    # Biases on the four projections of attention, none of them zero.
    "random-bias": Fixture(
        dict(vocab_size=181, hidden_size=36, intermediate_size=76, num_hidden_layers=2, num_attention_heads=3,
             num_key_value_heads=1, head_dim=20, hidden_act="gelu", hidden_activation=None, attention_bias=True,
             rms_norm_eps=1e-3, max_position_embeddings=80),
        stored="bfloat16",
        references=("float32", "bfloat16"),
        first_seed=9,
    ),
    # Several files and an index; each shard is a nested map of its own, the index joins names by slashes.
    "random-sharded": Fixture(
        dict(vocab_size=211, hidden_size=64, intermediate_size=112, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, head_dim=16, hidden_activation="gelu_pytorch_tanh", max_position_embeddings=256),
        stored="bfloat16",
        references=("float32", "bfloat16"),
        early_eos=True,
        max_shard_size="60KB",
        first_seed=2,
    ),
    # Arrays over the limit are written in flat pieces; the last piece of an array is shorter than the others.
    "random-chunked": Fixture(
        dict(vocab_size=167, hidden_size=32, intermediate_size=60, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=1, head_dim=32, hidden_activation="gelu_pytorch_tanh", max_position_embeddings=64),
        max_chunk_bytes=7000,
        first_seed=3,
    ),
    # Kernels in bfloat16 beside norms in float32, with biases and a head of its own.
    "random-mixed": Fixture(
        dict(vocab_size=139, hidden_size=48, intermediate_size=84, num_hidden_layers=2, num_attention_heads=6,
             num_key_value_heads=3, head_dim=12, hidden_activation="gelu", attention_bias=True,
             tie_word_embeddings=False, rms_norm_eps=1e-6, max_position_embeddings=72),
        stored="bfloat16",
        float32_norms=True,
        references=("float32", "bfloat16"),
        early_eos=True,
        first_seed=3,
    ),
}


def random_params(shapes, rng, stored, float32_norms):
    """Random leaves for a flat tree of shapes, scaled so that every layer moves the stream and logits spread out."""
    params = {}
    for path in sorted(shapes):
        shape, name = shapes[path].shape, path[-1]
        norm = name == "weight"
        if norm:
            leaf = rng.normal(0.0, 0.3, shape)
        elif name == "bias":
            leaf = rng.uniform(0.2, 0.7, shape) * rng.choice([-1.0, 1.0], shape)
        elif name == "embedding":
            leaf = rng.normal(0.0, shape[1] ** -0.5, shape)
        else:
            gain = 2.0 if path[-2] in ("o_proj", "down_proj") else 1.5
            leaf = rng.normal(0.0, gain * shape[0] ** -0.5, shape)
        dtype = "float32" if norm and float32_norms else stored
        params[path] = jnp.asarray(leaf.astype(np.float32).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))
    return params


def save(fixture, config, params, folder):
    """Writes the checkpoint with `save_pretrained`, lowering Flax's limit for chunks where the fixture asks for it."""
    model = FlaxGemmaForCausalLM(GemmaConfig(**config), _do_init=False)
    limit = flax.serialization.MAX_CHUNK_SIZE
    try:
        if fixture.max_chunk_bytes:
            flax.serialization.MAX_CHUNK_SIZE = fixture.max_chunk_bytes
        model.save_pretrained(folder, params=unflatten_dict(params), max_shard_size=fixture.max_shard_size)
    finally:
        flax.serialization.MAX_CHUNK_SIZE = limit


def choose_eos(generated, prompts):
    """A token that one row emits for the first time midway and no other row emits, not part of a prompt; or None."""
    used = {token for prompt in prompts for token in prompt}
    for row, tokens in enumerate(generated):
        others = {token for index, other in enumerate(generated) if index != row for token in other}
        for step, token in enumerate(tokens):
            if 5 <= step <= 15 and token > 3 and token not in tokens[:step] and token not in others | used:
                return token
    return None


def try_seed(fixture, seed, folder):
    """Writes the checkpoint of one seed into `folder`. Returns (prompts, None), or (None, reason) where it is no good."""
    rng = np.random.default_rng(seed)
    config = dict(fixture.config)
    shapes = flatten_dict(FlaxGemmaForCausalLM(GemmaConfig(**config), _do_init=False).params_shape_tree)
    params = random_params(shapes, rng, fixture.stored, fixture.float32_norms)
    prompts = [[2] + rng.integers(4, config["vocab_size"], length - 1).tolist() for length in PROMPT_LENGTHS]
    save(fixture, config, params, folder)
    model = load_model(folder)
    loaded = flatten_dict(model.params)
    same = loaded.keys() == params.keys() and all(
        loaded[path].dtype == params[path].dtype and np.array_equal(loaded[path], params[path]) for path in params
    )
    if not same:
        raise SystemExit("the checkpoint does not read back as it was written")
    pad, eos = 0, 1
    ids, mask = left_pad(prompts, pad)
    sequences = greedy(model, ids, mask, NEW_TOKENS, eos, pad)
    generated = new_tokens(sequences, ids.shape[1], eos)
    if sum(len(set(tokens)) for tokens in generated) < 6 * len(generated):
        return None, "rows repeat themselves"
    if fixture.early_eos:
        eos = choose_eos(generated, prompts)
        if eos is None:
            return None, "no token to end a row with"
        config["eos_token_id"] = eos
        save(fixture, config, params, folder)
        model = load_model(folder)
        assert model.generation_config.eos_token_id == eos
        sequences = greedy(model, ids, mask, NEW_TOKENS, eos, pad)
        generated = new_tokens(sequences, ids.shape[1], eos)
    ended = sum(tokens[-1] == eos for tokens in generated)
    if ended != int(fixture.early_eos):
        return None, f"{ended} rows end with eos"
    if any(pad in tokens for tokens in generated):
        return None, "a row emits the pad id"
    margins, scale, *agree = greedy_margins(model, sequences, mask, eos)
    least = min(map(min, margins)) / scale
    if least <= MIN_MARGIN:
        return None, f"least margin {least:.1e} of the scale"
    if not all(agree):
        return None, "one pass over the sequences has another argmax"
    divergences = first_divergences(generated, greedy_alone(model, prompts, NEW_TOKENS, eos, pad))
    if any(step is not None for step in divergences):
        return None, f"rows alone part from the batch at {divergences}"
    return prompts, None


def make_fixture(name, out):
    """Finds a seed for the fixture, writes its checkpoint and references, and reports on them."""
    fixture, folder = FIXTURES[name], Path(out) / name
    for seed in range(fixture.first_seed, fixture.first_seed + 100):
        with tempfile.TemporaryDirectory() as scratch:
            prompts, reason = try_seed(fixture, seed, Path(scratch) / name)
            if reason:
                print(f"{name}: seed {seed}: {reason}", flush=True)
                continue
            folder.mkdir(parents=True, exist_ok=True)
            for stale in folder.iterdir():
                stale.unlink()
            for path in sorted((Path(scratch) / name).iterdir()):
                (folder / path.name).write_bytes(path.read_bytes())
        break
    else:
        raise SystemExit(f"{name}: no seed is unambiguous")
    for dtype in fixture.references:
        arrays, metadata = make_reference(folder, prompts, dtype, NEW_TOKENS, noise=True)
        metadata["seed"] = seed
        if dtype == "float32":
            assert metadata["greedy"]["min_margin_rel_to_scale"] > MIN_MARGIN
            assert metadata["greedy"]["rows_alone_first_divergence"] == [None] * len(prompts)
        save_reference(folder / f"reference-{dtype}.npz", arrays, metadata)
        noise = {key: value for key, value in metadata["batch_noise"].items() if key != "comparisons"}
        print(f"{name}: seed {seed}, {dtype}: {json.dumps({'greedy': metadata['greedy'], 'noise': noise})}", flush=True)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    print(f"{name}: {sum(sizes.values()) / 1024:.0f} KiB {sizes}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="folder to write the fixtures' folders to")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"fixtures to make (default: all of {', '.join(FIXTURES)})")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - FIXTURES.keys())
    if unknown:
        parser.error(f"no fixture is named {', '.join(unknown)}")
    for name in arguments.names or FIXTURES:
        make_fixture(name, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
