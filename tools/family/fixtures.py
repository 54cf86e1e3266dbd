"""The random checkpoints of the family: their geometries, as Transformers' configurations name
them, and what must show in them."""

from dataclasses import dataclass, field

SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass
class Fixture:
    """One member of the family at a small size."""

    # Keyword arguments of the text model's configuration class, with its model_type.
    config: dict
    # How Flax twins of the checkpoint are stored: suffix of the folder's name to "nested" or
    # "flat".
    twins: dict = field(default_factory=dict)
    # Whether the safetensors file is committed; if not, only the twins are.
    safetensors: bool = True
    # The type of the configuration around the text model's, with a small vision model beside it.
    multimodal: str | None = None
    # eos_token_id becomes a list whose last id one row emits midway.
    early_eos: bool = False
    # Standard deviation of query and key projections, relative to one over the root of their
    # inputs.
    query_key_gain: float = 1.5
    # Changes of the configuration, or of parameters ("suffix of the name=value"), that must move
    # the logits.
    changes: dict = field(default_factory=dict)
    first_seed: int = 0


def text(model_type, **config):
    common = dict(hidden_activation="gelu_pytorch_tanh", rms_norm_eps=1e-6, max_position_embeddings=128, pad_token_id=0, eos_token_id=1, bos_token_id=2)
    return {"model_type": model_type, **common, **config}


def ropes(full, sliding_theta=10000.0):
    return {SLIDING: {"rope_type": "default", "rope_theta": sliding_theta}, FULL: full}


WINDOWS = {"a window one longer": dict(sliding_window=7), "a window one shorter": dict(sliding_window=5)}
NO_LOGIT_CAP = {"no cap on logits": dict(final_logit_softcapping=None)}
GLOBAL_ROPE = {"rope_type": "default", "rope_theta": 1000000.0}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0}
PARTIAL_ROPE = {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.25}
WHOLE_ROTATION = {"the whole head rotates": dict(rope_parameters=ropes({**PARTIAL_ROPE, "partial_rotary_factor": 1.0}))}
NO_LAYER_SCALARS = {"no layer scalars": {"layer_scalar": 1.0}}

