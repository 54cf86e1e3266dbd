"""Makes the seeds of the npz, safetensors and tokenizer targets with numpy and safetensors: small files with every structure."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

SEEDS = Path(__file__).parent / "seeds"
rng = np.random.default_rng(0)


def array(shape, dtype):
    return rng.standard_normal(shape).astype(dtype)


deepmind = {
    "transformer/embedder/input_embedding": array((4, 3), np.float32),
    "transformer/layer_0/attn/q_einsum/w": array((2, 3, 2), ml_dtypes.bfloat16),
    "transformer/layer_0/attn/kv_einsum/w": array((2, 1, 3, 2), np.float16),
    "transformer/layer_0/mlp/gating_einsum": array((2, 5, 3), np.float32),
    "transformer/layer_0/pre_ffw_norm/scale": array((3,), np.float32),
}
np.savez(SEEDS / "npz" / "stored.npz", **deepmind)
np.savez_compressed(SEEDS / "npz" / "deflated.npz", **deepmind)
np.savez(SEEDS / "npz" / "fortran.npz", **{"params.x": np.asfortranarray(array((2, 3), np.float32)), "scalar": array((), np.float16)})
np.savez(SEEDS / "npz" / "pickle.npz", x=np.array([None], dtype=object))

pytorch = {
    "model.embed_tokens.weight": array((4, 3), np.float16),
    "model.layers.0.self_attn.q_proj.weight": array((4, 3), np.float16),
    "model.norm.weight": array((3,), np.float32),
}
save_file(pytorch, SEEDS / "safetensors" / "pytorch.safetensors", metadata={"format": "pt"})
save_file(deepmind, SEEDS / "safetensors" / "deepmind.safetensors")

pieces = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "ab", "▁a"]
tokenizer = {
    "version": "1.0",
    "added_tokens": [
        {"id": i, "content": pieces[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i in range(4)
    ],
    "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}},
    },
    "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
    "model": {
        "type": "BPE",
        "unk_token": "<unk>",
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": {piece: i for i, piece in enumerate(pieces)},
        "merges": [["a", "b"], ["▁", "a"]],
    },
}
(SEEDS / "tokenizer" / "bpe.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
