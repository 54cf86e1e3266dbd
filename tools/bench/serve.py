#!/usr/bin/env python3
"""Drives a running server and reports what its clients see.

    gemma-xla serve --model DIR --rows 8 &
    tools/bench/serve.py --url http://127.0.0.1:8000 --streams 8 --tokens 64

First one stream runs alone, several times; then so many streams run side by side, in the same run,
so that both see the same machine. With --arrive, a prompt of that many tokens arrives every second
while the streams run. Times are those of the client: from the request's first byte to each event.
Only Python's standard library is used.
"""

import argparse
import json
import random
import statistics
import threading
import time
import urllib.request


def stream(url, ids, tokens, times, seed=None):
    """Runs one stream; `times` gets the moments of its start and of each token."""
    body = {
        "prompt": ids,
        "max_tokens": tokens,
        "stream": True,
        "ignore_eos": True,
        "temperature": 0,
    }
    if seed is not None:
        body.update(temperature=1.0, seed=seed)
    request = urllib.request.Request(
        url + "/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    times.append(time.perf_counter())
    with urllib.request.urlopen(request) as response:
        for line in response:
            if not line.startswith(b"data: "):
                continue
            data = line[6:].strip()
            if data == b"[DONE]":
                return
            event = json.loads(data)
            if "error" in event:
                raise SystemExit(f"error: {event['error']['message']}")
            times.append(time.perf_counter())


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def summary(name, runs, wall):
    firsts = [run[1] - run[0] for run in runs]
    gaps = [b - a for run in runs for a, b in zip(run[1:], run[2:])]
    tokens = sum(len(run) - 1 for run in runs)
    result = {
        "name": name,
        "streams": len(runs),
        "events": tokens,
        "tokens_per_s": tokens / wall,
        "first_token_s": {"p50": statistics.median(firsts), "p99": quantile(firsts, 0.99)},
        "gap_s": {
            "p50": statistics.median(gaps),
            "p90": quantile(gaps, 0.9),
            "p99": quantile(gaps, 0.99),
            "max": max(gaps),
        },
    }
    print(
        f"{name:>10}: {result['tokens_per_s']:8.2f} tokens/s,"
        f" first token {result['first_token_s']['p50'] * 1e3:8.1f} ms,"
        f" gap p50 {result['gap_s']['p50'] * 1e3:7.2f} ms"
        f" p99 {result['gap_s']['p99'] * 1e3:7.2f} ms",
        flush=True,
    )
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3, help="runs of one stream alone")
    parser.add_argument("--arrive", type=int, default=0, help="tokens of prompts that arrive")
    parser.add_argument("--vocabulary", type=int, default=1000, help="ids are drawn below this")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    draw = random.Random(1)

    def prompt(length):
        return [2] + [draw.randrange(3, args.vocabulary) for _ in range(length - 1)]

    stream(args.url, prompt(args.prompt_tokens), 4, [])  # the first request of all
    alone, wall = [], 0.0
    for _ in range(args.repeat):
        times = []
        began = time.perf_counter()
        stream(args.url, prompt(args.prompt_tokens), args.tokens, times)
        wall += time.perf_counter() - began
        alone.append(times)
    results = [summary("alone", alone, wall)]

    def together(name, arrive):
        runs = [[] for _ in range(args.streams)]
        threads = [
            threading.Thread(
                target=stream,
                args=(args.url, prompt(args.prompt_tokens), args.tokens, times),
            )
            for times in runs
        ]
        stop = threading.Event()

        def arrivals():
            while not stop.wait(1.0):
                stream(args.url, prompt(arrive), 1, [])

        began = time.perf_counter()
        for thread in threads:
            thread.start()
        arriving = threading.Thread(target=arrivals)
        if arrive:
            arriving.start()
        for thread in threads:
            thread.join()
        wall = time.perf_counter() - began
        stop.set()
        if arrive:
            arriving.join()
        return summary(name, runs, wall)

    results.append(together(f"{args.streams} streams", 0))
    if args.arrive:
        results.append(together("arrivals", args.arrive))
    ratio = results[1]["tokens_per_s"] / results[0]["tokens_per_s"]
    gap = results[1]["gap_s"]["p50"] / results[0]["gap_s"]["p50"]
    print(f"{args.streams} streams: {ratio:.2f} times the tokens a second, gap {gap:.2f} times")
    if args.json:
        print(json.dumps({"results": results, "throughput_ratio": ratio, "gap_ratio": gap}))


if __name__ == "__main__":
    main()
