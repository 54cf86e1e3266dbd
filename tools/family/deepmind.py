"""Runs DeepMind's `gemma` on checkpoints of this repository's forms: the models, greedy steps, and
Flax's files.

Text models of Gemma 2, 3 and 4 in float32 or bfloat16, from a config.json as Transformers writes it
and DeepMind's tree of parameters.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import deepmind_imports  # noqa: F401  (before anything of gemma)

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
from gemma.gm.nn import _config as config_2_3, _modules as modules_2_3, _transformer as transformer_2_3
from gemma.gm.nn.gemma4 import _config as config_4, _modules as modules_4, _moe as moe_4, _transformer as transformer_4


class RouterOnResidual(moe_4.MoERagged):
    """Experts whose router sees the residual stream. In 4.0.1 it sees the input of the experts,
    which has been normed."""

    def __call__(self, x, residual):
        scores = self.router_norm(residual) * jax.lax.rsqrt(jnp.array(self.features, dtype=x.dtype))
        scores = scores * self.router_scale.astype(x.dtype)
        weights, choices = self._router(self.router_logits("gsd,de->gse", scores))
        return self._run_ffw_and_routing(x, choices, weights)


class BlockWithCorrectedRouter(modules_4.Block):
    """Gemma 4's block, which hands the residual stream to the router too."""

    def _forward_moe(self, attn_output):
        dense = self.post_ffw2_norm(self.mlp2(self.pre_ffw2_norm(attn_output)))
        experts = self.post_ffw1_norm(self.mlp(self.pre_ffw_norm(attn_output), attn_output))
        return self.post_ffw_norm(dense + experts)


if importlib.metadata.version("gemma") != "4.0.1":
    raise SystemExit("the router is corrected for gemma 4.0.1 alone: look at this version's before using it as a reference")
moe_4.MoERagged = RouterOnResidual
modules_4.Block = BlockWithCorrectedRouter

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
PACKAGES = ("gemma", "jax", "jaxlib", "flax", "kauldron", "numpy")


def versions():
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def layer_types(config, kinds):
    names = {"sliding_attention": kinds.LOCAL_SLIDING, "full_attention": kinds.GLOBAL}
    return tuple(names[name] for name in config["layer_types"])


def ropes(config):
    """The rope parameters of window and of full layers."""
    parameters = config["rope_parameters"]
    if "rope_theta" in parameters:
        return parameters, parameters
    return parameters["sliding_attention"], parameters["full_attention"]


def gemma_2_3(config, *, inputs_first=False):
    """The model of a `gemma2` or `gemma3_text` config."""
    sliding, full = ropes(config)
    kinds = config_2_3.QueryPreAttentionNormalisation
    scalar = config["query_pre_attn_scalar"]
    scales = {
        config["head_dim"]: kinds.BY_ONE_OVER_SQRT_HEAD_DIM,
        config["hidden_size"] // config["num_attention_heads"]: kinds.BY_ONE_OVER_SQRT_EMBED_DIM_DIV_NUM_HEADS,
    }
    return config_2_3.TransformerConfig(
        num_embed=config["vocab_size"],
        embed_dim=config["hidden_size"],
        hidden_dim=config["intermediate_size"],
        num_heads=config["num_attention_heads"],
        head_dim=config["head_dim"],
        num_kv_heads=config["num_key_value_heads"],
        final_logit_softcap=config.get("final_logit_softcapping"),
        attn_logits_soft_cap=config.get("attn_logit_softcapping"),
        use_post_attn_norm=True,
        use_post_ffw_norm=True,
        attention_types=layer_types(config, modules_2_3.AttentionType),
        query_pre_attn_norm=scales[scalar],
        sliding_window_size=config["sliding_window"],
        transpose_gating_einsum=not inputs_first,
        use_qk_norm=config["model_type"] == "gemma3_text",
        local_base_frequency=sliding["rope_theta"],
        global_base_frequency=full["rope_theta"],
        global_scale_factor=full.get("factor", 1.0),
    )


