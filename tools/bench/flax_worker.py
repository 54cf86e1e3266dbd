"""Transformers' Flax Gemma as a contestant: loads a checkpoint once, then answers a line of JSON on standard input with a line on standard output.

    python flax_worker.py FOLDER bfloat16|float32

{"prompts": [[2, 5, …], …], "new_tokens": N} gives {"prefill_s": …, "prefill_generate_s": …, "step_s": …, "token_ids": [[…], …]}. All programs are
jitted, compiled before anything is timed, and take the parameters as arguments.

- step_s: `generate` of N tokens less `generate` of one, over N − 1.
- prefill_s: the model's call with an empty cache, the last position's token chosen: the best that Flax can do.
- prefill_generate_s: `generate` of one token, which is what its user waits for. XLA moves conversions of the weights out of the decode
  loop, so this has them in it even where the loop does not turn.

Prompts are of one length. Needs what tools/flax/requirements.txt pins.
"""

import importlib.metadata
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax.traverse_util import unflatten_dict
from transformers import FlaxGemmaForCausalLM, GemmaConfig

from flax_msgpack import index, leaves, read_bytes

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def load(folder, dtype):
    """The model and its parameters, read tensor by tensor: matrices in the compute dtype, norms as they are stored."""
    config = GemmaConfig.from_pretrained(folder)
    model = FlaxGemmaForCausalLM(config, dtype=DTYPES[dtype], _do_init=False)
    path = pathlib.Path(folder) / "flax_model.msgpack"
    params = {}
    for name, leaf in leaves(index(path)):
        stored = ml_dtypes.bfloat16 if leaf.dtype == "bfloat16" else np.dtype(leaf.dtype)
        array = jnp.asarray(np.frombuffer(read_bytes(path, leaf), stored).reshape(leaf.shape))
        params[name] = array.astype(DTYPES[dtype]) if array.ndim == 2 else array
    return model, unflatten_dict(params)


class Contestant:
    def __init__(self, folder, dtype):
        self.model, self.params = load(folder, dtype)
        self.compiled = {}

    def generate(self, batch, prompt, new_tokens):
        """Jitted `generate`, compiled for these sizes."""

        def run(params, ids, mask):
            # The end of a sequence is an id that no token has.
            eos = self.model.config.vocab_size
            options = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": eos, "pad_token_id": 0}
            return self.model.generate(ids, attention_mask=mask, params=params, **options).sequences

        return self.compile(("generate", batch, prompt, new_tokens), run, batch, prompt)

    def prefill(self, batch, prompt, new_tokens):
        """The jitted call on prompts, compiled for these sizes, with a cache that has room for the new tokens."""

        def run(params, ids, mask):
            length = prompt + new_tokens
            cache = self.model.init_cache(batch, length)
            whole = jnp.pad(mask, ((0, 0), (0, new_tokens)), constant_values=1)
            positions = jnp.cumsum(mask, axis=-1) - 1
            output = self.model(ids, whole, positions, params=params, past_key_values=cache)
            return jnp.argmax(output.logits[:, -1], axis=-1), output.past_key_values

        return self.compile(("prefill", batch, prompt, new_tokens), run, batch, prompt)

    def compile(self, key, function, batch, prompt):
        if key not in self.compiled:
            shape = jax.ShapeDtypeStruct((batch, prompt), jnp.int32)
            self.compiled[key] = jax.jit(function).lower(self.params, shape, shape).compile()
            # The first run touches memory that is new.
            zeros = jnp.zeros((batch, prompt), jnp.int32)
            jax.block_until_ready(self.compiled[key](self.params, zeros, zeros + 1))
        return self.compiled[key]

    def run(self, prompts, new_tokens):
        ids = jnp.asarray(prompts, jnp.int32)
        mask = jnp.ones_like(ids)
        sizes = ids.shape
        programs = [
            self.prefill(*sizes, new_tokens),
            self.generate(*sizes, 1),
            self.generate(*sizes, new_tokens),
        ]
        times = []
        for program in programs:
            begin = time.perf_counter()
            result = jax.block_until_ready(program(self.params, ids, mask))
            times.append(time.perf_counter() - begin)
        return {
            "prefill_s": times[0],
            "prefill_generate_s": times[1],
            "step_s": (times[2] - times[1]) / (new_tokens - 1),
            "token_ids": np.asarray(result)[:, sizes[1] :].tolist(),
        }


def main():
    # Only answers go to standard output, whatever the libraries print.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    begin = time.perf_counter()
    contestant = Contestant(sys.argv[1], sys.argv[2])
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "transformers")}
    print(json.dumps({"load_s": time.perf_counter() - begin, **versions}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(contestant.run(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
