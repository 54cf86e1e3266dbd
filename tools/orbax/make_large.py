"""Writes a random Gemma of any size as DeepMind's flat tree or MaxText's scanned one, one chunk an array, for measuring time and memory.

    python make_large.py FOLDER [--tree deepmind|maxtext] [--layers 3] [--vocab 100000]

The sizes are those of gemma-2b (bfloat16, normal weights) but for the number of layers and tokens: 3 layers and 100,000 tokens
make 1.07 GB. config.json is written beside the checkpoint.
"""

import argparse
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp

D, F, N, K, H = 2048, 16384, 8, 1, 256


def deepmind(layers, vocab, random):
    tree = {
        "transformer/embedder": {"input_embedding": random(vocab, D)},
        "transformer/final_norm": {"scale": random(D)},
    }
    for index in range(layers):
        name = f"transformer/layer_{index}"
        tree |= {
            f"{name}/attn/q_einsum": {"w": random(N, D, H)},
            f"{name}/attn/kv_einsum": {"w": random(2, K, D, H)},
            f"{name}/attn/attn_vec_einsum": {"w": random(N, H, D)},
            f"{name}/mlp/gating_einsum": {"w": random(2, D, F)},
            f"{name}/mlp/linear": {"w": random(F, D)},
            f"{name}/pre_attention_norm": {"scale": random(D)},
            f"{name}/pre_ffw_norm": {"scale": random(D)},
        }
    return tree


def maxtext(layers, vocab, random):
    layer = {
        "pre_self_attention_norm": {"scale": random(D, layers)},
        "pre_ffw_norm": {"scale": random(D, layers)},
        "self_attention": {
            "query": {"kernel": random(D, layers, N, H)},
            "key": {"kernel": random(D, layers, K, H)},
            "value": {"kernel": random(D, layers, K, H)},
            "out": {"kernel": random(N, layers, H, D)},
        },
        "mlp": {
            "wi_0": {"kernel": random(D, layers, F)},
            "wi_1": {"kernel": random(D, layers, F)},
            "wo": {"kernel": random(F, layers, D)},
        },
    }
    decoder = {"decoder_norm": {"scale": random(D)}, "layers": layer}
    return {"params": {"params": {"token_embedder": {"embedding": random(vocab, D)}, "decoder": decoder}}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tree", choices=["deepmind", "maxtext"], default="deepmind")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--vocab", type=int, default=100_000)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)

    def random(*shape):
        return (rng.standard_normal(shape, np.float32) * 0.02).astype(ml_dtypes.bfloat16)

    build = {"deepmind": deepmind, "maxtext": maxtext}[arguments.tree]
    tree = build(arguments.layers, arguments.vocab, random)
    folder = arguments.folder.resolve()
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=arguments.tree == "maxtext")
    checkpointer = ocp.Checkpointer(handler)
    checkpointer.save(folder / "params", args=ocp.args.PyTreeSave(tree))
    checkpointer.close()
    config = {
        "model_type": "gemma", "vocab_size": arguments.vocab, "hidden_size": D, "intermediate_size": F,
        "num_hidden_layers": arguments.layers, "num_attention_heads": N, "num_key_value_heads": K, "head_dim": H,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh",
        "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
