#!/usr/bin/env python3
"""Measures gemma-xla beside jitted Flax and llama.cpp on one random checkpoint, and prints a table of ratios.

    tools/bench/run.py --quick                 4 layers of Gemma 2B, vocabulary 32000: 1 GB
    tools/bench/run.py                         Gemma 2B's own size: 5 GB
    tools/bench/run.py --growth                a step's time against context and batch, on a quarter of Gemma 2B's width
    tools/bench/run.py --agree                 whether the engines give the same tokens, on the trained model in tests/data

The engines take turns, so that whatever else slows the machine slows them alike. Needs a release build of gemma-xla with its CPU plugin,
python3.11, node and npm; fetches the rest into a cache folder once. The raw figures go to tools/bench/results.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import table
from engines import Failed, Flax, Llama, Ours, random_prompts
from environment import HERE, NODE_LLAMA_CPP, REPOSITORY, Environment, machine, memory_available, read_through, revision, say


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(part) for part in text.split(",")]
    words = lambda text: text.split(",")
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "gemma-xla-bench"
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--quick", action="store_true", help="4 layers and a vocabulary of 32000")
    mode.add_argument("--growth", action="store_true")
    mode.add_argument("--agree", action="store_true")
    parser.add_argument("--checkpoint", type=pathlib.Path, help="a checkpoint of one's own: a folder with flax_model.msgpack")
    parser.add_argument("--geometry", default="gemma-2b", help="as tools/random_checkpoint.py has them (default: %(default)s)")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--vocab", type=int)
    parser.add_argument("--dtypes", type=words, default=["bf16", "f32"])
    parser.add_argument("--batches", type=numbers, default=[1, 8])
    parser.add_argument("--prompts", type=numbers, default=[32, 512], help="tokens of the prompts")
    parser.add_argument("--new-tokens", type=int, default=65)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each engine (default: %(default)s)")
    parser.add_argument("--engines", type=words, default=["flax", "llama"], help="beside gemma-xla (default: flax,llama)")
    parser.add_argument("--alone", action="store_true", help="one engine in memory at a time; by itself where memory is short")
    parser.add_argument("--binary", type=pathlib.Path, default=target / "release/gemma-xla")
    parser.add_argument("--flax-python", type=pathlib.Path, help="an interpreter that has tools/flax/requirements.txt")
    parser.add_argument("--cache", type=pathlib.Path, default=cache, help="folder for all that is fetched and made (default: %(default)s)")
    parser.add_argument("--out", type=pathlib.Path, help="file for the raw figures (default: in tools/bench/results)")
    args = parser.parse_args()
    if args.quick:
        args.layers, args.vocab = args.layers or 4, args.vocab or 32000
    if args.new_tokens < 3:
        parser.error(f"--new-tokens {args.new_tokens}: two steps at least are needed to time one")
    if not args.binary.exists():
        parser.error(f"{args.binary}: no such file; cargo build --release")
    return args


def contest(args, environment, checkpoint, keep):
    """Every configuration, the engines taking turns. `keep` is given the result so far after each of them."""
    config = json.loads((checkpoint / "config.json").read_text())
    size = (checkpoint / "flax_model.msgpack").stat().st_size
    result = {"machine": machine(), "revision": revision(), "date": time.strftime("%Y-%m-%d"), "versions": {"node-llama-cpp": NODE_LLAMA_CPP}}
    result["geometry"] = {key: value for key, value in config.items() if key.startswith(("num_", "hidden_s", "interm", "vocab", "head"))}
    result.update({"checkpoint_bytes": size, "new_tokens": args.new_tokens, "rounds": args.rounds, "cases": [], "starts": {}})
    for dtype in args.dtypes:
        parties = [Ours(args.binary, checkpoint, dtype)]
        if "flax" in args.engines:
            parties.append(Flax(environment, checkpoint, dtype, config["vocab_size"]))
        result["versions"]["plugin"] = parties[0].plugin()
        # A file of bfloat16 is what a user of llama.cpp would take, at any rate.
        if "llama" in args.engines and dtype == "bf16":
            parties.append(Llama(environment, checkpoint, dtype, config["vocab_size"]))
        # Flax holds its parameters, and while it runs may hold them in float32 as well.
        needed = size * (1 + 3 + 1 if dtype == "bf16" else 2 + 3)
        alone = args.alone or needed > 0.7 * memory_available()
        read_through(checkpoint / "flax_model.msgpack")
        result["starts"][dtype] = parties[0].starts(random_prompts(1, 32, config["vocab_size"])[0])
        for prompt in args.prompts:
            for batch in args.batches:
                result["cases"].append(one_case(parties, dtype, batch, prompt, args, alone, checkpoint))
                keep(result)
        for party in parties:
            if party.name != "gemma-xla" and party.about:
                result["versions"].update({party.name: {k: v for k, v in party.about.items() if k != "load_s"}})
            party.stop()
    result["machine"]["load_average_after"] = round(os.getloadavg()[0], 2)
    return result


def one_case(parties, dtype, batch, prompt, args, alone, checkpoint):
    case = {"dtype": dtype, "batch": batch, "prompt_tokens": prompt, "failed": {}, "runs": {party.name: [] for party in parties}}
    sizes = (batch, prompt, args.new_tokens)
    name = f"{dtype} batch {batch} prompt {prompt}"

    def attempt(party, what):
        """What an engine gives; nothing more is asked of one that fails."""
        if party.name in case["failed"]:
            return None
        try:
            return what(*sizes)
        except Failed as failure:
            case["failed"][party.name] = str(failure)
            say(f"{name}: {party.name} {failure}")
            party.stop()
            return None

    if not alone:
        for party in parties:
            attempt(party, party.warm)
    for _ in range(args.rounds):
        for party in parties:
            if alone:
                # What another has pushed out of the page cache is not to count.
                read_through(checkpoint / "flax_model.msgpack")
                attempt(party, party.warm)
            if found := attempt(party, party.measure):
                case["runs"][party.name].append(found)
                say(f"{name}: {party.name} {found['step_s'] * 1e3:.1f} ms a step, prefill {found['prefill_s'] * 1e3:.0f} ms")
            if alone:
                party.stop()
    return case


def agree(args, environment):
    """Greedy tokens of the trained model in tests/data, ours against each engine's: how many are equal before the first that is not."""
    checkpoint = REPOSITORY / "tests/data/gemma-small"
    vocab = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    prompts = random_prompts(8, 32, vocab)
    for dtype in args.dtypes:
        ours = Ours(args.binary, checkpoint, dtype).generate(prompts, args.new_tokens)
        for kind in [Flax] * ("flax" in args.engines) + [Llama] * ("llama" in args.engines):
            party = kind(environment, checkpoint, dtype, vocab)
            theirs = party.run(prompts, args.new_tokens)["token_ids"]
            party.stop()
            equal = [next((i for i, (a, b) in enumerate(zip(x, y)) if a != b), len(x)) for x, y in zip(ours, theirs)]
            whole = sum(count == len(row) for count, row in zip(equal, ours))
            of = ", ".join(f"{count} of {len(row)}" for count, row in zip(equal, ours))
            print(f"{dtype} {party.name}: {whole} of {len(ours)} rows agree to their end ({of})")


