"""What the scripts of this folder share: loading, left padding, the forward pass, greedy generation and their measures.

Nothing here changes what Flax computes. Parameters keep the dtype they are stored in, the forward pass runs
operation by operation (not jitted, as a plain call of the model does), and `generate` is Transformers' own.
"""

import importlib.metadata
import json
import os
from pathlib import Path

# Set before JAX is imported: a reference is made on the CPU unless the caller asks for another platform.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import jax.numpy as jnp
import numpy as np
from transformers import FlaxGemmaForCausalLM

# The module compares its dtype with `jnp.float32` by identity, so these must be JAX's own scalar types.
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


class CheckpointError(Exception):
    """A checkpoint or a prompt that cannot be used; the message is one line for the user."""


def check_folder(folder):
    """Raises `CheckpointError` unless `folder` looks like a Flax Gemma checkpoint that Flax can run."""
    folder = Path(folder)
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise CheckpointError(f"{config_path}: no such file; a Flax checkpoint folder holds config.json and flax_model.msgpack")
    try:
        config = json.loads(config_path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{config_path}: not JSON: {error}") from error
    if config.get("model_type") != "gemma":
        raise CheckpointError(f"{config_path}: model_type is {config.get('model_type')!r}; only 'gemma' has a Flax model")
    if not any((folder / name).is_file() for name in ("flax_model.msgpack", "flax_model.msgpack.index.json")):
        raise CheckpointError(f"{folder}: no flax_model.msgpack and no flax_model.msgpack.index.json")
    head_dim, positions = config.get("head_dim", 256), config.get("max_position_embeddings", 8192)
    if positions < 2 * head_dim:
        # FlaxGemma cuts the last axis of its rotary table to max_position_embeddings entries by mistake.
        raise CheckpointError(
            f"{config_path}: max_position_embeddings {positions} is under 2 * head_dim = {2 * head_dim}, "
            "which FlaxGemma cannot run"
        )


def load_model(folder, dtype="float32"):
    """Loads a Flax Gemma checkpoint folder to compute in `dtype`, with the parameters as they are stored."""
    check_folder(folder)
    return FlaxGemmaForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype], local_files_only=True)


def stop_ids(model, eos_token_id=None, pad_token_id=None):
    """The one eos id and the pad id that generation uses, from the arguments or the generation config."""
    eos = model.generation_config.eos_token_id if eos_token_id is None else eos_token_id
    pad = model.generation_config.pad_token_id if pad_token_id is None else pad_token_id
    if isinstance(eos, (list, tuple)):
        raise CheckpointError(f"the generation config lists eos ids {list(eos)} and Flax takes one: choose it with --eos-token-id")
    if pad is None:
        raise CheckpointError("neither generation config nor config names a pad id: give it with --pad-token-id")
    return eos, pad


def left_pad(rows, pad_id, vocab_size=None):
    """Token id lists to (input_ids, attention_mask), int32 [B, S], padded on the left to the longest."""
    if not rows:
        raise CheckpointError("there are no prompts")
    for index, row in enumerate(rows):
        if not row:
            raise CheckpointError(f"prompt {index} is empty")
        for token in row:
            if not isinstance(token, int) or token < 0 or (vocab_size is not None and token >= vocab_size):
                raise CheckpointError(f"prompt {index}: token id {token!r} is not in the vocabulary of {vocab_size}")
    width = max(map(len, rows))
    ids = np.full((len(rows), width), pad_id, np.int32)
    mask = np.zeros((len(rows), width), np.int32)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = row
        mask[index, width - len(row) :] = 1
    return ids, mask


def forward(model, ids, mask, hidden_states=False):
    """Logits [B, S, V], and with `hidden_states` also [L+1, B, S, H], both float32 holding the dtype's values."""
    positions = np.cumsum(mask, axis=-1, dtype=np.int32) - 1
    output = model(ids, mask, positions, output_hidden_states=hidden_states)
    logits = np.asarray(output.logits.astype(jnp.float32))
    if not hidden_states:
        return logits
    # Embedding output, the stream after each layer but the last, and what the final norm gives for the last.
    states = np.stack([np.asarray(state.astype(jnp.float32)) for state in output.hidden_states])
    layers = model.config.num_hidden_layers
    if states.shape[0] != layers + 1:
        raise CheckpointError(f"Flax gave {states.shape[0]} hidden states for {layers} layers")
    return logits, states


