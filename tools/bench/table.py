"""The table of a run."""

import statistics

HEAD = f"{'dtype':<6}{'batch':>5}{'prompt':>7}  {'':<10}{'step ms':>9}{'tokens/s':>10}{'prefill ms':>12}   ours against it: decode, prefill"


def median(runs, name):
    values = [run[name] for run in runs if run.get(name) is not None]
    return statistics.median(values) if values else None


def rows(result):
    """Each configuration's medians: (configuration, {engine: (step, prefill)})."""
    for case in result["cases"]:
        found = {name: (median(runs, "step_s"), median(runs, "prefill_s")) for name, runs in case["runs"].items() if runs}
        yield case, found


def lines(result):
    yield HEAD
    for case, found in rows(result):
        ours = found.get("gemma-xla")
        for name, (step, prefill) in found.items():
            head = f"{case['dtype']:<6}{case['batch']:>5}{case['prompt_tokens']:>7}" if name == next(iter(found)) else " " * 18
            against = ""
            if ours and name != "gemma-xla":
                against = f"{step / ours[0]:>12.2f} x{prefill / ours[1]:>8.2f} x"
            else:
                ratios = [run["decode_bandwidth_ratio"] for run in case["runs"]["gemma-xla"]] if ours else []
                against = f"   {statistics.median(ratios):.2f} of read bandwidth" if ratios else ""
            speed = case["batch"] / step
            yield f"{head}  {name:<10}{step * 1e3:>9.1f}{speed:>10.1f}{prefill * 1e3:>12.0f}{against}"
        for name, failure in case.get("failed", {}).items():
            yield f"{'':<20}{name:<10} {failure}"
    yield from growth_of_batches(result)
    yield from facts(result)


def growth_of_batches(result):
    """A step of the largest batch against one of batch 1."""
    steps = {}
    for case, found in rows(result):
        for name, (step, _) in found.items():
            steps[case["dtype"], case["prompt_tokens"], name, case["batch"]] = step
    for (dtype, prompt, name, batch), step in steps.items():
        single = steps.get((dtype, prompt, name, 1))
        if name == "gemma-xla" and batch != 1 and single:
            yield f"{dtype}, prompt {prompt}: a step of batch {batch} takes {step / single:.2f} times one of batch 1"


def facts(result):
    """Load, memory and start."""
    for case in result["cases"]:
        runs = case["runs"].get("gemma-xla")
        if not runs or case["batch"] != 1:
            continue
        size = runs[0]["parameter_bytes"]
        peak, loaded = (median(runs, name) for name in ("peak_rss_bytes", "load_peak_rss_bytes"))
        yield (
            f"{case['dtype']}, prompt {case['prompt_tokens']}: {size / 1e9:.2f} GB load at {median(runs, 'load_gbs'):.2f} GB/s; peak memory "
            f"{peak / size:.2f} times that, {loaded / size:.2f} times after loading; "
            f"programs {median(runs, 'compile_s'):.2f} s, again {median(runs, 'compile_cached_s'):.2f} s"
        )
    for dtype, starts in result.get("starts", {}).items():
        for number, start in enumerate(starts, 1):
            yield f"{dtype}, start {number}: {start['process_s']:.2f} s from start to end for one token ({start['said']})"


def growth_lines(growth):
    yield f"{'batch':>5}{'prompt':>8}{'step ms':>11}{'GB/s':>8}{'prefill s':>11}"
    for point in growth["contexts"] + growth["batches"]:
        yield (
            f"{point['batch_size']:>5}{point['prompt_tokens']:>8}{point['decode_step_s'] * 1e3:>11.3f}"
            f"{point['decode_bandwidth_gbs']:>8.1f}{point['prefill_s']:>11.3f}"
        )
    steps = growth["steps"]
    halves = steps["first_half_step_s"], steps["second_half_step_s"]
    yield f"{steps['steps']} steps: {halves[0] * 1e3:.3f} ms a step in the first half, {halves[1] * 1e3:.3f} ms in the second"
