#!/usr/bin/env python3
"""Writes a checkpoint of random weights in Flax's msgpack form, tensor by tensor, at the size of a real model.

    tools/random_checkpoint.py FOLDER --geometry gemma-2b [--layers 4] [--vocab 32000] [--dtype bfloat16]

For measuring time and memory: the weights are normal, scaled so that activations stay in range, and mean
nothing. Needs numpy alone. The file is what flax.serialization.to_bytes writes: nested maps, each leaf an
extension of type 1 around (shape, dtype name, bytes), arrays over 2^30 bytes in chunks.
"""

import argparse
import json
import pathlib
import struct

import numpy as np

# Hidden, intermediate, layers, heads, kv heads, head_dim, vocabulary: config.json of google/gemma-2b and -7b; and a quarter of the
# width of 2b, for what takes long.
GEOMETRIES = {
    "gemma-2b": (2048, 16384, 18, 8, 1, 256, 256000),
    "gemma-7b": (3072, 24576, 28, 16, 16, 256, 256000),
    "quarter": (512, 4096, 4, 4, 1, 128, 32000),
}
# flax.serialization.MAX_CHUNK_SIZE
MAX_CHUNK = 2**30


def parameters(hidden, intermediate, layers, heads, kv_heads, head_dim, vocab):
    """The tree of names, with the shape and the standard deviation of each leaf."""

    def kernel(inputs, outputs):
        return {"kernel": ((inputs, outputs), inputs**-0.5)}

    norm = {"weight": ((hidden,), 0.1)}
    layer = {
        "input_layernorm": norm,
        "mlp": {
            "down_proj": kernel(intermediate, hidden),
            "gate_proj": kernel(hidden, intermediate),
            "up_proj": kernel(hidden, intermediate),
        },
        "post_attention_layernorm": norm,
        "self_attn": {
            "k_proj": kernel(hidden, kv_heads * head_dim),
            "o_proj": kernel(heads * head_dim, hidden),
            "q_proj": kernel(hidden, heads * head_dim),
            "v_proj": kernel(hidden, kv_heads * head_dim),
        },
    }
    return {
        "model": {
            "embed_tokens": {"embedding": ((vocab, hidden), hidden**-0.5)},
            "layers": {str(i): layer for i in range(layers)},
            "norm": norm,
        }
    }


class Writer:
    """msgpack, as much of it as a checkpoint needs."""

    def __init__(self, file, dtype, seed):
        self.file = file
        self.dtype = dtype
        self.rng = np.random.default_rng(seed)

    def map(self, size):
        self.file.write(bytes([0x80 | size]) if size < 16 else struct.pack(">BH", 0xDE, size))

    def str(self, text):
        data = text.encode()
        self.file.write(bytes([0xA0 | len(data)]) if len(data) < 32 else struct.pack(">BB", 0xD9, len(data)))
        self.file.write(data)

    def int(self, value):
        self.file.write(struct.pack(">BI", 0xCE, value))

    def tree(self, node):
        self.map(len(node))
        for name, child in node.items():
            self.str(name)
            self.tree(child) if isinstance(child, dict) else self.leaf(*child)

    def leaf(self, shape, deviation):
        size = 4 if self.dtype == "float32" else 2
        count = int(np.prod(shape))
        if count * size <= MAX_CHUNK:
            return self.array(shape, count, size, deviation)
        per_chunk = MAX_CHUNK // size
        counts = [min(per_chunk, count - start) for start in range(0, count, per_chunk)]
        self.map(3)
        self.str("__msgpack_chunked_array__")
        self.file.write(b"\xc3")
        self.str("shape")
        self.map(len(shape))
        for i, dim in enumerate(shape):
            self.str(str(i))
            self.int(dim)
        self.str("chunks")
        self.map(len(counts))
        for i, chunk in enumerate(counts):
            self.str(str(i))
            self.array((chunk,), chunk, size, deviation)

    def array(self, shape, count, size, deviation):
        name = self.dtype.encode()
        head = bytes([0x93, 0x90 | len(shape)])
        head += b"".join(struct.pack(">BI", 0xCE, dim) for dim in shape)
        head += bytes([0xA0 | len(name)]) + name + struct.pack(">BI", 0xC6, count * size)
        self.file.write(struct.pack(">BIb", 0xC9, len(head) + count * size, 1) + head)
        for start in range(0, count, 1 << 22):
            values = self.rng.standard_normal(min(1 << 22, count - start), np.float32) * np.float32(deviation)
            if self.dtype == "bfloat16":
                # Cut off, not rounded: these are random numbers.
                values = (values.view(np.uint32) >> 16).astype(np.uint16)
            self.file.write(values.astype(np.float16) if self.dtype == "float16" else values)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="gemma-2b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--vocab", type=int)
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    hidden, intermediate, layers, heads, kv_heads, head_dim, vocab = GEOMETRIES[args.geometry]
    layers, vocab = args.layers or layers, args.vocab or vocab
    args.folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "gemma",
        "architectures": ["GemmaForCausalLM"],
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "hidden_act": "gelu",
        "hidden_activation": None,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        "torch_dtype": args.dtype,
    }
    (args.folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    path = args.folder / "flax_model.msgpack"
    with open(path, "wb") as file:
        tree = parameters(hidden, intermediate, layers, heads, kv_heads, head_dim, vocab)
        Writer(file, args.dtype, args.seed).tree(tree)
    print(f"{path}: {path.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
