"""Writes small random checkpoints of Gemma 2, 3 and 4, and what Transformers' PyTorch models
compute on them, for the tests.

    python make_fixtures.py ../../tests/data/family --deepmind-python PYTHON [NAME…]

Runs in the environment of requirements-transformers.txt; PYTHON is the interpreter of
requirements-deepmind.txt's, in which DeepMind's `gemma` computes the same. A seed is taken only
where
- both libraries give the same greedy tokens, and logits within 3e-5 of their scale at every prompt
  position and every step, so that a third implementation can be held to 1e-4;
- at no step are the two best logits within 1e-3 of the scale, nor the last expert chosen and the
  first left out within 2e-5;
- each row gives the same tokens alone as in the batch, and no row emits the pad id before it ends;
- every change that the fixture lists (a window one longer, no cap, …) moves the logits by at least
  20 times the tolerance of 1e-4: an implementation that lacks one of them cannot pass.
"""

import argparse
import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import torch
from fixtures import FIXTURES
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, Gemma3ForConditionalGeneration, Gemma4ForConditionalGeneration
from transformers.utils import logging

logging.disable_progress_bar()
# One thread: the models are too small for two to pay.
torch.set_num_threads(1)

HERE = Path(__file__).resolve().parent
PROMPT_LENGTHS = (3, 11, 19)
NEW_TOKENS = 24
MAX_DIFFERENCE, MIN_MARGIN, MIN_ROUTER_GAP, MIN_CHANGE = 3e-5, 1e-3, 2e-5, 2e-3
# The smallest vision models that the two libraries' configurations can name.
VISION = {
    "gemma3": dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4),
    "gemma4": dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=8,
                   patch_size=2, pooling_kernel_size=1, position_embedding_size=4),
}
AROUND = {"gemma3": Gemma3ForConditionalGeneration, "gemma4": Gemma4ForConditionalGeneration}


class Unusable(Exception):
    """Why a seed is not taken."""


def config_of(fixture, changed=()):
    settings = copy.deepcopy(fixture.config) | dict(changed)
    model_type = settings.pop("model_type")
    if not fixture.multimodal:
        return AutoConfig.for_model(model_type, **settings)
    stops = {key: settings[key] for key in ("eos_token_id", "bos_token_id", "pad_token_id")}
    around = AutoConfig.for_model(fixture.multimodal, text_config={"model_type": model_type, **settings}, vision_config=VISION[fixture.multimodal], **stops)
    if fixture.multimodal == "gemma3":
        around.mm_tokens_per_image = 1
    return around


def random_tensor(name, shape, rng, fixture):
    """Values that make every layer move the stream, and logits and scores large enough for soft
    caps to show."""
    plain_norm = "gemma4" in fixture.config["model_type"]
    last = name.split(".")[-2] if name.endswith(".weight") else name.split(".")[-1]
    if last in ("layer_scalar", "per_expert_scale"):
        return rng.uniform(0.5, 1.4, shape)
    if last == "scale":
        return rng.normal(1.0, 0.4, shape)
    if "norm" in last:
        # Gemma 2 and 3 multiply by one more than the weight.
        centre = 6.0 if name.endswith("model.norm.weight") else 1.5
        if plain_norm and last in ("q_norm", "k_norm"):
            # Gemma 4 does not scale scores: these keep softmax from choosing one key alone, which
            # amplifies rounding.
            centre = 0.8
        return rng.normal(centre, 0.4, shape) - (0.0 if plain_norm else 1.0)
    if last in ("embed_tokens", "lm_head"):
        table = rng.normal(0.0, shape[1] ** -0.5, shape)
        # Logits of pad and eos stay small, so that few seeds choose them.
        table[:2] *= 0.3
        return table
    if last == "embed_tokens_per_layer":
        # The model multiplies by the root of the width.
        return rng.normal(0.0, 0.35, shape)
    if last == "per_layer_model_projection":
        return rng.normal(0.0, 1.0, shape)
    if last in ("q_proj", "k_proj"):
        return rng.normal(0.0, fixture.query_key_gain * shape[1] ** -0.5, shape)
    return rng.normal(0.0, 1.5 * shape[-1] ** -0.5, shape)


def new_model(config, fixture):
    model = AROUND[fixture.multimodal](config) if fixture.multimodal else AutoModelForCausalLM.from_config(config)
    return model.to(torch.float32)