FIXTURES = {
    # Window and full layers in turn, window first; both caps; the query scale is that of 27B,
    # (hidden / heads)^-1/2. query_key_gain makes scores large enough for their cap to show.
    "gemma2": Fixture(
        text("gemma2", vocab_size=104, hidden_size=40, intermediate_size=56, num_hidden_layers=4, num_attention_heads=4,
             num_key_value_heads=2, head_dim=12, query_pre_attn_scalar=10, sliding_window=6, attn_logit_softcapping=50.0,
             final_logit_softcapping=30.0),
        query_key_gain=2.5,
        changes=WINDOWS | NO_LOGIT_CAP | {
            "no cap on scores": dict(attn_logit_softcapping=None),
            "query scale of head_dim": dict(query_pre_attn_scalar=12),
            "full layers first": dict(layer_types=[FULL, SLIDING] * 2),
        },
    ),
    # As many kv heads as heads, fused in DeepMind's tree; the MLP's gating einsum is [2, D, F], as
    # in 2B's own file.
    "gemma2-mha": Fixture(
        text("gemma2", vocab_size=96, hidden_size=32, intermediate_size=40, num_hidden_layers=4, num_attention_heads=4,
             num_key_value_heads=4, head_dim=12, query_pre_attn_scalar=12, sliding_window=6, attn_logit_softcapping=50.0,
             final_logit_softcapping=30.0),
        twins={"": "flat"},
        safetensors=False,
        query_key_gain=2.5,
        changes=WINDOWS | NO_LOGIT_CAP | {"no cap on scores": dict(attn_logit_softcapping=None)},
    ),
    # 270M and 1B: one kv head, five window layers and one full, the last layer a window layer.
    "gemma3": Fixture(
        text("gemma3_text", vocab_size=104, hidden_size=32, intermediate_size=40, num_hidden_layers=13, num_attention_heads=4,
             num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8, sliding_window=6, rope_parameters=ropes(GLOBAL_ROPE)),
        twins={"-flax": "nested"},
        changes=WINDOWS | {
            "one rope base": dict(rope_parameters=ropes({**GLOBAL_ROPE, "rope_theta": 10000.0})),
            "four window layers to a full one": dict(layer_types=[FULL if i % 5 == 4 else SLIDING for i in range(13)]),
            "no query norm": {"q_norm.weight": 0.0},
            "no key norm": {"k_norm.weight": 0.0},
        },
    ),
    # 4B to 27B: positions of full layers divided by 8, the query scale of 27B, text beside a vision
    # model.
    "gemma3-multimodal": Fixture(
        text("gemma3_text", vocab_size=96, hidden_size=40, intermediate_size=48, num_hidden_layers=5, num_attention_heads=4,
             num_key_value_heads=2, head_dim=12, query_pre_attn_scalar=10, sliding_window=6, rope_parameters=ropes(LINEAR_ROPE),
             layer_types=[SLIDING, SLIDING, FULL, SLIDING, FULL]),
        multimodal="gemma3",
        early_eos=True,
        changes=WINDOWS | {
            "no linear factor": dict(rope_parameters=ropes(GLOBAL_ROPE)),
            "query scale of head_dim": dict(query_pre_attn_scalar=12),
        },
    ),
    # 31B: other head size and fewer kv heads in full layers, keys as values there, partial
    # rotation, layer scalars.
    "gemma4-dense": Fixture(
        text("gemma4_text", vocab_size=104, hidden_size=32, intermediate_size=40, num_hidden_layers=5, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, global_head_dim=16, num_global_key_value_heads=1, attention_k_eq_v=True,
             sliding_window=6, layer_types=[SLIDING, SLIDING, FULL, SLIDING, FULL], final_logit_softcapping=30.0,
             rope_parameters=ropes({**PARTIAL_ROPE, "factor": 2.0}), hidden_size_per_layer_input=0),
        multimodal="gemma4",
        early_eos=True,
        changes=WINDOWS | NO_LOGIT_CAP | WHOLE_ROTATION | NO_LAYER_SCALARS | {
            "no rope factor": dict(rope_parameters=ropes(PARTIAL_ROPE)),
            "no query norm": {"q_norm.weight": 1.0},
        },
    ),
    # E2B and E4B: per-layer inputs; the last layers use the caches of layers 3 and 4 and have MLPs
    # of twice the width.
    "gemma4-e": Fixture(
        text("gemma4_text", vocab_size=96, hidden_size=32, intermediate_size=24, num_hidden_layers=8, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, global_head_dim=16, sliding_window=6,
             layer_types=[SLIDING, SLIDING, FULL, SLIDING, FULL, SLIDING, SLIDING, FULL], final_logit_softcapping=30.0,
             rope_parameters=ropes(PARTIAL_ROPE), hidden_size_per_layer_input=8, vocab_size_per_layer_input=96,
             num_kv_shared_layers=3, use_double_wide_mlp=True),
        twins={"-flax": "nested"},
        changes=WINDOWS | NO_LOGIT_CAP | WHOLE_ROTATION | NO_LAYER_SCALARS | {
            "no per-layer table": {"embed_tokens_per_layer.weight": 0.0},
            "no per-layer projection": {"per_layer_model_projection.weight": 0.0},
            "no norm of per-layer projections": {"per_layer_projection_norm.weight": 1.0},
        },
    ),
    # 26B-A4B: three of eight experts beside a dense MLP in every layer.
    "gemma4-a4b": Fixture(
        text("gemma4_text", vocab_size=96, hidden_size=32, intermediate_size=24, num_hidden_layers=4, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, global_head_dim=16, num_global_key_value_heads=1, attention_k_eq_v=True,
             sliding_window=6, layer_types=[SLIDING, FULL, SLIDING, FULL], final_logit_softcapping=30.0,
             rope_parameters=ropes(PARTIAL_ROPE), hidden_size_per_layer_input=0, enable_moe_block=True, num_experts=8,
             top_k_experts=3, moe_intermediate_size=12),
        changes=WINDOWS | NO_LOGIT_CAP | WHOLE_ROTATION | NO_LAYER_SCALARS | {
            "one expert fewer": dict(top_k_experts=2),
            "no router scale": {"router.scale": 1.0},
            "no per-expert scale": {"router.per_expert_scale": 1.0},
            "no experts": {"experts.down_proj": 0.0},
        },
    ),
}
