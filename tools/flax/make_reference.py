"""Makes a reference file from a Flax Gemma checkpoint: what Flax computes, for another implementation to be held against.

    python make_reference.py MODEL_DIR OUT.npz --prompts prompts.txt --dtype bfloat16 --max-new-tokens 32

The file holds input_ids and attention_mask [B, S] int32, logits [B, S, V] and hidden_states [L+1, B, S, H] (float32
arrays with the compute dtype's values; the embedding output first, the last after the final norm), sequences
[B, S+N] int32 (greedy, pad after eos), and metadata, a string of JSON. Prompts of unequal length are padded on the left.
Needs no network.
"""

import argparse
import json
import sys
from pathlib import Path

from reference import DTYPES, CheckpointError, check_folder, make_reference, save_reference


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL_DIR", help="folder with config.json and flax_model.msgpack, or its shards and index")
    parser.add_argument("out", metavar="OUT.npz", help="file to write")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", action="append", metavar="PROMPT", help="a prompt; may be given several times")
    source.add_argument("--prompts", metavar="FILE", help="a prompt a line; empty lines are left out")
    source.add_argument("--token-ids", metavar="FILE.jsonl", help='{"token_ids": [2, 5, …]} a line; taken as they are')
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32", help="compute dtype (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=20, metavar="N", help="0 leaves sequences out (default: %(default)s)")
    parser.add_argument("--eos-token-id", type=int, metavar="ID", help="in place of the generation config's")
    parser.add_argument("--pad-token-id", type=int, metavar="ID", help="in place of the generation config's")
    parser.add_argument("--no-hidden-states", action="store_true", help="leave hidden_states out")
    parser.add_argument("--no-logits", action="store_true", help="leave logits out: they are large with Gemma's vocabulary")
    parser.add_argument(
        "--measure-noise",
        action="store_true",
        help="also run the prompts in other batch shapes and jitted, and put how far their logits are apart into the metadata",
    )
    arguments = parser.parse_args()
    if arguments.max_new_tokens < 0:
        parser.error("--max-new-tokens is negative")
    if not arguments.out.endswith(".npz"):
        parser.error(f"{arguments.out}: the reference's name must end in .npz")
    return arguments


def read_lines(path):
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise CheckpointError(f"{path}: holds no prompts")
    return lines


def read_prompts(arguments):
    """The prompts as token id lists."""
    if arguments.token_ids:
        rows = []
        for number, line in enumerate(read_lines(arguments.token_ids), 1):
            try:
                rows.append(list(json.loads(line)["token_ids"]))
            except (ValueError, TypeError, KeyError) as error:
                raise CheckpointError(f'{arguments.token_ids}: prompt {number} is not {{"token_ids": […]}}: {error}') from error
        return rows
    texts = arguments.text or read_lines(arguments.prompts)
    path = Path(arguments.model) / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; without it give prompts by --token-ids")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    return [tokenizer.encode(text).ids for text in texts]


def main():
    arguments = parse_arguments()
    try:
        check_folder(arguments.model)
        arrays, metadata = make_reference(
            arguments.model,
            read_prompts(arguments),
            arguments.dtype,
            arguments.max_new_tokens,
            eos_token_id=arguments.eos_token_id,
            pad_token_id=arguments.pad_token_id,
            logits=not arguments.no_logits,
            hidden_states=not arguments.no_hidden_states,
            noise=arguments.measure_noise,
        )
        save_reference(arguments.out, arrays, metadata)
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, array in arrays.items():
        print(f"{name:15} {array.dtype} {list(array.shape)}")
    print(json.dumps(metadata, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
