"""Writes what Transformers makes of a checkpoint's tokenizer_config.json, tokenizer.json and
generation_config.json, for the tests.

    python make_habits.py ../../tests/data/gemma-small

makes habits.json in the model's folder. `tokenizer` has variants of the tokenizer's files and the
ids that AutoTokenizer gives; `generation` has variants of generation_config.json and the new tokens
that FlaxGemmaForCausalLM's `generate` gives, with PRNGKey(0). Each variant names what was changed:
a value replaces the file's, "<absent>" takes the key (or the file) away. Where Transformers
refuses, `error` has its words.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from make_sampling import write
from reference import left_pad, versions

import jax
import jax.numpy as jnp
import numpy as np
from transformers import AutoTokenizer, FlaxGemmaForCausalLM

ABSENT = "<absent>"
NEW_TOKENS = 12
TEXTS = ("She", "", " She", "<bos>She", "She<eos>", "<start_of_turn>user\nShe<end_of_turn>\n")
PROMPTS = {"She": [2, 638], "bos": [2]}


def template(*names):
    """A post-processor that puts special tokens around a text, as tokenizer.json has it."""
    ids = {"<bos>": 2, "<eos>": 1}
    pieces = [{"Sequence": {"id": "A", "type_id": 0}} if name == "A" else {"SpecialToken": {"id": name, "type_id": 0}} for name in names]
    special = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in names if name != "A"}
    second = [{"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": pieces, "pair": pieces + second, "special_tokens": special}


FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
# Name: (changes to tokenizer_config.json, to tokenizer.json, to other files).
TOKENIZERS = {
    "as it is": ({}, {}, {}),
    "no bos": ({"add_bos_token": False}, {}, {}),
    "eos": ({"add_eos_token": True}, {}, {}),
    "eos and no bos": ({"add_bos_token": False, "add_eos_token": True}, {}, {}),
    "neither key": ({"add_bos_token": ABSENT, "add_eos_token": ABSENT}, {}, {}),
    "null keys": ({"add_bos_token": None, "add_eos_token": None}, {}, {}),
    "bos token null": ({"bos_token": None}, {}, {}),
    "bos token null, not added": ({"bos_token": None, "add_bos_token": False}, {}, {}),
    "eos token null, added": ({"eos_token": None, "add_eos_token": True}, {}, {}),
    "another bos token": ({"bos_token": "<pad>"}, {}, {}),
    "a bos token that is an object": (
        {"bos_token": {"__type": "AddedToken", "content": "<eos>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}},
        {}, {},
    ),
    "fast class": ({"tokenizer_class": "GemmaTokenizerFast"}, {}, {}),
    "fast class, no bos": ({"tokenizer_class": "GemmaTokenizerFast", "add_bos_token": False}, {}, {}),
    "no class": ({"tokenizer_class": ABSENT}, {}, {}),
    "no class, no bos": ({"tokenizer_class": ABSENT, "add_bos_token": False}, {}, {}),
    "general class": (FAST, {}, {}),
    "general class, no bos": (FAST | {"add_bos_token": False}, {}, {}),
    "general class, eos": (FAST | {"add_eos_token": True}, {}, {}),
    "general class, neither key": (FAST | {"add_bos_token": ABSENT, "add_eos_token": ABSENT}, {}, {}),
    "template with eos": ({}, {"post_processor": template("<bos>", "A", "<eos>")}, {}),
    "template without bos": ({}, {"post_processor": template("A")}, {}),
    "template with bos twice": ({}, {"post_processor": template("<bos>", "<bos>", "A")}, {}),
    "no post-processor": ({}, {"post_processor": None}, {}),
    "general class, template with eos": (FAST, {"post_processor": template("<bos>", "A", "<eos>")}, {}),
    "general class, template without bos": (FAST, {"post_processor": template("A")}, {}),
    "general class, template with eos, neither key": (
        FAST | {"add_bos_token": ABSENT, "add_eos_token": ABSENT}, {"post_processor": template("<bos>", "A", "<eos>")}, {},
    ),
    "general class, no post-processor": (FAST, {"post_processor": None}, {}),
    "general class, no post-processor, neither key": (FAST | {"add_bos_token": ABSENT, "add_eos_token": ABSENT}, {"post_processor": None}, {}),
    "no tokenizer_config.json": (ABSENT, {}, {}),
    "no tokenizer_config.json, template without bos": (ABSENT, {"post_processor": template("A")}, {}),
    "bos ids in other files": ({}, {}, {"generation_config.json": {"bos_token_id": 0}, "config.json": {"bos_token_id": 5}}),
    "special_tokens_map.json": ({}, {}, {"special_tokens_map.json": {"bos_token": "<pad>", "eos_token": "<end_of_turn>"}}),
    "special_tokens_map.json alone": (
        {"bos_token": ABSENT, "eos_token": ABSENT}, {}, {"special_tokens_map.json": {"bos_token": "<pad>", "eos_token": "<end_of_turn>"}},
    ),
}

# A generation_config.json that came with a model says nothing of how it was made; one made from
# config.json says so, and is then made from config.json once more unless it was changed after
# loading.
GIVEN = {"_from_model_config": ABSENT}
SUPPRESS = GIVEN | {"suppress_tokens": [405, 415]}
# Name: (changes to generation_config.json, arguments of generate, prompt).
GENERATIONS = {
    "as it is": ({}, {}, "She"),
    "not from config.json": (GIVEN, {}, "She"),
    "no generation_config.json": (ABSENT, {}, "She"),
    "suppress_tokens": (SUPPRESS, {}, "She"),
    "suppress_tokens, _from_model_config": ({"suppress_tokens": [405, 415]}, {}, "She"),
    "begin_suppress_tokens": (GIVEN | {"begin_suppress_tokens": [405, 374]}, {}, "She"),
    "begin_suppress_tokens, one token": (GIVEN | {"begin_suppress_tokens": [405, 415]}, {}, "bos"),
    "forced_bos_token_id": (GIVEN | {"forced_bos_token_id": 405}, {}, "She"),
    "one token": (GIVEN, {}, "bos"),
    "forced_bos_token_id, one token": (GIVEN | {"forced_bos_token_id": 405}, {}, "bos"),
    "forced_bos_token_id and begin_suppress_tokens, one token": (
        GIVEN | {"forced_bos_token_id": 405, "begin_suppress_tokens": [415]}, {}, "bos",
    ),
    "forced_eos_token_id": (GIVEN | {"forced_eos_token_id": 1}, {}, "She"),
    "forced_eos_token_id, another": (GIVEN | {"forced_eos_token_id": 387}, {}, "She"),
    "eos_token_id": (GIVEN | {"eos_token_id": 387}, {}, "She"),
    "eos_token_id in a list": (GIVEN | {"eos_token_id": [387]}, {}, "She"),
    "two eos_token_ids": (GIVEN | {"eos_token_id": [1, 387]}, {}, "She"),
    "eos_token_id null": (GIVEN | {"eos_token_id": None}, {}, "She"),
    "pad_token_id null": (GIVEN | {"pad_token_id": None, "eos_token_id": 387}, {}, "She"),
    "bos_token_id": (GIVEN | {"bos_token_id": 0}, {}, "She"),
    "min_new_tokens": (GIVEN | {"eos_token_id": 387, "min_new_tokens": 8}, {}, "She"),
    "min_length": (GIVEN | {"eos_token_id": 387, "min_length": 8}, {}, "She"),
    "min_length of all": (GIVEN | {"eos_token_id": 387, "min_length": 14}, {}, "She"),
    "do_sample": (GIVEN | {"do_sample": True}, {}, "She"),
    "do_sample, temperature": (GIVEN | {"do_sample": True, "temperature": 0.5}, {}, "She"),
    "do_sample, a whole temperature": (GIVEN | {"do_sample": True, "temperature": 2}, {}, "She"),
    "do_sample, top_k": (GIVEN | {"do_sample": True, "top_k": 3}, {}, "She"),
    "do_sample, top_k 0": (GIVEN | {"do_sample": True, "top_k": 0}, {}, "She"),
    "do_sample, top_k null": (GIVEN | {"do_sample": True, "top_k": None}, {}, "She"),
    "do_sample, top_p": (GIVEN | {"do_sample": True, "top_p": 0.5}, {}, "She"),
    "do_sample, all": (GIVEN | {"do_sample": True, "temperature": 1.3, "top_k": 20, "top_p": 0.8}, {}, "She"),
    "do_sample, min_p": (GIVEN | {"do_sample": True, "min_p": 0.5}, {}, "She"),
    "do_sample, typical_p": (GIVEN | {"do_sample": True, "typical_p": 0.5}, {}, "She"),
    "do_sample, refused by an argument": (GIVEN | {"do_sample": True}, {"do_sample": False}, "She"),
    "do_sample, suppress_tokens": (GIVEN | {"do_sample": True, "suppress_tokens": [737, 393]}, {}, "She"),
    "temperature without do_sample": (GIVEN | {"temperature": 0.5, "top_p": 0.5}, {}, "She"),
    "num_beams": (GIVEN | {"num_beams": 4}, {}, "She"),
    "num_beams, one by an argument": (GIVEN | {"num_beams": 4}, {"num_beams": 1}, "She"),
    "num_beams and do_sample": (GIVEN | {"num_beams": 4, "do_sample": True}, {}, "She"),
    "num_return_sequences": (GIVEN | {"num_return_sequences": 2}, {}, "She"),
    "repetition_penalty": (GIVEN | {"repetition_penalty": 1.8}, {}, "She"),
    "no_repeat_ngram_size": (GIVEN | {"no_repeat_ngram_size": 1}, {"max_new_tokens": 20}, "She"),
    "bad_words_ids": (GIVEN | {"bad_words_ids": [[405], [415]]}, {}, "She"),
    "sequence_bias": (GIVEN | {"sequence_bias": [[[405], -10.0]]}, {}, "She"),
    "forced_decoder_ids": (GIVEN | {"forced_decoder_ids": [[1, 700], [2, 701]]}, {}, "She"),
    "penalty_alpha": (GIVEN | {"penalty_alpha": 0.6}, {}, "She"),
    "max_new_tokens": (GIVEN | {"max_new_tokens": 5}, {"max_new_tokens": ABSENT}, "She"),
    "max_new_tokens, another argument": (GIVEN | {"max_new_tokens": 5}, {"max_new_tokens": 7}, "She"),
    "max_length": (GIVEN | {"max_length": 9}, {"max_new_tokens": ABSENT}, "She"),
    "no lengths": (GIVEN, {"max_new_tokens": ABSENT}, "She"),
}


def edit(path, changes):
    """Applies changes to a JSON file's object, or takes the file away."""
    if changes == ABSENT:
        path.unlink()
        return
    content = json.loads(path.read_text()) if path.exists() else {}
    for key, value in changes.items():
        content.pop(key, None)
        if value != ABSENT:
            content[key] = value
    path.write_text(json.dumps(content))