def forward_jitted(model, ids, mask):
    """Logits [B, S, V] of the forward pass compiled as one, where XLA may leave out roundings between operations."""

    @jax.jit
    def run(params, ids, mask):
        return model(ids, mask, jnp.cumsum(mask, axis=-1) - 1, params=params).logits.astype(jnp.float32)

    return np.asarray(run(model.params, ids, mask))


def greedy(model, ids, mask, max_new_tokens, eos, pad):
    """Greedy sequences [B, S+N] int32: the prompt, the new tokens, and pad after eos."""
    total = ids.shape[1] + max_new_tokens
    if total > model.config.max_position_embeddings:
        raise CheckpointError(
            f"{ids.shape[1]} prompt and {max_new_tokens} new tokens exceed max_position_embeddings "
            f"{model.config.max_position_embeddings}"
        )
    # Every filter is named, so that nothing a generation_config.json asks for besides stop ids has a part in it.
    output = model.generate(
        jnp.asarray(ids),
        attention_mask=jnp.asarray(mask),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        min_length=0,
        eos_token_id=eos,
        pad_token_id=pad,
    )
    return np.asarray(output.sequences, np.int32)


def new_tokens(sequences, width, eos):
    """The new tokens of each row, up to and with eos, without the padding after it."""
    rows = []
    for row in sequences[:, width:].tolist():
        rows.append(row[: row.index(eos) + 1] if eos in row else row)
    return rows


def greedy_margins(model, sequences, mask, eos):
    """Margin of the first over the second logit at every greedy step, from one pass over the whole sequences.

    Returns (margins, scale, agrees, jitted_agrees): a list of floats a row, the largest absolute logit of those steps,
    and whether this pass has the same argmax as `generate` had at every step, run as it is and jitted.
    """
    width = mask.shape[1]
    generated = new_tokens(sequences, width, eos)
    steps = sequences.shape[1] - width
    full_mask = np.concatenate([mask, np.ones((mask.shape[0], steps), np.int32)], axis=1)
    logits, jitted = (run(model, sequences, full_mask)[:, width - 1 : -1] for run in (forward, forward_jitted))
    margins, scale, agrees, jitted_agrees = [], 0.0, True, True
    for row, jitted_row, tokens in zip(logits, jitted, generated):
        used = row[: len(tokens)]
        top = np.sort(used, axis=-1)[:, -2:]
        margins.append((top[:, 1] - top[:, 0]).tolist())
        scale = max(scale, float(np.abs(used).max()))
        agrees = agrees and used.argmax(-1).tolist() == tokens
        jitted_agrees = jitted_agrees and jitted_row[: len(tokens)].argmax(-1).tolist() == tokens
    return margins, scale, agrees, jitted_agrees


def greedy_alone(model, rows, max_new_tokens, eos, pad):
    """New tokens of each prompt generated by itself, without padding."""
    out = []
    for row in rows:
        ids, mask = left_pad([row], pad)
        out.append(new_tokens(greedy(model, ids, mask, max_new_tokens, eos, pad), ids.shape[1], eos)[0])
    return out


def first_divergences(batch, alone):
    """For each row the first step where the two token lists differ, or None."""
    found = []
    for one, other in zip(batch, alone):
        steps = [step for step, (a, b) in enumerate(zip(one, other)) if a != b]
        found.append(steps[0] if steps else None if len(one) == len(other) else min(len(one), len(other)))
    return found


def compare(reference, other):
    """How far two sets of logits [P, V] of the same positions are from each other."""
    difference = np.abs(reference.astype(np.float64) - other)
    logp, logq = (_log_softmax(logits) for logits in (reference, other))
    return {
        "max_abs": float(difference.max()),
        "max_rel_to_scale": float(difference.max() / np.abs(reference).max()),
        "mean_abs": float(difference.mean()),
        "max_kl": float((np.exp(logp) * (logp - logq)).sum(-1).max().clip(min=0.0)),
    }


