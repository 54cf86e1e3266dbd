"""lm-evaluation-harness against the server, on tasks of its own."""

import json
import os
import subprocess
import sys

import pytest

from running import MODEL, NAME

TASKS = {
    "choice": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: " "
metric_list:
  - metric: acc
""",
    "reply": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs:
  until: ["\\n\\n", ".", "!", "?", ";", "<eos>"]
  max_gen_toks: 16
  do_sample: false
  temperature: 0
metric_list:
  - metric: exact_match
""",
    "rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} {{choices[0]}}"
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
""",
}
DOCUMENTS = [
    ("It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a",
     ["wife", "carriage", "house of his own", "horse"]),
    ('"My dear Jane," said Elizabeth, "you are too', ["good", "late for the ball", "well"]),
    ("She was not to be", ["sure of her own", "persuaded", "a man"]),
    ("Mr. Darcy had been", ["so long", "in the room", "the the the"]),
    ("In the evening, when the ladies returned to the drawing-room, they", ["were", "all talked at once", "日本"]),
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    lines = [json.dumps({"question": q, "choices": choices, "answer": 0}) for q, choices in DOCUMENTS]
    (folder / "documents.jsonl").write_text("\n".join(lines) + "\n")
    for name, text in TASKS.items():
        head = f"task: house_{name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder}/documents.jsonl\n"
        (folder / f"{name}.yaml").write_text(f"{head}test_split: test\n{text.lstrip()}metadata:\n  version: 1\n")
    return folder


def run(server, tasks, task, output, batch_size=1, **arguments):
    """Runs a task and returns its samples in the order of the documents."""
    given = {
        "model": NAME,
        "base_url": f"{server.url}/v1/completions",
        "tokenizer": MODEL,
        "max_length": 512,
        "max_retries": 1,
        **arguments,
    }
    command = [sys.executable, "-m", "lm_eval", "--model", "local-completions", "--include_path", tasks]
    command += ["--model_args", ",".join(f"{name}={value}" for name, value in given.items())]
    command += ["--tasks", f"house_{task}", "--output_path", output, "--log_samples", "--batch_size", batch_size]
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tasks / "home"),
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    (path,) = output.rglob(f"samples_house_{task}_*.jsonl")
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(samples, key=lambda sample: sample["doc_id"])


@pytest.mark.parametrize("how", [{"num_concurrent": 1, "batch_size": 8}, {"num_concurrent": 8}, {}], ids=["batch", "at once", "one"])
def test_multiple_choice_has_the_scores_of_score(server, alone, tokenizer, tasks, tmp_path, how):
    samples = run(server, tasks, "choice", tmp_path, add_bos_token=True, **how)
    assert len(samples) == len(DOCUMENTS)
    pairs = []
    for question, choices in DOCUMENTS:
        context = tokenizer(question).input_ids
        assert context[0] == tokenizer.bos_token_id
        pairs += [(context, tokenizer(f"{question} {choice}").input_ids[len(context) :]) for choice in choices]
    expected = alone.score(pairs)
    given = [response[0] for sample in samples for response in sample["resps"]]
    for (value, is_greedy), line in zip(given, expected, strict=True):
        assert float(value) == pytest.approx(line["logprob"], abs=1e-4 * len(line["token_logprobs"]))
        assert (str(is_greedy) == "True") == line["is_greedy"]


def test_rolling_perplexity_has_the_scores_of_score(server, alone, tokenizer, tasks, tmp_path):
    # <bos> is put in by the harness: add_bos_token would put in a second one.
    samples = run(server, tasks, "rolling", tmp_path, num_concurrent=4)
    texts = [f"{question} {choices[0]}" for question, choices in DOCUMENTS]
    rows = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    expected = alone.score([([tokenizer.bos_token_id], row) for row in rows])
    for sample, line in zip(samples, expected, strict=True):
        value = sample["resps"][0][0]
        value = float(value[0] if isinstance(value, list) else value)
        assert value == pytest.approx(line["logprob"], abs=1e-4 * len(line["token_logprobs"]))


def test_replies_are_those_of_generate(server, alone, tasks, tmp_path):
    samples = run(server, tasks, "reply", tmp_path, add_bos_token=True, num_concurrent=8)
    for sample, (question, _) in zip(samples, DOCUMENTS, strict=True):
        text = alone.greedy(question, 16)["text"]
        ends = [text.index(stop) for stop in ["\n\n", ".", "!", "?", ";"] if stop in text]
        assert sample["resps"][0][0].rstrip() == text[: min(ends, default=len(text))].rstrip()
