"""Writes what Flax makes of a checkpoint that is cast, for the tests of `convert --dtype`.

    python make_casts.py ../../tests/data/gemma-small

makes casts.json in the model's folder: for each dtype the SHA-256 of the flax_model.msgpack that
Flax writes after `to_bf16`, `to_fp16` or `to_fp32`, and how many values became infinite; and the
same of the parameters multiplied by 2^20 before, of which some overflow float16.
"""

import argparse
import hashlib
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
from reference import versions
from transformers import FlaxGemmaForCausalLM

SCALES = (1.0, 2.0**20)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    folder = parser.parse_args().model
    model = FlaxGemmaForCausalLM.from_pretrained(folder, dtype=jnp.float32)
    casts = []
    for scale in SCALES:
        params = jax.tree.map(lambda a: (a * jnp.asarray(scale, a.dtype)).astype(a.dtype), model.params)
        for dtype, cast in (("bf16", model.to_bf16), ("f16", model.to_fp16), ("f32", model.to_fp32)):
            cast_params = cast(params)
            infinite = sum(int(jnp.isinf(a).sum()) for a in jax.tree.leaves(cast_params))
            with tempfile.TemporaryDirectory() as place:
                model.save_pretrained(place, params=cast_params)
                content = (Path(place) / "flax_model.msgpack").read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            casts.append({"scale": scale, "dtype": dtype, "sha256": digest, "infinite": infinite})
    out = {"versions": versions(), "casts": casts}
    text = json.dumps(out, indent=1)
    (folder / "casts.json").write_text(text + "\n")


main()
