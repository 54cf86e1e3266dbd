"""The programs that are measured, behind one face: `measure(batch, prompt_tokens, new_tokens)` gives the times of one run."""

import json
import os
import statistics
import subprocess
import tempfile
import time

from environment import HERE

DTYPE_NAMES = {"bf16": "bfloat16", "f32": "float32"}


def random_prompts(batch, tokens, vocab_size):
    """The prompts that `gemma-xla bench` makes: the upper bits of Knuth's MMIX congruential generator, from 1."""
    state, prompts = 1, []
    for _ in range(batch):
        prompt = []
        for _ in range(tokens):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            prompt.append((state >> 33) % vocab_size)
        prompts.append(prompt)
    return prompts


class Failed(Exception):
    """An engine could not run what it was asked to."""


def goes_first():
    """Where memory ends, the engine is what the system ends, and nothing else on the machine."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


class Worker:
    """A process that loads once and answers a line with a line."""

    def __init__(self, command, vocab_size, environment=None):
        self.vocab_size = vocab_size
        self.command = [str(part) for part in command]
        self.environment = {**os.environ, **(environment or {})}
        self.process = None
        self.about = None

    def start(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(self.command, env=self.environment, preexec_fn=goes_first, **pipes)
        self.about = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.process = None
            raise Failed("killed: out of memory" if status == -9 else f"ended with status {status}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def run(self, prompts, new_tokens):
        if self.process is None:
            self.start()
        try:
            self.process.stdin.write(json.dumps({"prompts": prompts, "new_tokens": new_tokens}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            """It has ended: the answer says how."""
        return self.answer()

    def stop(self):
        """Ends the process; it starts again when it is asked something."""
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()
            self.process = None

    def warm(self, batch, prompt_tokens, new_tokens):
        """A run that does not count."""
        self.run(random_prompts(batch, prompt_tokens, self.vocab_size), new_tokens)


class Flax(Worker):
    """Jitted Transformers' Flax Gemma; its better way to run a prompt counts."""

    name = "Flax"

    def __init__(self, environment, checkpoint, dtype, vocab_size):
        command = [environment.flax_python(), HERE / "flax_worker.py", checkpoint, DTYPE_NAMES[dtype]]
        # Compiled programs are kept: compiling is not what is measured.
        kept = {"JAX_COMPILATION_CACHE_DIR": str(environment.cache / "jax")}
        super().__init__(command, vocab_size, kept)

    def measure(self, batch, prompt_tokens, new_tokens):
        found = self.run(random_prompts(batch, prompt_tokens, self.vocab_size), new_tokens)
        prefill = min(found["prefill_s"], found["prefill_generate_s"])
        return {"prefill_s": prefill, "step_s": found["step_s"], "prefill_generate_s": found["prefill_generate_s"]}


class Llama(Worker):
    """llama.cpp."""

    name = "llama.cpp"

    def __init__(self, environment, checkpoint, dtype, vocab_size):
        file = environment.gguf(checkpoint, dtype)
        keys = "f16" if dtype == "bf16" else "f32"
        super().__init__(["node", HERE / "llama_worker.mjs", environment.node_modules(), file, keys], vocab_size)

    def measure(self, batch, prompt_tokens, new_tokens):
        found = self.run(random_prompts(batch, prompt_tokens, self.vocab_size), new_tokens)
        steps = found["steps_s"]
        return {"prefill_s": found["prefill_s"], "step_s": statistics.median(steps), "fastest_step_s": min(steps)}


class Ours:
    """gemma-xla, a process a run."""

    name = "gemma-xla"

    def __init__(self, binary, checkpoint, dtype):
        self.binary, self.checkpoint, self.dtype = binary, checkpoint, dtype

    def command(self, *words):
        return [str(part) for part in (self.binary, *words, "--model", self.checkpoint, "--dtype", self.dtype)]

    def warm(self, batch, prompt_tokens, new_tokens):
        """bench warms up by itself."""

    def measure(self, batch, prompt_tokens, new_tokens):
        sizes = {"--batch-size": batch, "--prompt-tokens": prompt_tokens, "--max-new-tokens": new_tokens, "--repeat": 1}
        words = [str(word) for pair in sizes.items() for word in pair]
        found = self.json("bench", "--json", *words)
        return {"step_s": found["decode_step_s"], **found}

    def json(self, *words):
        run = subprocess.run(self.command(*words), stdout=subprocess.PIPE, text=True, preexec_fn=goes_first)
        if run.returncode != 0:
            raise Failed(f"ended with status {run.returncode}")
        found = json.loads(run.stdout)
        # The folder's name says nothing to others.
        found.pop("model", None)
        return found

    def plugin(self):
        """The CPU plugin's package and version."""
        listed = subprocess.run([str(self.binary), "plugin", "list"], check=True, stdout=subprocess.PIPE, text=True).stdout
        return next((line.split()[1:3] for line in listed.splitlines() if line.split()[:1] == ["cpu"]), None)

    def generate(self, prompts, new_tokens):
        """Greedy tokens of each prompt, up to an end of sequence."""
        lines = "".join(json.dumps({"token_ids": prompt}) + "\n" for prompt in prompts)
        words = ["generate", "--input", "-", "--input-format", "jsonl", "--max-new-tokens", str(new_tokens)]
        run = subprocess.run(self.command(*words), check=True, input=lines, stdout=subprocess.PIPE, text=True)
        return [json.loads(line)["token_ids"] for line in run.stdout.splitlines()]

    def starts(self, prompt, count=2):
        """Starts `generate` for one token again and again with a compile cache of its own: seconds from start to end of each process, and its
        last line on standard error, which says how long loading took."""
        found = []
        line = json.dumps({"token_ids": prompt}) + "\n"
        words = ["generate", "--input", "-", "--input-format", "jsonl", "--max-new-tokens", "1"]
        with tempfile.TemporaryDirectory() as cache:
            for _ in range(count):
                begin = time.monotonic()
                options = {"input": line, "capture_output": True, "text": True, "check": True}
                run = subprocess.run(self.command(*words), env={**os.environ, "GEMMA_XLA_CACHE": cache}, **options)
                found.append({"process_s": time.monotonic() - begin, "said": run.stderr.strip().splitlines()[-1]})
        return found

    def stop(self):
        """Nothing stays."""