def write_checkpoint(fixture, seed, eos, folder):
    """Writes config.json, generation_config.json and model.safetensors."""
    rng = np.random.default_rng(seed)
    config = config_of(fixture, {"eos_token_id": eos})
    model = new_model(config, fixture)
    values = dict(model.named_parameters()) | {name: buffer for name, buffer in model.named_buffers() if name.endswith("layer_scalar")}
    with torch.no_grad():
        for name in sorted(values):
            values[name].copy_(torch.from_numpy(random_tensor(name, tuple(values[name].shape), rng, fixture).astype(np.float32)))
    model.generation_config = GenerationConfig(bos_token_id=2, eos_token_id=eos, pad_token_id=0)
    model.save_pretrained(folder)
    written = load_file(Path(folder) / "model.safetensors")
    for name, tensor in load(folder).state_dict().items():
        if name in values and not torch.equal(tensor, values[name]):
            raise SystemExit(f"{name} does not read back as it was written")
    return written


def load(folder, changed=None, filled=None):
    """The model of a folder, in float32 with plain attention, perhaps with another configuration or
    other parameters."""
    options = {"config": changed} if changed is not None else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager", **options)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        for suffix, value in (filled or {}).items():
            if name.endswith(suffix):
                tensor.data.fill_(value)
    return model.eval()


def left_pad(rows):
    width = max(map(len, rows))
    ids, mask = np.zeros((2, len(rows), width), np.int32)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = row
        mask[index, width - len(row) :] = 1
    return ids, mask


@torch.no_grad()
def forward(model, ids, mask, **options):
    positions = torch.from_numpy(np.maximum(np.cumsum(mask, -1) - 1, 0)).long()
    return model(torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(mask).long(), position_ids=positions, use_cache=False, **options)


@torch.no_grad()
def generate(model, ids, mask, eos):
    ids, mask = (torch.from_numpy(array).long() for array in (ids, mask))
    return model.generate(ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=eos, pad_token_id=0).numpy().astype(np.int32)


def until_stop(row, eos):
    end = next((index for index, token in enumerate(row) if token in eos), len(row) - 1)
    return list(row[: end + 1])


def choose_eos(rows, prompts):
    """A token that one row emits for the first time midway and no other row emits, not part of a
    prompt."""
    used = {token for prompt in prompts for token in prompt}
    for index, tokens in enumerate(rows):
        others = {token for other in range(len(rows)) if other != index for token in rows[other]}
        for step, token in enumerate(tokens):
            if 5 <= step <= 15 and token > 3 and token not in tokens[:step] and token not in others | used:
                return int(token)
    raise Unusable("no token to end a row with")


def check_change(folder, fixture, name, change, ids, mask, logits):
    """How far a change of the configuration or the parameters moves the logits, relative to their
    scale."""
    real = mask.astype(bool)
    if any("." in key or key == "layer_scalar" for key in change):
        model = load(folder, filled=change)
    else:
        config = AutoConfig.from_pretrained(folder)
        text = config_of(fixture, change)
        if fixture.multimodal:
            config.text_config = text.text_config
        else:
            config = text
        model = load(folder, changed=config)
    moved = np.abs(forward(model, ids, mask).logits.numpy()[real] - logits[real]).max() / np.abs(logits[real]).max()
    if moved < MIN_CHANGE:
        raise Unusable(f"{name} moves the logits by {moved:.1e} of their scale only")
    return float(moved)


def router_gap(outputs, mask, chosen):
    """The least distance between the last probability chosen and the first left out."""
    gaps = []
    for probabilities in outputs.router_logits:
        ordered = np.sort(probabilities.numpy().reshape(*mask.shape, -1)[mask.astype(bool)], -1)[:, ::-1]
        gaps.append((ordered[:, chosen - 1] - ordered[:, chosen]).min())
    return float(min(gaps))