def main():
    args = arguments()
    environment = Environment(args.cache, args.flax_python)
    if args.agree:
        return agree(args, environment)
    if args.growth and not args.checkpoint:
        args.geometry = "quarter" if args.geometry == "gemma-2b" else args.geometry
    checkpoint = args.checkpoint or environment.checkpoint(args.geometry, args.layers, args.vocab)
    name = ("growth-" if args.growth else "") + "-".join(str(part) for part in (args.geometry, args.layers, args.vocab) if part)
    out = args.out or HERE / "results" / f"{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    keep = lambda result: out.write_text(json.dumps(result, indent=1) + "\n")
    if args.growth:
        growth = Ours(args.binary, checkpoint, args.dtypes[0]).json("bench", "--growth", "--json")
        result = {"machine": machine(), "revision": revision(), "date": time.strftime("%Y-%m-%d"), **growth}
        text = "\n".join(table.growth_lines(result))
    else:
        result = contest(args, environment, checkpoint, keep)
        text = "\n".join(table.lines(result))
    keep(result)
    print(f"{json.dumps(result['machine'])}\nrevision {result['revision']}, {result['date']}; {json.dumps(result.get('versions', {}))}\n{text}")
    say(f"raw figures in {out}")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {' '.join(map(str, error.cmd[:4]))} … ended with {error.returncode}\n{error.stderr or ''}")