def words(error):
    """The error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def tokenizer_variant(source, name, scratch):
    config, tokenizer, others = TOKENIZERS[name]
    folder = copy(source, scratch, weights=False)
    files = {"tokenizer_config.json": config, "tokenizer.json": tokenizer} | others
    for file, changes in files.items():
        if changes:
            edit(folder / file, changes)
    out = {"name": name, "changes": {file: changes for file, changes in files.items() if changes}}
    try:
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return out | {"class": type(loaded).__name__, "token_ids": [loaded(text)["input_ids"] for text in TEXTS]}
    except Exception as error:  # noqa: BLE001 — whatever it says is what the fixture records
        return out | {"error": words(error)}


def generation_variant(source, name, scratch):
    config, arguments, prompt = GENERATIONS[name]
    folder = copy(source, scratch, weights=True)
    if config:
        edit(folder / "generation_config.json", config)
    out = {"name": name, "changes": config, "arguments": arguments, "prompt": prompt}
    settings = {key: value for key, value in ({"max_new_tokens": NEW_TOKENS} | arguments).items() if value != ABSENT}
    ids, mask = left_pad([PROMPTS[prompt]], 0)
    try:
        model = FlaxGemmaForCausalLM.from_pretrained(folder, dtype=jnp.float32, local_files_only=True)
        output = model.generate(jnp.asarray(ids), attention_mask=jnp.asarray(mask), prng_key=jax.random.PRNGKey(0), **settings)
        rows = np.asarray(output.sequences, np.int32)[:, ids.shape[1] :].tolist()
        return out | {"new_tokens": rows}
    except Exception as error:  # noqa: BLE001
        return out | {"error": words(error)}


def copy(source, scratch, weights):
    folder = Path(tempfile.mkdtemp(dir=scratch))
    for path in source.iterdir():
        if path.suffix == ".json" and path.name.split("-")[0] not in ("sampling", "score", "habits") or weights and path.suffix == ".msgpack":
            shutil.copy(path, folder)
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the model's folder")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as scratch:
        # Most variants run the same program as another.
        jax.config.update("jax_compilation_cache_dir", str(Path(scratch) / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        tokenizers = [tokenizer_variant(folder, name, scratch) for name in TOKENIZERS]
        generations = []
        for name in GENERATIONS:
            generations.append(generation_variant(folder, name, scratch))
            print(name, generations[-1].get("new_tokens", generations[-1].get("error")), flush=True)
    metadata = {"model": folder.name, "dtype": "float32", "versions": versions(), "max_new_tokens": NEW_TOKENS, "prng_key": "PRNGKey(0)"}
    content = {"metadata": metadata, "texts": list(TEXTS), "tokenizer": tokenizers, "prompts": PROMPTS, "generation": generations}
    write(folder / "habits.json", content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
