#!/usr/bin/env python3
"""Writes the tensors of a Flax checkpoint of Gemma 1, or of Gemma 3's text models as DeepMind's tree, as a GGUF file for llama.cpp, tensor by tensor.

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


# The same of DeepMind's tree of a Gemma 3, [N, D, H] heads or [2, F, D] gate and up made into a row for each output.
HEADS = lambda array: array.transpose(0, 2, 1).reshape(-1, array.shape[1])
AS_IT_IS, TRANSPOSED = lambda array: array, lambda array: array.T
DEEPMIND_TENSORS = {
    "attn_norm": ("pre_attention_norm/scale", AS_IT_IS),
    "attn_q": ("attn/q_einsum/w", HEADS),
    "attn_q_norm": ("attn/_query_norm/scale", AS_IT_IS),
    "attn_k": ("attn/kv_einsum/w", lambda array: HEADS(array[0])),
    "attn_k_norm": ("attn/_key_norm/scale", AS_IT_IS),
    "attn_v": ("attn/kv_einsum/w", lambda array: HEADS(array[1])),
    "attn_output": ("attn/attn_vec_einsum/w", lambda array: array.reshape(-1, array.shape[2]).T),
    "post_attention_norm": ("post_attention_norm/scale", AS_IT_IS),
    "ffn_norm": ("pre_ffw_norm/scale", AS_IT_IS),
    "ffn_gate": ("mlp/gating_einsum", lambda array: array[0]),
    "ffn_up": ("mlp/gating_einsum", lambda array: array[1]),
    "ffn_down": ("mlp/linear", TRANSPOSED),
    "post_ffw_norm": ("post_ffw_norm/scale", AS_IT_IS),
}


def tensors(tree):
    """GGUF's name of each tensor, with its leaf and what makes GGUF's layout of the leaf's array: a row for each output."""
    if "transformer" in tree:
        yield from deepmind_tensors(tree["transformer"])
        return
    model = tree["model"]
    yield "token_embd.weight", model["embed_tokens"]["embedding"], AS_IT_IS
    for layer in range(len(model["layers"])):
        for name, path in LAYER_TENSORS.items():
            yield f"blk.{layer}.{name}.weight", at(model["layers"][str(layer)], path), TRANSPOSED if path[-1] == "kernel" else AS_IT_IS
    yield "output_norm.weight", model["norm"]["weight"], AS_IT_IS


def deepmind_tensors(model):
    yield "token_embd.weight", model["embedder"]["input_embedding"], AS_IT_IS
    for layer in range(sum(name.startswith("layer_") for name in model)):
        for name, (path, layout) in DEEPMIND_TENSORS.items():
            yield f"blk.{layer}.{name}.weight", at(model[f"layer_{layer}"], path.split("/")), layout
    yield "output_norm.weight", model["final_norm"]["scale"], AS_IT_IS


def at(tree, path):
    for part in path:
        tree = tree[part]
    return tree


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
    if config["model_type"] == "gemma3_text":
        # llama.cpp knows the base of window layers, 10,000, and that every sixth layer is full.
        writer.add_rope_freq_base(config["rope_parameters"]["full_attention"]["rope_theta"])
        writer.add_sliding_window(config["sliding_window"])
    else:
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
    found = list(tensors(index(checkpoint)))
    writer = gguf.GGUFWriter(args.out, "gemma3" if config["model_type"] == "gemma3_text" else "gemma")
    add_metadata(writer, config)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16 if args.dtype == "bf16" else gguf.LlamaFileType.ALL_F32)
    kind = gguf.GGMLQuantizationType
    for name, leaf, layout in found:
        shape = layout(np.broadcast_to(np.uint8(0), leaf.shape)).shape
        raw = kind.BF16 if len(shape) == 2 and args.dtype == "bf16" else kind.F32
        size = 2 if raw == kind.BF16 else 4
        writer.add_tensor_info(name, shape, np.dtype(np.float32), int(np.prod(shape)) * size, raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, leaf, layout in found:
        array = layout(read(checkpoint, leaf))
        array = norm(array, leaf.dtype) if array.ndim == 1 else matrix(array, leaf.dtype, args.dtype)
        writer.write_tensor_data(np.ascontiguousarray(array))
    writer.close()
    print(f"{args.out}: {args.out.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
