#!/usr/bin/env python3
"""Holds what `gemma-xla generate` wrote against the reference of DeepMind's library.

    compare.py --prompts REFERENCE.json
    compare.py REFERENCE.json RESULTS.jsonl

The first writes the prompts as JSON lines of token ids, for `generate --input`. The second prints a
table, with exit status 1 where a row differs.

Where a row differs, the table has the step and the reference's margin there. Needs Python alone.
"""

import json
import pathlib
import sys


def first_difference(ours, theirs):
    """The first step at which two token lists differ, or None."""
    for step, (one, other) in enumerate(zip(ours, theirs)):
        if one != other:
            return step
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs))


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    if sys.argv[1] == "--prompts":
        for index, prompt in enumerate(json.loads(pathlib.Path(sys.argv[2]).read_text())["prompts"]):
            print(json.dumps({"id": index, "token_ids": prompt["token_ids"]}))
        return 0
    prompts = json.loads(pathlib.Path(sys.argv[1]).read_text())["prompts"]
    results = [json.loads(line) for line in pathlib.Path(sys.argv[2]).read_text().splitlines()]
    if len(results) != len(prompts):
        sys.exit(f"error: {sys.argv[2]}: {len(results)} results for {len(prompts)} prompts")
    print("| prompt | tokens | new | equal | least margin | the text |\n| --- | --- | --- | --- | --- | --- |")
    differ = 0
    for prompt, result in zip(prompts, results):
        theirs = prompt["new_token_ids"]
        step = first_difference(result["token_ids"], theirs)
        differ += step is not None
        said = "all" if step is None else f"{step}; margin there {prompt['margins'][min(step, len(theirs) - 1)]}"
        start = json.dumps(prompt["text"][:28], ensure_ascii=False)
        text = json.dumps((result.get("text") or "")[:60], ensure_ascii=False)
        print(f"| {start} | {len(prompt['token_ids'])} | {len(result['token_ids'])} | {said} | {min(prompt['margins'])} | {text} |")
    print(f"\n{len(prompts) - differ} of {len(prompts)} rows equal DeepMind's, token for token")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
