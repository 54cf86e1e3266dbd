"""Makes the seeds of the npz, safetensors, tokenizer and pieces targets with numpy and safetensors: small files with every structure."""

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


def field(number, value):
    """A field of a protobuf: a number, or bytes."""
    if isinstance(value, int):
        assert 0 <= value < 128
        return bytes([number << 3, value])
    assert len(value) < 128 * 128
    length = bytes([len(value)]) if len(value) < 128 else bytes([len(value) & 127 | 128, len(value) >> 7])
    key = bytes([number << 3 | 2]) if number < 16 else bytes([(number << 3 | 2) & 127 | 128, number >> 4])
    return key + length + value


def number(key, value):
    """A field with a small number and a key of two bytes."""
    return bytes([(key << 3) & 127 | 128, key >> 4, value])


# sentencepiece_model.proto: pieces are field 1 with text 1, score 2 (a float) and type 3; trainer_spec is 2, normalizer_spec 3.
kinds = [3, 3, 3, 2, *[6] * 256]
sentencepieces = b"".join(
    field(1, field(1, piece.encode()) + b"\x15" + np.float32(-i).tobytes() + field(3, kinds[i] if i < len(kinds) else 1))
    for i, piece in enumerate(pieces)
)
trainer = field(3, 2) + number(35, 1) + number(40, 3) + number(41, 2) + number(42, 1) + number(43, 0)
names = [(45, b"<unk>"), (46, b"<bos>"), (47, b"<eos>"), (48, b"<pad>")]
trainer += b"".join(field(key, name) for key, name in names)
normalizer = field(1, b"identity") + field(3, 0) + field(4, 0)
for name, kind in (("bpe", 2), ("unigram", 1)):
    whole = sentencepieces + field(2, trainer.replace(field(3, 2), field(3, kind), 1)) + field(3, normalizer)
    (SEEDS / "pieces").mkdir(exist_ok=True)
    (SEEDS / "pieces" / f"{name}.model").write_bytes(whole)
