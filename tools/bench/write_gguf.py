#!/usr/bin/env python3
"""Writes the tensors of a Flax Gemma checkpoint as a GGUF file for llama.cpp, tensor by tensor.

    tools/bench/write_gguf.py FOLDER OUT.gguf [--dtype bf16|f32]

Kernels and the embedding become bfloat16 (or float32), norms float32 holding 1 + weight, which is what llama.cpp multiplies by; the sum is
rounded to the dtype that the weight is stored in, as Flax rounds it. The tokenizer in the file is a placeholder: prompts are token ids.
Needs the PyPI packages gguf and numpy.
"""

import argparse
import json
import pathlib

import gguf
import numpy as np

from flax_msgpack import index, read_bytes

LAYER_TENSORS = {
    "attn_norm": ("input_layernorm", "weight"),
    "attn_q": ("self_attn", "q_proj", "kernel"),
    "attn_k": ("self_attn", "k_proj", "kernel"),
    "attn_v": ("self_attn", "v_proj", "kernel"),
    "attn_output": ("self_attn", "o_proj", "kernel"),
    "ffn_norm": ("post_attention_layernorm", "weight"),
    "ffn_gate": ("mlp", "gate_proj", "kernel"),
    "ffn_up": ("mlp", "up_proj", "kernel"),
    "ffn_down": ("mlp", "down_proj", "kernel"),
}


def tensors(tree):
    """GGUF's name of each tensor, with its leaf."""
    model = tree["model"]
    yield "token_embd.weight", model["embed_tokens"]["embedding"]
    for layer in range(len(model["layers"])):
        for name, path in LAYER_TENSORS.items():
            leaf = model["layers"][str(layer)]
            for part in path:
                leaf = leaf[part]
            yield f"blk.{layer}.{name}.weight", leaf
    yield "output_norm.weight", model["norm"]["weight"]


def widened(bits):
    """bfloat16 bits as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(values):
    """float32 as the bits of the nearest bfloat16, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def read(path, leaf):
    """A leaf as an array: of bfloat16 the bits."""
    dtype = np.uint16 if leaf.dtype == "bfloat16" else np.dtype(leaf.dtype)
    return np.frombuffer(read_bytes(path, leaf), dtype).reshape(leaf.shape)


def norm(array, dtype):
    """1 + weight, rounded to the weight's dtype, in float32."""
    if dtype == "bfloat16":
        return widened(rounded(1 + widened(array)))
    return (1 + array).astype(np.float32)


def matrix(array, dtype, to):
    """A matrix in the dtype that it is written in: float32, or the bits of bfloat16."""
    if dtype == "bfloat16":
        return array if to == "bf16" else widened(array)
    array = array.astype(np.float32)
    return rounded(array) if to == "bf16" else array


def add_tokenizer(writer, size):
    """A tokenizer of placeholders: llama.cpp's binding does not load a file without one."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = (special + bytes_ + [f"token{i}" for i in range(size)])[:size]
    kinds = [gguf.TokenType.CONTROL] * 4 + [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * size
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * size)
    writer.add_token_types(kinds[:size])
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(3)


def add_metadata(writer, config):
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config.get("rope_theta", 10000.0))
    add_tokenizer(writer, config["vocab_size"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    args = parser.parse_args()

    config = json.loads((args.folder / "config.json").read_text())
    checkpoint = args.folder / "flax_model.msgpack"
    found = dict(tensors(index(checkpoint)))
    writer = gguf.GGUFWriter(args.out, "gemma")
    add_metadata(writer, config)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16 if args.dtype == "bf16" else gguf.LlamaFileType.ALL_F32)
    kind = gguf.GGMLQuantizationType
    for name, leaf in found.items():
        # A Flax kernel is [in, out]; llama.cpp wants a row for each output.
        is_kernel = len(leaf.shape) == 2 and not name.startswith("token_embd")
        shape = tuple(reversed(leaf.shape)) if is_kernel else leaf.shape
        raw = kind.BF16 if len(shape) == 2 and args.dtype == "bf16" else kind.F32
        size = 2 if raw == kind.BF16 else 4
        writer.add_tensor_info(name, shape, np.dtype(np.float32), int(np.prod(shape)) * size, raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, leaf in found.items():
        array = read(checkpoint, leaf)
        if len(leaf.shape) == 1:
            array = norm(array, leaf.dtype)
        else:
            array = matrix(array, leaf.dtype, args.dtype)
            array = array if name.startswith("token_embd") else np.ascontiguousarray(array.T)
        writer.write_tensor_data(array)
    writer.close()
    print(f"{args.out}: {args.out.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
