"""Transformers' parameters of the text models of Gemma 2, 3 and 4 as DeepMind's Flax tree."""

import numpy as np


def text_config(config):
    """The text model's part of a config.json."""
    return config.get("text_config", config)


def text_tensors(tensors):
    """The text model's tensors by names that begin with `layers.`, `embed_tokens` or `norm`; parts
    for other inputs are left out."""
    prefixes = ("model.language_model.", "language_model.model.", "model.")
    found = {}
    for name, tensor in tensors.items():
        if any(part in name for part in ("vision", "audio", "multi_modal")):
            continue
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if prefix:
            found[name.removeprefix(prefix)] = tensor
    return found


def _heads(matrix, heads):
    """[N·H, D] to [N, D, H]."""
    rows, width = matrix.shape
    return matrix.reshape(heads, rows // heads, width).transpose(0, 2, 1)


def _attention(layer, config, index, unused):
    """Attention's leaves. `unused` makes what Flax's tree has in layers with shared caches and
    Transformers' files do not."""
    generation = config["model_type"]
    heads = config["num_attention_heads"]
    query = _heads(layer("self_attn.q_proj.weight"), heads)
    size = query.shape[2]
    output = layer("self_attn.o_proj.weight")
    tree = {"attn_vec_einsum": {"w": output.reshape(output.shape[0], heads, size).transpose(1, 2, 0)}}
    key, value = layer("self_attn.k_proj.weight", None), layer("self_attn.v_proj.weight", None)
    if key is None:
        shape = (2, config["num_key_value_heads"], query.shape[1], size)
        projections = unused(shape)
    else:
        kv_heads = key.shape[0] // size
        key = _heads(key, kv_heads)
        projections = key[None] if value is None else np.stack([key, _heads(value, kv_heads)])
    if generation != "gemma4_text" and projections.shape[1] == heads:
        tree["qkv_einsum"] = {"w": np.concatenate([query[None], projections])}
    elif len(projections) == 1:
        tree |= {"q_einsum": {"w": query}, "k_einsum": {"w": projections[0]}}
    else:
        tree |= {"q_einsum": {"w": query}, "kv_einsum": {"w": projections}}
    if generation != "gemma2":
        query_norm, key_norm = ("query_norm", "key_norm") if generation == "gemma4_text" else ("_query_norm", "_key_norm")
        tree[query_norm] = {"scale": layer("self_attn.q_norm.weight")}
        norm = layer("self_attn.k_norm.weight", None)
        tree[key_norm] = {"scale": unused((size,)) if norm is None else norm}
    return tree


def _mlp(layer, inputs_first):
    gating = np.stack([layer("mlp.gate_proj.weight"), layer("mlp.up_proj.weight")])
    return {
        "gating_einsum": gating.transpose(0, 2, 1) if inputs_first else gating,
        "linear": layer("mlp.down_proj.weight").T,
    }


def _experts(layer):
    gate_up = layer("experts.gate_up_proj")
    experts, rows, width = gate_up.shape
    return {
        "gating_einsum": {"w": gate_up.reshape(experts, 2, rows // 2, width)},
        "linear": {"w": layer("experts.down_proj").transpose(0, 2, 1)},
        "router_logits": {"w": layer("router.proj.weight").T},
        "router_scale": layer("router.scale"),
        "per_expert_scale": layer("router.per_expert_scale"),
    }


def _layer(layer, config, index, unused, inputs_first):
    norm = lambda name: {"scale": layer(f"{name}.weight")}
    tree = {
        "attn": _attention(layer, config, index, unused),
        "pre_attention_norm": norm("input_layernorm"),
        "post_attention_norm": norm("post_attention_layernorm"),
        "post_ffw_norm": norm("post_feedforward_layernorm"),
    }
    if config.get("enable_moe_block"):
        tree |= {
            "mlp": _experts(layer),
            "mlp2": _mlp(layer, inputs_first),
            "pre_ffw_norm": norm("pre_feedforward_layernorm_2"),
            "post_ffw1_norm": norm("post_feedforward_layernorm_2"),
            "pre_ffw2_norm": norm("pre_feedforward_layernorm"),
            "post_ffw2_norm": norm("post_feedforward_layernorm_1"),
        }
    else:
        tree |= {"mlp": _mlp(layer, inputs_first), "pre_ffw_norm": norm("pre_feedforward_layernorm")}
    if config["model_type"] == "gemma4_text":
        tree["skip_scale"] = layer("layer_scalar")
    if config.get("hidden_size_per_layer_input"):
        tree |= {
            "per_layer_input_gate": {"w": layer("per_layer_input_gate.weight").T},
            "per_layer_projection": {"w": layer("per_layer_projection.weight").T},
            "post_per_layer_input_norm": norm("post_per_layer_input_norm"),
        }
    return tree


def deepmind_tree(tensors, config, *, inputs_first=False):
    """The tree of `text_tensors`, for the text model's config. `inputs_first` stores the gating
    einsum as [2, D, F], not [2, F, D]."""
    rng = np.random.default_rng(0)
    unused = lambda shape: rng.normal(0.0, 1.0, shape).astype(np.float32)
    embedder = {"input_embedding": tensors["embed_tokens.weight"]}
    layers = config["num_hidden_layers"]
    if width := config.get("hidden_size_per_layer_input"):
        table, projection = tensors["embed_tokens_per_layer.weight"], tensors["per_layer_model_projection.weight"]
        embedder |= {
            "per_layer_embeddings": table.reshape(-1, layers, width),
            "per_layer_model_projection": {"w": projection.reshape(layers, width, -1).transpose(2, 0, 1)},
            "per_layer_projection_norm": {"scale": tensors["per_layer_projection_norm.weight"]},
        }
    tree = {"embedder": embedder, "final_norm": {"scale": tensors["norm.weight"]}}
    for index in range(layers):

        def layer(name, *default):
            return tensors.get(f"layers.{index}.{name}", *default) if default else tensors[f"layers.{index}.{name}"]

        tree[f"layer_{index}"] = _layer(layer, config, index, unused, inputs_first)
    return tree


def flat_tree(tree, prefix="transformer"):
    """DeepMind's flat form: one level of slash-joined module names, each with its leaves, those of
    MLPs under `w`."""
    found = {}
    for name, child in tree.items():
        if isinstance(child, dict):
            found |= flat_tree(child, f"{prefix}/{name}")
        elif name in ("gating_einsum", "linear"):
            found[f"{prefix}/{name}"] = {"w": child}
        else:
            found.setdefault(prefix, {})[name] = child
    return found
