"""A server that runs, and what the same binary computes without one."""

import functools
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests/data/gemma-small"
NAME = "gemma-small"
START_LIMIT = 300


class Server:
    """`gemma-xla serve` on the small Gemma, in float32, on a port of its own."""

    def __init__(self, binary, *options, environment=()):
        command = [binary, "serve", "--model", MODEL, "--port", "0", "--dtype", "f32", *options]
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **dict(environment)},
        )
        self.lines = []
        self.address = threading.Event()
        self.url = None
        threading.Thread(target=self.read, daemon=True).start()
        deadline = time.monotonic() + START_LIMIT
        if not self.address.wait(START_LIMIT) or not self.wait_until_ready(deadline):
            self.process.kill()
            raise RuntimeError("the server did not start:\n" + "".join(self.lines))

    def read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            found = re.search(r"listening on (http://[\d.:]+)", line)
            if found:
                self.url = found[1]
                self.address.set()
        self.address.set()

    def wait_until_ready(self, deadline):
        while self.url and self.process.poll() is None and time.monotonic() < deadline:
            if self.health() == 200:
                return True
            time.sleep(0.1)
        return False

    def health(self):
        try:
            return urllib.request.urlopen(f"{self.url}/health", timeout=10).status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def send(self, path, body=None, headers=(), method=None):
        """Sends a request and returns status, headers and body, whatever the status."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"} if data is not None else {}
        request = urllib.request.Request(self.url + path, data, {**kind, **dict(headers)}, method=method)
        try:
            response = urllib.request.urlopen(request, timeout=120)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            return response.status, response.headers, response.read()

    def post(self, path, body, headers=()):
        """The JSON of a response with status 200."""
        status, _, answer = self.send(path, body, headers)
        assert status == 200, (status, answer)
        return json.loads(answer)

    def events(self, path, body, headers=()):
        """The data of a stream's events, as texts."""
        kind = {"Content-Type": "application/json", **dict(headers)}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), kind)
        with urllib.request.urlopen(request, timeout=120) as response:
            assert response.headers["Content-Type"].startswith("text/event-stream")
            for line in response:
                # A line that is no UTF-8 would be a split character.
                text = line.decode("utf-8").rstrip("\n").rstrip("\r")
                if text.startswith("data:"):
                    yield text[5:].removeprefix(" ")

    def end(self, how=signal.SIGTERM, limit=90):
        """Ends the server and returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


class Alone:
    """What `generate` and `score` of the same binary compute, one prompt a run."""

    def __init__(self, binary):
        self.binary = binary

    def lines(self, command, records, *options):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "input.jsonl"
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
            run = subprocess.run(
                [self.binary, command, "--model", MODEL, "--dtype", "f32", "--input", path, "--quiet", *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert run.returncode == 0, run.stderr
        return [json.loads(line) for line in run.stdout.splitlines()]

    @functools.cache
    def generate(self, prompt, *options):
        """The record of one prompt: a text, or a tuple of ids."""
        record = {"prompt": prompt} if isinstance(prompt, str) else {"token_ids": list(prompt)}
        (result,) = self.lines("generate", [record], "--batch-size", "1", *options)
        assert "error" not in result, result
        return result

    def greedy(self, prompt, tokens):
        return self.generate(prompt, "--greedy", "--max-new-tokens", str(tokens))

    def score(self, pairs):
        records = [{"context_ids": list(context), "continuation_ids": list(rest)} for context, rest in pairs]
        return self.lines("score", records)
