"""Writes a small Gemma in the forms and trees that Orbax checkpoints of Gemma come in, for the tests.

    python make_fixtures.py ../../tests/data/random-mqa ../../tests/data/orbax

The weights are those of a checkpoint in Flax's msgpack form. What is written depends on the version of Orbax that is installed:
run it once with requirements.txt and once with requirements-0.5.3.txt.
"""

import argparse
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax.traverse_util import flatten_dict, unflatten_dict

OLD = not hasattr(ocp, "__version__") or ocp.__version__.startswith("0.5.")


class Model:
    """The weights by Flax's names, and the sizes that other trees need."""

    def __init__(self, folder):
        config = json.loads((folder / "config.json").read_text())
        self.layers = config["num_hidden_layers"]
        self.width = config["hidden_size"]
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.head = config["head_dim"]
        tree = flax.serialization.msgpack_restore((folder / "flax_model.msgpack").read_bytes())
        self.weights = flatten_dict(tree, sep="/")

    def layer(self, index, name):
        return self.weights[f"model/layers/{index}/{name}"]

    def projection(self, index, name, heads):
        """A projection of attention as [width, heads, head]."""
        return self.layer(index, f"self_attn/{name}/kernel").reshape(self.width, heads, self.head)


def deepmind(model, rows=0):
    """DeepMind's flat tree: names joined by slashes, over the arrays' own names. `rows` are added to the embedding."""
    embedding = model.weights["model/embed_tokens/embedding"]
    embedding = np.concatenate([embedding, np.zeros((rows, model.width), embedding.dtype)])
    tree = {
        "transformer/embedder": {"input_embedding": embedding},
        "transformer/final_norm": {"scale": model.weights["model/norm/weight"]},
    }
    for index in range(model.layers):
        name = f"transformer/layer_{index}"
        query = model.projection(index, "q_proj", model.heads).transpose(1, 0, 2)
        key, value = (model.projection(index, p, model.kv_heads).transpose(1, 0, 2) for p in ("k_proj", "v_proj"))
        output = model.layer(index, "self_attn/o_proj/kernel").reshape(model.heads, model.head, model.width)
        gating = np.stack([model.layer(index, f"mlp/{p}/kernel") for p in ("gate_proj", "up_proj")])
        tree |= {
            f"{name}/attn/q_einsum": {"w": query},
            f"{name}/attn/kv_einsum": {"w": np.stack([key, value])},
            f"{name}/attn/attn_vec_einsum": {"w": output},
            f"{name}/mlp/gating_einsum": {"w": gating},
            f"{name}/mlp/linear": {"w": model.layer(index, "mlp/down_proj/kernel")},
            f"{name}/pre_attention_norm": {"scale": model.layer(index, "input_layernorm/weight")},
            f"{name}/pre_ffw_norm": {"scale": model.layer(index, "post_attention_layernorm/weight")},
        }
    return tree


def deepmind_nested(model):
    """The same as nested dictionaries, the MLP's arrays without a `w`, its first as [2, hidden, width]."""
    flat = {}
    for name, leaf in flatten_dict(deepmind(model), sep="/").items():
        name = name.removeprefix("transformer/")
        if "/mlp/" in name:
            name = name.removesuffix("/w")
        if name.endswith("gating_einsum"):
            leaf = np.ascontiguousarray(leaf.swapaxes(1, 2))
        flat[tuple(name.split("/"))] = leaf
    return unflatten_dict(flat)


def maxtext(model, scanned, dtype):
    """MaxText's tree, with the values that it stores."""

    def wide(leaf):
        return np.asarray(leaf, np.float32)

    def layer(index):
        return {
            "pre_self_attention_norm/scale": wide(model.layer(index, "input_layernorm/weight")) + 1,
            "pre_ffw_norm/scale": wide(model.layer(index, "post_attention_layernorm/weight")) + 1,
            "self_attention/query/kernel": wide(model.projection(index, "q_proj", model.heads)) / np.sqrt(model.head),
            "self_attention/key/kernel": wide(model.projection(index, "k_proj", model.kv_heads)),
            "self_attention/value/kernel": wide(model.projection(index, "v_proj", model.kv_heads)),
            "self_attention/out/kernel": wide(
                model.layer(index, "self_attn/o_proj/kernel").reshape(model.heads, model.head, model.width)
            ),
            "mlp/wi_0/kernel": wide(model.layer(index, "mlp/gate_proj/kernel")),
            "mlp/wi_1/kernel": wide(model.layer(index, "mlp/up_proj/kernel")),
            "mlp/wo/kernel": wide(model.layer(index, "mlp/down_proj/kernel")),
        }

    flat = {
        "token_embedder/embedding": wide(model.weights["model/embed_tokens/embedding"]) * np.sqrt(model.width),
        "decoder/decoder_norm/scale": wide(model.weights["model/norm/weight"]) + 1,
    }
    layers = [layer(index) for index in range(model.layers)]
    if scanned:
        flat |= {f"decoder/layers/{name}": np.stack([layer[name] for layer in layers], axis=1) for name in layers[0]}
    else:
        flat |= {f"decoder/layers_{index}/{name}": leaf for index, layer in enumerate(layers) for name, leaf in layer.items()}
    return {"params": unflatten_dict({tuple(name.split("/")): leaf.astype(dtype) for name, leaf in flat.items()})}


