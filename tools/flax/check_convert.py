"""Holds `gemma-xla convert` against Flax itself, numpy and safetensors: each must load what it writes, and find the same arrays.

    python tools/flax/check_convert.py target/debug/gemma-xla tests/data/gemma-small tests/data/random-gqa …
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import reference  # sets JAX's platform before JAX is imported

import ml_dtypes
import numpy as np
import safetensors
from flax.traverse_util import flatten_dict


def flax_arrays(folder):
    """The arrays of a Flax checkpoint by slash-joined name, as Transformers' Flax model loads them."""
    params = flatten_dict(reference.load_model(folder).params, sep="/")
    return {name: np.asarray(array) for name, array in params.items()}


def npz_arrays(folder):
    """The arrays of an npz checkpoint. numpy gives bfloat16 as two bytes of no type."""
    with np.load(folder / "flax_model.npz") as file:
        return {n: file[n].view(ml_dtypes.bfloat16) if file[n].dtype.kind == "V" else file[n] for n in file.files}


def safetensors_arrays(folder):
    """The arrays of a safetensors checkpoint by Flax's names and in Flax's layouts."""
    arrays = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(path, "flax") as file:
            if (file.metadata() or {}).get("format") != "pt":
                raise SystemExit(f"{path}: no format in its metadata")
            for name in file.keys():
                array, parts = np.asarray(file.get_tensor(name)), name.split(".")
                if parts[-1] == "weight" and "norm" not in parts[-2]:
                    parts[-1] = "embedding" if parts[-2] == "embed_tokens" else "kernel"
                    array = array.T if parts[-1] == "kernel" else array
                arrays["/".join(parts)] = array
    return arrays


def differences(expected, found):
    """A line for each way in which two sets of arrays differ, in names, dtypes, shapes or bytes."""
    for name in sorted(expected.keys() | found.keys()):
        a, b = expected.get(name), found.get(name)
        if a is None or b is None:
            yield f"{name}: {'missing' if b is None else 'left over'}"
        elif (a.dtype, a.shape) != (b.dtype, b.shape):
            yield f"{name}: {b.dtype} {b.shape}, expected {a.dtype} {a.shape}"
        elif a.tobytes() != b.tobytes():
            yield f"{name}: other bytes"


FORMS = [
    ("msgpack", [], flax_arrays),
    ("msgpack", ["--max-shard-size", "60KB"], flax_arrays),
    ("npz", [], npz_arrays),
    ("safetensors", [], safetensors_arrays),
    ("safetensors", ["--max-shard-size", "60KB"], safetensors_arrays),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    args = parser.parse_args()
    failures = 0
    for model in args.models:
        expected = flax_arrays(model)
        for form, options, read in FORMS:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out"
                subprocess.run([args.binary, "convert", model, out, "--to", form, *options], check=True, stderr=subprocess.DEVNULL)
                wrong = list(differences(expected, read(out)))
            failures += len(wrong)
            print(f"{model.name}: {form} {' '.join(options)}: {'the same' if not wrong else 'DIFFERS'}")
            for line in wrong:
                print(f"  {line}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