def gemma_4(config):
    """The model of a `gemma4_text` config, as it is before it is saved or after."""
    sliding, full = ropes(config)
    layers, shared = config["num_hidden_layers"], config.get("num_kv_shared_layers") or 0
    of_full = config["layer_types"].index("full_attention")
    overrides = config.get("per_layer_config", {}).get(str(of_full), {})
    sharing = config_4.KVCacheSharingConfig(frac_shared_layers=shared / layers, share_global=True, share_local=True)
    width = config["intermediate_size"]
    experts = bool(config.get("enable_moe_block"))
    result = config_4.TransformerConfig(
        num_embed=config["vocab_size"],
        embed_dim=config["hidden_size"],
        hidden_dim=width,
        num_heads=config["num_attention_heads"],
        head_dim=config["head_dim"],
        num_kv_heads=config["num_key_value_heads"],
        final_logit_softcap=config.get("final_logit_softcapping"),
        use_post_attn_norm=True,
        use_post_ffw_norm=True,
        attention_types=layer_types(config, modules_4.AttentionType),
        sliding_window_size=config["sliding_window"],
        num_global_kv_heads=overrides.get("num_key_value_heads"),
        global_key_size=overrides["head_dim"],
        k_eq_v_global=config["attention_k_eq_v"],
        local_rope_proportion=1.0,
        global_rope_proportion=full["partial_rotary_factor"],
        local_base_frequency=sliding["rope_theta"],
        global_base_frequency=full["rope_theta"],
        global_scale_factor=full.get("factor", 1.0),
        per_layer_input_dim=config.get("hidden_size_per_layer_input") or 0,
        kv_cache_sharing_config=sharing if shared else None,
        override_kv_shared_ffw_hidden=2 * width if config.get("use_double_wide_mlp") else None,
        enable_moe=experts,
        num_experts=config["num_experts"] if experts else 0,
        expert_dim=config["moe_intermediate_size"] if experts else 0,
        top_k_experts=config["top_k_experts"] if experts else 0,
        moe_dense_hidden_dim=width if experts else 0,
    )
    if shared:
        check_sharing(result, config["layer_types"], shared)
    return result


def check_sharing(model_config, types, shared):
    """The library's fixed choice of the layers whose caches are shared has to be the last of each
    kind, as Transformers has it."""
    first = len(types) - shared
    pattern = config_4.create_kv_cache_sharing_patterns(model_config.kv_cache_sharing_config, len(types), model_config.attention_types)
    expected = [max(j for j in range(first) if types[j] == types[i]) if i >= first else i for i in range(len(types))]
    if pattern != expected:
        raise SystemExit(f"gemma shares caches as {pattern}, Transformers as {expected}")


class Model:
    """A model with its parameters."""

    def __init__(self, config, tree, dtype="float32", *, inputs_first=False):
        self.dtype = DTYPES[dtype]
        if config["model_type"] == "gemma4_text":
            self.model = transformer_4.Transformer(config=gemma_4(config), dtype=self.dtype)
        else:
            self.model = transformer_2_3.Transformer(config=gemma_2_3(config, inputs_first=inputs_first), dtype=self.dtype)
        self.params = jax.tree.map(lambda leaf: jnp.asarray(leaf, self.dtype), tree)

    def check_tree(self):
        """Ends the run unless the tree has the leaves and shapes that the library itself makes."""
        ids = jnp.zeros((1, 2), jnp.int32)
        own = jax.eval_shape(lambda: self.model.init(jax.random.key(0), ids))["params"]
        shapes = lambda tree: {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        ours, theirs = shapes(self.params), shapes(own)
        if ours != theirs:
            raise SystemExit(f"the tree is not the library's own: {sorted(ours.items() ^ theirs.items())}")

    def apply(self, ids, positions, mask, cache=None):
        return self.model.apply({"params": self.params}, ids, positions=positions, attention_mask=mask, cache=cache)

    def logits(self, ids, mask):
        """Logits [B, S, V] float32 of a batch padded on the left, without a cache."""
        seen = np.tril(np.ones((ids.shape[1],) * 2, bool))[None] & mask.astype(bool)[:, None, :]
        return np.asarray(self.apply(jnp.asarray(ids), jnp.asarray(positions_of(mask)), jnp.asarray(seen)).logits, np.float32)

    def greedy(self, ids, mask, steps, stops=()):
        """Greedy steps through the library's cache, on a batch padded on the left.

        Returns the tokens [B, steps], the logits [B, steps, V] float32 that each was taken from,
        and the logits [B, S, V] of the prompt. A row goes on after a stop id.
        """
        batch, width = ids.shape
        length = width + steps
        cache = self.model.init_cache(batch_size=batch, dtype=self.dtype, cache_length=length)
        seen = np.zeros((batch, width, length), bool)
        seen[:, :, :width] = np.tril(np.ones((width, width), bool))[None] & mask.astype(bool)[:, None, :]
        positions = positions_of(mask)
        output = self.apply(jnp.asarray(ids), jnp.asarray(positions), jnp.asarray(seen), cache)
        prompt = np.asarray(output.logits, np.float32)
        tokens, logits = [], []
        last, cache = prompt[:, -1], output.cache
        visible = np.concatenate([mask.astype(bool), np.zeros((batch, steps), bool)], axis=1)
        for step in range(steps):
            logits.append(last)
            tokens.append(last.argmax(-1).astype(np.int32))
            if step + 1 == steps:
                break
            visible[:, width + step] = True
            at = positions[:, -1:] + 1 + step
            output = self.apply(jnp.asarray(tokens[-1][:, None]), jnp.asarray(at), jnp.asarray(visible[:, None, :]), cache)
            last, cache = np.asarray(output.logits[:, 0], np.float32), output.cache
        return np.stack(tokens, 1), np.stack(logits, 1), prompt


def positions_of(mask):
    return np.maximum(np.cumsum(mask, axis=-1, dtype=np.int32) - 1, 0)