def batch_noise(model, rows, pad, reference):
    """Differences between `reference`, the padded batch's logits, and the same prompts run by Flax in other shapes.

    The first four figures are the largest over all comparisons; `comparisons` has each of them.
    """
    ids, mask = left_pad(rows, pad)
    real = mask.astype(bool)

    def alone(run):
        return np.concatenate([run(model, *left_pad([row], pad))[0] for row in rows])

    wider = [np.pad(array, ((0, 0), (3, 0)), constant_values=value) for array, value in ((ids, pad), (mask, 0))]
    runs = {
        "rows_alone": alone(forward),
        "rows_alone_jitted": alone(forward_jitted),
        "batch_jitted": forward_jitted(model, ids, mask)[real],
        "batch_twice_over": forward(model, np.tile(ids, (2, 1)), np.tile(mask, (2, 1)))[: len(rows)][real],
        "three_more_pads": forward(model, *wider)[:, 3:][real],
    }
    comparisons = {name: compare(reference[real], logits) for name, logits in runs.items()}
    worst = {key: max(figures[key] for figures in comparisons.values()) for key in next(iter(comparisons.values()))}
    return {**worst, "comparisons": comparisons}


def param_dtypes(model):
    """The dtypes that the parameters are stored in, comma-separated where there are several."""
    return ",".join(sorted({str(leaf.dtype) for leaf in jax.tree_util.tree_leaves(model.params)}))


def versions():
    """Versions that a reference depends on."""
    names = ("transformers", "flax", "jax", "jaxlib", "numpy")
    return {name: importlib.metadata.version(name) for name in names}


def make_reference(folder, rows, dtype, max_new_tokens, *, eos_token_id=None, pad_token_id=None, logits=True,
                   hidden_states=True, noise=False):
    """Runs Flax on the prompts `rows` (token id lists) and returns the arrays of a reference file, metadata as a dict."""
    model = load_model(folder, dtype)
    eos, pad = stop_ids(model, eos_token_id, pad_token_id)
    ids, mask = left_pad(rows, pad, model.config.vocab_size)
    arrays = {"input_ids": ids, "attention_mask": mask}
    batch_logits, states = forward(model, ids, mask, hidden_states=True)
    if logits:
        arrays["logits"] = batch_logits
    if hidden_states:
        arrays["hidden_states"] = states
    metadata = {
        "model": Path(folder).resolve().name,
        "dtype": dtype,
        "param_dtype": param_dtypes(model),
        "max_new_tokens": max_new_tokens,
        "eos_token_id": eos,
        "pad_token_id": pad,
        "versions": versions(),
        "platform": jax.default_backend(),
        "jax_threefry_partitionable": bool(jax.config.jax_threefry_partitionable),
        "jitted": False,
    }
    if max_new_tokens:
        sequences = arrays["sequences"] = greedy(model, ids, mask, max_new_tokens, eos, pad)
        margins, scale, agrees, jitted_agrees = greedy_margins(model, sequences, mask, eos)
        least = min(map(min, margins))
        metadata["greedy"] = {
            "min_margin": least,
            "min_margin_rel_to_scale": least / scale,
            "logit_scale": scale,
            "full_pass_agrees": agrees,
            "jitted_full_pass_agrees": jitted_agrees,
        }
    if noise:
        metadata["batch_noise"] = batch_noise(model, rows, pad, batch_logits)
        if max_new_tokens:
            alone = greedy_alone(model, rows, max_new_tokens, eos, pad)
            batch = new_tokens(arrays["sequences"], ids.shape[1], eos)
            metadata["greedy"]["rows_alone_first_divergence"] = first_divergences(batch, alone)
        if dtype != "float32":
            real = mask.astype(bool)
            exact = forward(load_model(folder, "float32"), ids, mask)
            metadata["distance_from_float32"] = compare(exact[real], batch_logits[real])
    return arrays, metadata


def save_reference(path, arrays, metadata):
    """Writes the arrays and the metadata, as a 0-d string of JSON, to a compressed npz."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays, metadata=np.array(json.dumps(metadata)))


def _log_softmax(logits):
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
