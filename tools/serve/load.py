#!/usr/bin/env python3
"""Many connections and requests against a server of its own, and what is left afterwards.

    tools/serve/load.py --binary target/release/gemma-xla --connections 256 --requests 10000

Each request must end in a whole answer or in a documented refusal (429 with Retry-After). One in
ten is abandoned by its client while it runs. At the end no row and no program may be left over, the
usage must add up to the tokens that the server counted, and its resident memory must be flat: its
mean over the last fifth of the run is compared with that over the second fifth. Only Python's
standard library is used; exit status 1 where something does not hold.
"""

import argparse
import http.client
import json
import os
import random
import re
import subprocess
import sys
import threading
import time

FOLDER = os.path.join(os.path.dirname(__file__), "..", "..")


class Counts:
    """What all connections count together."""

    def __init__(self, requests):
        self.lock = threading.Lock()
        self.left = requests
        self.answers = self.refusals = self.abandoned = self.tokens = 0
        self.problems = []

    def take(self):
        with self.lock:
            self.left -= 1
            return self.left >= 0

    def add(self, **what):
        with self.lock:
            for name, count in what.items():
                setattr(self, name, getattr(self, name) + count)

    def problem(self, text):
        with self.lock:
            self.problems.append(text)


def client(port, seed, counts):
    draw = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    while counts.take():
        wanted = draw.randint(1, 24)
        body = {
            "prompt": [2] + [draw.randrange(3, 900) for _ in range(draw.randint(1, 60))],
            "max_tokens": wanted,
            "seed": draw.randrange(1 << 30),
            "temperature": draw.choice([0, 0.7, 1.0]),
        }
        if draw.random() < 0.2:
            body["logprobs"] = 3
        streams = draw.random() < 0.5
        leaves = draw.random() < 0.1
        if streams:
            body.update(stream=True, stream_options={"include_usage": True})
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/completions", json.dumps(body), headers)
            if leaves:
                time.sleep(draw.random() * 0.2)
                connection.close()
                counts.add(abandoned=1)
                continue
            response = connection.getresponse()
            text = response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            counts.problem(f"{type(error).__name__}: {error}")
            connection.close()
            continue
        if response.status == 429:
            if not response.headers.get("Retry-After"):
                counts.problem("429 without Retry-After")
            counts.add(refusals=1)
            time.sleep(draw.random())
            continue
        if response.status != 200:
            counts.problem(f"{response.status}: {text[:200]}")
            continue
        if streams:
            events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
            if events[-1:] != ["[DONE]"]:
                counts.problem(f"a stream without its end: {text[-200:]}")
                continue
            answer = json.loads(events[-2])
        else:
            answer = json.loads(text)
        told = answer["usage"]
        if not 1 <= told["completion_tokens"] <= wanted:
            counts.problem(f"{told} of {wanted} tokens")
        if told["prompt_tokens"] != len(body["prompt"]):
            counts.problem(f"{told} after {len(body['prompt'])} tokens")
        counts.add(answers=1, tokens=told["completion_tokens"])
    connection.close()


def metric(port, name):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    found = re.search(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    return float(found.group(1))


def resident(pid):
    """The resident memory of a process, in MB."""
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read()).group(1)) / 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", default=os.path.join(FOLDER, "target/release/gemma-xla"))
    parser.add_argument("--model", default=os.path.join(FOLDER, "tests/data/gemma-small"))
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--rows", type=int, default=16)
    args = parser.parse_args()
    command = [args.binary, "serve", "--model", args.model, "--port", "0", "--dtype", "f32"]
    command += ["--rows", str(args.rows), "--max-length", "128", "--log-format", "json"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    port = None
    for line in server.stderr:
        found = re.search(r"listening on http://[^:]+:(\d+)", line)
        port = port or (found and int(found.group(1)))
        if "ready after" in line:
            break
    threading.Thread(target=lambda: [None for _ in server.stderr], daemon=True).start()
    programs = metric(port, "gemma_xla:programs")
    counts = Counts(args.requests)
    began = time.time()
    threads = [
        threading.Thread(target=client, args=(port, seed, counts))
        for seed in range(args.connections)
    ]
    for thread in threads:
        thread.start()
    memory = []
    while any(thread.is_alive() for thread in threads):
        memory.append((args.requests - max(counts.left, 0), resident(server.pid)))
        time.sleep(0.5)
    took = time.time() - began
    names = ["vllm:num_requests_running", "vllm:num_requests_waiting"]
    for _ in range(600):
        if sum(metric(port, name) for name in names) == 0:
            break
        time.sleep(0.1)
    else:
        counts.problem("a row is left over")
    if metric(port, "gemma_xla:programs") != programs:
        counts.problem("a program was compiled while requests ran")
    counted = metric(port, "vllm:generation_tokens_total")
    if counted < counts.tokens or (not counts.abandoned and counted != counts.tokens):
        counts.problem(f"{counts.tokens} tokens of usage, {counted} made")

    def mean(low, high):
        part = [mb for done, mb in memory if low <= done / args.requests <= high]
        return sum(part) / max(len(part), 1)

    early, late = mean(0.2, 0.4), mean(0.8, 1.0)
    if late > early * 1.05:
        counts.problem(f"resident memory grew from {early:.0f} to {late:.0f} MB")
    server.terminate()
    if server.wait() != 0:
        counts.problem(f"the server ended with {server.returncode}")
    print(
        f"{args.requests} requests over {args.connections} connections in {took:.0f} s: "
        f"{counts.answers} answers, {counts.refusals} refused with 429, "
        f"{counts.abandoned} abandoned, {counts.tokens} tokens; "
        f"resident memory {early:.0f} MB, later {late:.0f} MB; {len(counts.problems)} problems"
    )
    for problem in counts.problems[:20]:
        print(f"problem: {problem}", file=sys.stderr)
    sys.exit(1 if counts.problems else 0)


if __name__ == "__main__":
    main()
