"""Compiles jitted FlaxGemma's decode step for a TPU, without a TPU, and prints libtpu's estimate of it as JSON.

    python tpu_estimate.py --geometry gemma-2b --topology v5e:1x1 --batch-size 8 --max-length 1024

The step is Transformers' own model, called with a cache of `--max-length` tokens as its `generate` calls it, and the
greatest logit of each row; it is compiled as one with `jax.jit`, the cache donated, for one chip of the topology. The
estimate is the sum of the compiler's `estimated_cycles` over the step, as `gemma-xla plan` has it. No weights are
needed: everything is abstract. Needs libtpu.so, by default the one that `gemma-xla plugin install tpu` installs.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path

GEOMETRIES = {
    "gemma-2b": dict(
        hidden_size=2048, intermediate_size=16384, num_hidden_layers=18, num_attention_heads=8, num_key_value_heads=1
    ),
    "gemma-7b": dict(
        hidden_size=3072, intermediate_size=24576, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=16
    ),
}
# Estimates from here on are none: libtpu writes the greatest int64 where it has no estimate.
NO_ESTIMATE = 1 << 60


def libtpu_path():
    """The library that TPU_LIBRARY_PATH names, else the newest that gemma-xla has installed."""
    if path := os.environ.get("TPU_LIBRARY_PATH"):
        return path
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    found = sorted((cache / "gemma-xla" / "plugins").glob("tpu-*/libtpu.so"))
    if not found:
        sys.exit("error: no libtpu.so: set TPU_LIBRARY_PATH, or run gemma-xla plugin install tpu")
    return str(found[-1])


# libtpu reads these when it is loaded, and spends minutes looking for a TPU without them.
os.environ.update(
    TPU_LIBRARY_PATH=libtpu_path(),
    TPU_SKIP_MDS_QUERY="1",
    TPU_ACCELERATOR_TYPE="v5litepod-4",
    TPU_WORKER_HOSTNAMES="localhost",
    TPU_WORKER_ID="0",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    JAX_PLATFORMS="cpu",
)
os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from transformers import FlaxGemmaForCausalLM, GemmaConfig


def abstract_step(geometry, batch, length):
    """The function of a step and its abstract arguments: parameters, token, cache, mask, position."""
    config = GemmaConfig(
        vocab_size=256000, head_dim=256, max_position_embeddings=8192, **GEOMETRIES[geometry]
    )
    model = FlaxGemmaForCausalLM(config, dtype=jnp.bfloat16, _do_init=False)
    params = jax.eval_shape(lambda: model.init_weights(jax.random.PRNGKey(0), (1, 1)))
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), params)
    cache = jax.eval_shape(lambda: model.init_cache(batch, length))
    int32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)

    def step(params, token, cache, mask, position):
        output = model(token, attention_mask=mask, position_ids=position, params=params, past_key_values=cache)
        return jnp.argmax(output.logits[:, -1], axis=-1).astype(jnp.int32), output.past_key_values

    return step, (params, int32(batch, 1), cache, int32(batch, length), int32(batch, 1))


def estimated_cycles(text):
    """The sum over the entry computation, and the names of instructions for which the compiler has no estimate."""
    entry = text[text.index("\nENTRY ") :]
    total, unknown = 0, []
    for line in entry.splitlines():
        if found := re.search(r'"estimated_cycles":"?(\d+)', line):
            cycles = int(found.group(1))
            if cycles < NO_ESTIMATE:
                total += cycles
            else:
                unknown.append(line.split("=")[0].strip())
        if re.search(r" (while|sort|topk)\(", line):
            unknown.append(line.split("=")[0].strip())
    return total, unknown


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=sorted(GEOMETRIES), required=True)
    parser.add_argument("--topology", required=True, help="a slice in libtpu's naming, such as v5e:1x1")
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--max-length", type=int, required=True, help="length of the cache")
    arguments = parser.parse_args()

    options = {"chip_config_name": "megacore"} if arguments.topology.startswith(("v4", "v5p")) else {}
    topology = topologies.get_topology_desc(
        platform="tpu", topology_name=arguments.topology, **options
    )
    device = SingleDeviceSharding(topology.devices[0])
    step, abstract = abstract_step(arguments.geometry, arguments.batch_size, arguments.max_length)
    jitted = jax.jit(step, donate_argnums=2, in_shardings=device, out_shardings=device)
    lowered = jitted.lower(*abstract)
    result = {
        **vars(arguments),
        "jax": jax.__version__,
        "compiler": " ".join(topology.devices[0].client.platform_version.split())
        if hasattr(topology.devices[0], "client")
        else None,
        "fits": True,
    }
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            sys.exit(f"error: {str(error).splitlines()[0]}")
        result.update(fits=False, message=str(error).splitlines()[0])
    else:
        cycles, unknown = estimated_cycles(compiled.as_text())
        result.update(estimated_cycles=None if unknown else cycles, unknown=unknown)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