def try_seed(name, fixture, seed, folder, python, twins):
    """Writes the checkpoint of one seed into `folder` and returns its reference. Raises `Unusable`."""
    rng = np.random.default_rng(1000 + seed)
    prompts = [[2] + rng.integers(4, fixture.config["vocab_size"], length - 1).tolist() for length in PROMPT_LENGTHS]
    ids, mask = left_pad(prompts)
    real, width = mask.astype(bool), ids.shape[1]
    eos = 1
    write_checkpoint(fixture, seed, eos, folder)
    model = load(folder)
    if fixture.early_eos:
        eos = [1, choose_eos(generate(model, ids, mask, eos)[:, width:].tolist(), prompts)]
        write_checkpoint(fixture, seed, eos, folder)
        model = load(folder)
    stops = eos if isinstance(eos, list) else [eos]
    sequences = generate(model, ids, mask, eos)
    rows = [until_stop(row, stops) for row in sequences[:, width:].tolist()]
    if sum(len(set(row)) for row in rows) < 6 * len(rows):
        raise Unusable("rows repeat themselves")
    if sum(row[-1] in stops for row in rows) != int(fixture.early_eos) or any(0 in row for row in rows):
        raise Unusable("rows end early or emit the pad id")
    for prompt, row in zip(prompts, rows):
        alone = generate(model, *left_pad([prompt]), eos)[0, len(prompt) :].tolist()
        if until_stop(alone, stops) != row:
            raise Unusable("a row alone gives other tokens")

    outputs = forward(model, ids, mask, output_hidden_states=True)
    logits, states = outputs.logits.numpy(), np.stack([state.numpy() for state in outputs.hidden_states])
    check_states(model, states, logits, ids, real, fixture)
    every = np.concatenate([mask, np.ones((len(rows), NEW_TOKENS), np.int32)], 1)
    experts = fixture.config.get("enable_moe_block", False)
    whole = forward(model, sequences, every, **({"output_router_logits": True} if experts else {}))
    gap = router_gap(whole, every, fixture.config["top_k_experts"]) if experts else None
    if gap is not None and gap < MIN_ROUTER_GAP:
        raise Unusable(f"two experts are within {gap:.1e}")
    margins, scale = greedy_margins(whole.logits.numpy()[:, width - 1 : -1], rows)
    if margins <= MIN_MARGIN * scale:
        raise Unusable(f"least margin {margins / scale:.1e} of the scale")
    changes = {change: check_change(folder, fixture, change, settings, ids, mask, logits) for change, settings in fixture.changes.items()}

    theirs = run_deepmind(folder, ids, mask, python, twins, inputs_first=name == "gemma2-mha")
    difference = np.abs(theirs["logits"][real] - logits[real]).max() / np.abs(logits[real]).max()
    steps = whole.logits.numpy()[:, width - 1 : -1]
    own = [theirs["tokens"][index, : len(row)].tolist() for index, row in enumerate(rows)]
    if own != rows:
        raise Unusable(f"DeepMind's library has other tokens; logits differ by {difference:.1e}")
    used = np.zeros(steps.shape[:2], bool)
    for index, row in enumerate(rows):
        used[index, : len(row)] = True
    step_difference = np.abs(theirs["step_logits"][used] - steps[used]).max() / scale
    if max(difference, step_difference) > MAX_DIFFERENCE:
        raise Unusable(f"the libraries differ by {difference:.1e} and, in steps, {step_difference:.1e} of the scale")
    arrays = {"input_ids": ids, "attention_mask": mask, "logits": logits, "hidden_states": states, "sequences": sequences}
    metadata = {
        "model": name,
        "dtype": "float32",
        "param_dtype": "float32",
        "arrays_of": "transformers",
        "max_new_tokens": NEW_TOKENS,
        "eos_token_id": eos,
        "pad_token_id": 0,
        "versions": {package: version(package) for package in ("transformers", "torch", "numpy")},
        "platform": "cpu",
        "greedy": {"min_margin": margins, "min_margin_rel_to_scale": margins / scale, "logit_scale": scale},
        "deepmind": {
            "versions": json.loads(str(theirs["versions"])),
            "max_rel_to_scale": float(difference),
            "steps_max_rel_to_scale": float(step_difference),
            "same_tokens": True,
        },
        "changes_max_rel_to_scale": changes,
        "seed": seed,
    }
    if gap is not None:
        metadata["min_router_gap"] = gap
        metadata["deepmind"]["router"] = "corrected: it is given the residual stream, not the experts' input"
    return arrays, metadata


def check_states(model, states, logits, ids, real, fixture):
    """Holds that the first hidden state is the scaled embedding and the last is what the head is
    applied to."""
    table = model.get_input_embeddings()
    scaled = table(torch.from_numpy(ids).long()).detach().numpy()
    assert np.array_equal(states[0], scaled), "the first hidden state is not the embedding's output"
    assert len(states) == fixture.config["num_hidden_layers"] + 1
    last = model.get_output_embeddings()(torch.from_numpy(states[-1])).detach().numpy()
    cap = fixture.config.get("final_logit_softcapping")
    last = np.tanh(last / cap) * cap if cap else last
    assert np.abs(last[real] - logits[real]).max() < 1e-5 * np.abs(logits[real]).max(), "the last hidden state is not the head's input"


