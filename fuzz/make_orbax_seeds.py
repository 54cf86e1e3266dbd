"""Makes the seeds of the orbax target with Orbax and TensorStore (tools/orbax/requirements.txt): small trees in every form.

A seed has a checkpoint's files one after the other: the length of a name in a byte, the name, the length of the content in two
bytes, little endian, the content.
"""

import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import tensorstore as ts

SEEDS = Path(__file__).resolve().parent / "seeds" / "orbax"
TREE = {
    "transformer/embedder": {"input_embedding": jnp.arange(12, dtype=jnp.float32).reshape(4, 3)},
    "transformer/layer_0/attn/q_einsum": {"w": jnp.arange(12, dtype=jnp.bfloat16).reshape(2, 3, 2)},
    "transformer/layer_0/attn/kv_einsum": {"w": jnp.arange(12, dtype=jnp.float16).reshape(2, 1, 3, 2)},
}
MAXTEXT = {
    "token_embedder": {"embedding": jnp.arange(12, dtype=jnp.float32).reshape(4, 3)},
    "decoder": {
        "decoder_norm": {"scale": jnp.ones(3)},
        "layers": {
            "pre_self_attention_norm": {"scale": jnp.ones((3, 2))},
            "self_attention": {"query": {"kernel": jnp.ones((3, 2, 1, 4), jnp.bfloat16)}},
        },
    },
}


def save(folder, tree, chunk=None, **options):
    handler = ocp.PyTreeCheckpointHandler(**options)
    arguments = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=chunk), tree)
    checkpointer = ocp.Checkpointer(handler)
    checkpointer.save(folder, args=ocp.args.PyTreeSave(tree, save_args=arguments))
    checkpointer.close()


def pack(name, folder, keep=lambda path: True):
    packed = b""
    for path in sorted(folder.rglob("*")):
        relative = str(path.relative_to(folder))
        if path.is_file() and relative.split("/")[0] not in ("_sharding", "array_metadatas", "_CHECKPOINT_METADATA", "commit_success.txt") and keep(relative):
            content = path.read_bytes()
            packed += bytes([len(relative)]) + relative.encode() + len(content).to_bytes(2, "little") + content
    SEEDS.mkdir(parents=True, exist_ok=True)
    (SEEDS / name).write_bytes(packed)
    print(f"{name}: {len(packed)} bytes")


def rewrite(source, target, config):
    def store(folder, **more):
        return ts.KvStore.open({"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}, **more}).result()

    old, new = store(source), store(target, config=config)
    with ts.Transaction() as transaction:
        for key in old.list().result():
            new.with_transaction(transaction).write(key, old.read(key).result().value).result()
    shutil.copy(source / "_METADATA", target)


with tempfile.TemporaryDirectory() as scratch:
    scratch = Path(scratch)
    save(scratch / "merged", TREE, use_ocdbt=True)
    pack("merged", scratch / "merged")
    pack("processes", scratch / "merged", lambda path: path != "manifest.ocdbt" and not path.startswith("d/"))
    pack("unnamed", scratch / "merged", lambda path: path != "_METADATA")
    plain = {"manifest_kind": "numbered", "max_decoded_node_bytes": 160, "max_inline_value_bytes": 16, "compression": None}
    rewrite(scratch / "merged", scratch / "tall", plain)
    pack("tall", scratch / "tall")
    rewrite(scratch / "merged", scratch / "plain", {"max_inline_value_bytes": 1000, "compression": None})
    pack("plain", scratch / "plain")
    save(scratch / "folders", TREE, chunk=16, use_ocdbt=False, use_compression=False)
    pack("folders", scratch / "folders")
    save(scratch / "packed", TREE, use_ocdbt=False)
    pack("packed", scratch / "packed")
    save(scratch / "zarr3", {"params": MAXTEXT}, use_ocdbt=False, use_zarr3=True)
    pack("zarr3", scratch / "zarr3")
