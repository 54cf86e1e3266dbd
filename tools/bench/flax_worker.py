"""Transformers' Flax Gemma as an engine: loads a checkpoint once, then answers a line of JSON on standard input with a line on standard output.

    python flax_worker.py FOLDER bfloat16|float32

{"prompts": [[2, 5, …], …], "new_tokens": N} gives {"prefill_s": …, "prefill_generate_s": …, "step_s": …, "token_ids": [[…], …]}. All programs are
jitted, and take the parameters as arguments; compiling is in no time. N is 3 at least.

- step_s: the loop of `generate` over the model's call, from the prompts' cache on: N − 1 steps less one step, over N − 2. Less one step, since XLA moves
  conversions of the weights out of the loop, which come once whatever N is. The times of `generate` itself are of no use for it: beside a long prompt's
  they differ too little.
- prefill_s: the model's call with an empty cache, the last position's token chosen: the best that Flax can do.
- prefill_generate_s: `generate` of one token, which is what its user waits for. It has those conversions in it, even though the loop does not turn.

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


def prompts_of(batch, prompt):
    """The shapes of ids and mask."""
    return [jax.ShapeDtypeStruct((batch, prompt), jnp.int32)] * 2


class Engine:
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

        return self.compile(("generate", batch, prompt, new_tokens), run, *prompts_of(batch, prompt))

    def prefill(self, batch, prompt, new_tokens):
        """The jitted call on prompts, compiled for these sizes, with a cache that has room for the new tokens."""

        def run(params, ids, mask):
            length = prompt + new_tokens
            cache = self.model.init_cache(batch, length)
            whole = jnp.pad(mask, ((0, 0), (0, new_tokens)), constant_values=1)
            positions = jnp.cumsum(mask, axis=-1) - 1
            output = self.model(ids, whole, positions, params=params, past_key_values=cache)
            return jnp.argmax(output.logits[:, -1], axis=-1), output.past_key_values

        return self.compile(("prefill", batch, prompt, new_tokens), run, *prompts_of(batch, prompt))

    def decode(self, batch, prompt, new_tokens, cache):
        """The jitted decode loop, compiled for these sizes; it runs as many steps as its last argument says."""

        def run(params, first, cache, steps):
            mask = jnp.ones((batch, prompt + new_tokens), jnp.int32)
            tokens = jnp.zeros((batch, new_tokens), jnp.int32).at[:, 0].set(first)

            def step(state):
                done, token, cache, tokens = state
                positions = jnp.full((batch, 1), prompt + done, jnp.int32)
                output = self.model(token[:, None], mask, positions, params=params, past_key_values=cache)
                token = jnp.argmax(output.logits[:, -1], axis=-1).astype(jnp.int32)
                tokens = jax.lax.dynamic_update_slice(tokens, token[:, None], (0, done + 1))
                return done + 1, token, output.past_key_values, tokens

            state = (jnp.int32(0), first.astype(jnp.int32), cache, tokens)
            return jax.lax.while_loop(lambda state: state[0] < steps, step, state)[3]

        first = jax.ShapeDtypeStruct((batch,), jnp.int32)
        return self.compile(("decode", batch, prompt, new_tokens), run, first, cache, jnp.int32(0))

    def compile(self, key, function, *arguments):
        if key not in self.compiled:
            self.compiled[key] = jax.jit(function).lower(self.params, *arguments).compile()
        return self.compiled[key]

    def run(self, prompts, new_tokens):
        ids = jnp.asarray(prompts, jnp.int32)
        mask = jnp.ones_like(ids)
        sizes = ids.shape
        prefill, (token, cache) = timed(self.prefill(*sizes, new_tokens), self.params, ids, mask)
        generate, _ = timed(self.generate(*sizes, 1), self.params, ids, mask)
        token = token.astype(jnp.int32)
        decode = self.decode(*sizes, new_tokens, cache)
        one, _ = timed(decode, self.params, token, cache, jnp.int32(1))
        all_, tokens = timed(decode, self.params, token, cache, jnp.int32(new_tokens - 1))
        return {
            "prefill_s": prefill,
            "prefill_generate_s": generate,
            "step_s": (all_ - one) / (new_tokens - 2),
            "token_ids": np.asarray(tokens).tolist(),
        }


def timed(program, *arguments):
    """Seconds of a run, and its results."""
    begin = time.perf_counter()
    results = jax.block_until_ready(program(*arguments))
    return time.perf_counter() - begin, results


def main():
    # Only answers go to standard output, whatever the libraries print.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    begin = time.perf_counter()
    engine = Engine(sys.argv[1], sys.argv[2])
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "transformers")}
    print(json.dumps({"load_s": time.perf_counter() - begin, **versions}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(engine.run(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