def greedy_margins(steps, rows):
    """The least margin of the first over the second logit at the steps taken, and the largest logit
    there."""
    least, scale = np.inf, 0.0
    for logits, row in zip(steps, rows):
        used = logits[: len(row)]
        if used.argmax(-1).tolist() != row:
            raise Unusable("one pass over the sequences has other tokens")
        top = np.sort(used, -1)
        least, scale = min(least, (top[:, -1] - top[:, -2]).min()), max(scale, np.abs(used).max())
    return float(least), float(scale)


def run_deepmind(folder, ids, mask, python, twins, *, inputs_first):
    with tempfile.TemporaryDirectory() as scratch:
        inputs, out = Path(scratch) / "inputs.npz", Path(scratch) / "out.npz"
        np.savez(inputs, input_ids=ids, attention_mask=mask, steps=NEW_TOKENS)
        options = [option for twin, form in twins.items() for option in ("--twin", f"{twin}={form}")]
        command = [python, HERE / "run_deepmind.py", folder, inputs, out, *options, *(["--inputs-first"] if inputs_first else [])]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"run_deepmind.py: {done.stderr.strip()[-2000:]}")
        with np.load(out) as found:
            return dict(found)


def older_config(folder):
    """Rewrites config.json with the keys of Transformers 4, and holds that Transformers reads the
    same from it."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    before = AutoConfig.from_pretrained(folder).to_dict()
    ropes = config.pop("rope_parameters")
    config["rope_theta"] = ropes["full_attention"]["rope_theta"]
    config["rope_local_base_freq"] = ropes["sliding_attention"]["rope_theta"]
    config["rope_scaling"] = None
    del config["layer_types"]
    config["sliding_window_pattern"] = 6
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.50.0"
    path.write_text(json.dumps(config, indent=2) + "\n")
    after = AutoConfig.from_pretrained(folder).to_dict()
    for key in ("rope_parameters", "layer_types", "sliding_window", "dtype"):
        assert before[key] == after[key], f"{key}: {before[key]} became {after[key]}"


def make_fixture(name, out, python):
    """Finds a seed for the fixture and writes its folders."""
    fixture = FIXTURES[name]
    for seed in range(fixture.first_seed, fixture.first_seed + 200):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "checkpoint"
            twins = {Path(scratch) / f"twin{suffix}": form for suffix, form in fixture.twins.items()}
            try:
                arrays, metadata = try_seed(name, fixture, seed, folder, python, twins)
            except Unusable as reason:
                print(f"{name}: seed {seed}: {reason}", flush=True)
                continue
            for suffix in fixture.twins:
                twin = Path(scratch) / f"twin{suffix}"
                for file in ("config.json", "generation_config.json"):
                    shutil.copy(folder / file, twin / file)
                if suffix == "-flax" and name == "gemma3":
                    older_config(twin)
                # A twin's parameters are those of the checkpoint beside it, whose reference has the
                # hidden states.
                kept = {key: array for key, array in arrays.items() if key != "hidden_states"} if suffix else arrays
                save(out / f"{name}{suffix}", twin, kept, metadata | {"model": f"{name}{suffix}"})
            if fixture.safetensors:
                save(out / name, folder, arrays, metadata)
        print(f"{name}: seed {seed}: {json.dumps(metadata)}", flush=True)
        return
    raise SystemExit(f"{name}: no seed can be used")


def save(folder, source, arrays, metadata):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        shutil.copyfile(path, folder / path.name)
    np.savez_compressed(folder / "reference-float32.npz", **arrays, metadata=np.array(json.dumps(metadata)))
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    print(f"{folder.name}: {sum(sizes.values()) / 1024:.0f} KiB {sizes}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write the fixtures' folders to")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"fixtures to make (default: all of {', '.join(FIXTURES)})")
    parser.add_argument("--deepmind-python", required=True, metavar="PYTHON", help="the interpreter that has DeepMind's gemma")
    arguments = parser.parse_intermixed_args()
    unknown = sorted(set(arguments.names) - FIXTURES.keys())
    if unknown:
        parser.error(f"no fixture is named {', '.join(unknown)}")
    for name in arguments.names or FIXTURES:
        make_fixture(name, arguments.out, arguments.deepmind_python)
    return 0


if __name__ == "__main__":
    sys.exit(main())