def save(folder, tree, handler, save_args=None):
    """Saves a tree as the one item of a checkpoint."""
    tree = jax.tree.map(jnp.asarray, tree)
    arguments = jax.tree.map(lambda _: save_args, tree) if save_args else None
    checkpointer = ocp.Checkpointer(handler)
    checkpointer.save(folder, args=ocp.args.PyTreeSave(tree, save_args=arguments))
    checkpointer.close()


def two_processes(model_folder, folder):
    """Saves DeepMind's tree from two processes, each of which holds half of every array."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, __file__, str(model_folder), str(folder), "--coordinator", address, "--process"]
    processes = [subprocess.Popen([*command, str(index)]) for index in range(2)]
    if any([process.wait() for process in processes]):
        raise SystemExit("a process failed")


def one_of_two_processes(arguments):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(arguments.coordinator, 2, arguments.process)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))

    def split(leaf):
        # The last axis, so that a chunk has parts of many rows.
        axes = [None] * (leaf.ndim - 1) + ["x"]
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    tree = jax.tree.map(split, deepmind(Model(arguments.model)))
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True))
    checkpointer.save(arguments.out, args=ocp.args.PyTreeSave(tree))
    checkpointer.close()


def rewrite(source, target, config):
    """Copies a database into a new one in two steps, whose manifests and nodes TensorStore writes as `config` says."""

    def store(folder, **more):
        base = {"driver": "file", "path": f"{folder}/"}
        return ts.KvStore.open({"driver": "ocdbt", "base": base, **more}).result()

    old, new = store(source), store(target, config=config)
    keys = old.list().result()
    for half in (keys[::2], keys[1::2]):
        with ts.Transaction() as transaction:
            for key in half:
                new.with_transaction(transaction).write(key, old.read(key).result().value).result()
    shutil.copy(source / "_METADATA", target)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder with config.json and flax_model.msgpack")
    parser.add_argument("out", type=Path, help="folder to write the checkpoints' folders to")
    parser.add_argument("--coordinator", help=argparse.SUPPRESS)
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()
    if arguments.process is not None:
        return one_of_two_processes(arguments)
    model = Model(arguments.model)

    def fresh(name):
        folder = arguments.out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        return folder

    if OLD:
        save(fresh("old-flat"), deepmind(model), ocp.PyTreeCheckpointHandler(use_ocdbt=True))
        return

    # DeepMind's release, as several hosts write it: the item's manifest refers into the processes' folders.
    two_processes(arguments.model, fresh("flat"))
    # The same in a tree of many small nodes, with numbered manifests.
    config = {"manifest_kind": "numbered", "max_decoded_node_bytes": 700, "max_inline_value_bytes": 120, "compression": None}
    rewrite(arguments.out / "flat", fresh("tall"), config)
    # A folder an array, each array in several chunks along several axes, not compressed.
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_compression=False)
    save(fresh("nested"), deepmind_nested(model), handler, ocp.SaveArgs(chunk_byte_size=2048))
    # MaxText as its converter writes it.
    folder = fresh("maxtext-scanned")
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=True)
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    with ocp.CheckpointManager(folder, item_names=("items",), item_handlers={"items": handler}, options=options) as manager:
        tree = {"params": jax.tree.map(jnp.asarray, maxtext(model, True, np.float32)), "step": 0, "opt_state": {}}
        manager.save(0, args=ocp.args.Composite(items=ocp.args.PyTreeSave(tree)))
    # A training state with the layers apart, a folder an array.
    tree = {
        "step": 7,
        "params": maxtext(model, False, np.float32),
        "opt_state": {"mu": {"params": np.zeros(3, np.float32)}, "count": np.int32(7)},
    }
    save(fresh("maxtext-state"), tree, ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=True))
    for folder in sorted(arguments.out.iterdir()):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{folder.name}: {size / 1024:.0f} KiB")


if __name__ == "__main__":
    sys.exit(main())
