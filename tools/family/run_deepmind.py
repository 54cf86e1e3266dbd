"""What DeepMind's `gemma` computes on a fixture, for make_fixtures.py, which calls this in the
other environment.

    python run_deepmind.py FOLDER INPUTS.npz OUT.npz [--inputs-first] [--twin FOLDER=nested|flat]…

FOLDER holds config.json and model.safetensors; INPUTS has input_ids, attention_mask and the number
of steps. Each twin is a folder to write flax_model.msgpack to.
"""

import argparse
import json
from pathlib import Path

import deepmind

import flax.serialization
import numpy as np
from naming import deepmind_tree, flat_tree, text_config, text_tensors
from safetensors.numpy import load_file


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("inputs")
    parser.add_argument("out")
    parser.add_argument("--inputs-first", action="store_true")
    parser.add_argument("--twin", action="append", default=[])
    arguments = parser.parse_args()

    config = text_config(json.loads((arguments.folder / "config.json").read_text()))
    tensors = text_tensors(load_file(arguments.folder / "model.safetensors"))
    tree = deepmind_tree(tensors, config, inputs_first=arguments.inputs_first)
    model = deepmind.Model(config, tree, inputs_first=arguments.inputs_first)
    model.check_tree()
    for twin in arguments.twin:
        folder, form = twin.rsplit("=", 1)
        stored = {"transformer": tree} if form == "nested" else flat_tree(tree)
        copied = {name: _contiguous(child) for name, child in stored.items()}
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "flax_model.msgpack").write_bytes(flax.serialization.msgpack_serialize(copied))
    inputs = np.load(arguments.inputs)
    ids, mask, steps = inputs["input_ids"], inputs["attention_mask"], int(inputs["steps"])
    tokens, step_logits, _ = model.greedy(ids, mask, steps)
    np.savez(
        arguments.out,
        logits=model.logits(ids, mask),
        tokens=tokens,
        step_logits=step_logits,
        versions=np.array(json.dumps(deepmind.versions())),
    )


def _contiguous(node):
    return {name: _contiguous(child) for name, child in node.items()} if isinstance(node, dict) else np.ascontiguousarray(node)


if __name__ == "__main__":
    main()
