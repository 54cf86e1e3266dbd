"""What the benchmark needs and the repository does not hold: checkpoints, Flax, llama.cpp. All of it goes to a cache folder."""

import os
import pathlib
import platform
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
# The Node.js binding of llama.cpp whose prebuilt library for Linux on x86-64 is taken, and the package that writes its files.
NODE_LLAMA_CPP = "3.22.1"
GGUF = "0.19.0"


def say(text):
    print(f"== {text}", file=sys.stderr, flush=True)


def call(*command, **options):
    subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr, **options)


class Environment:
    def __init__(self, cache, flax_python=None):
        self.cache = cache
        self.given_flax_python = flax_python
        cache.mkdir(parents=True, exist_ok=True)

    def venv(self, name, python, *install):
        """The interpreter of a virtual environment with these pip arguments installed, made where it is not there."""
        folder = self.cache / name
        interpreter = folder / "bin" / "python"
        if not interpreter.exists():
            say(f"installing {name}")
            unfinished = self.cache / f"{name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            call(python, "-m", "venv", unfinished)
            call(unfinished / "bin" / "python", "-m", "pip", "install", "-q", *install)
            unfinished.rename(folder)
        return interpreter

    def flax_python(self):
        if self.given_flax_python:
            return self.given_flax_python
        return self.venv("flax", "python3.11", "-r", REPOSITORY / "tools/flax/requirements.txt")

    def gguf_python(self):
        return self.venv(f"gguf-{GGUF}", sys.executable, f"gguf=={GGUF}", "numpy")

    def node_modules(self):
        folder = self.cache / f"node-llama-cpp-{NODE_LLAMA_CPP}"
        if not folder.exists():
            say(f"installing node-llama-cpp {NODE_LLAMA_CPP}")
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            (unfinished / "package.json").write_text('{"private": true}\n')
            # Without its scripts, which would look for a compiler; with the one prebuilt library that is used.
            packages = [f"{name}@{NODE_LLAMA_CPP}" for name in ("node-llama-cpp", "@node-llama-cpp/linux-x64")]
            options = ["--ignore-scripts", "--no-audit", "--no-fund", "--omit=optional"]
            for package in packages:
                call("npm", "install", *options, package, cwd=unfinished)
            unfinished.rename(folder)
        return folder / "node_modules"

    def checkpoint(self, geometry, layers, vocab):
        """A folder with a random bfloat16 checkpoint."""
        parts = [geometry, layers and f"{layers}layers", vocab and f"vocab{vocab}"]
        folder = self.cache / "-".join(str(part) for part in parts if part)
        if not (folder / "done").exists():
            say(f"writing {folder.name}")
            options = [*(("--layers", layers) if layers else ()), *(("--vocab", vocab) if vocab else ())]
            script = REPOSITORY / "tools/random_checkpoint.py"
            call(self.gguf_python(), script, folder, "--geometry", geometry, *options)
            (folder / "done").touch()
        return folder

    def gguf(self, checkpoint, dtype="bf16"):
        """The GGUF file of a checkpoint. Its name has the checkpoint's time in it, so that another one gets another file."""
        stamp = int((checkpoint / "flax_model.msgpack").stat().st_mtime)
        file = self.cache / f"{checkpoint.name}-{stamp}-{dtype}.gguf"
        if not file.exists():
            unfinished = file.with_suffix(".unfinished")
            call(self.gguf_python(), HERE / "write_gguf.py", checkpoint, unfinished, "--dtype", dtype)
            unfinished.rename(file)
        return file


def read_through(path):
    """Reads a file, so that it is in the page cache."""
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def memory_available():
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def machine():
    """What the figures were taken on."""
    facts = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    fact = lambda name: next((line.split(":", 1)[1].strip() for line in facts if line.startswith(name)), "unknown")
    flags = set(fact("flags").split())
    known = ["avx2", "avx512f", "avx512_bf16", "amx_bf16"]
    total = next(l for l in pathlib.Path("/proc/meminfo").read_text().splitlines() if l.startswith("MemTotal:"))
    return {
        "processor": f"{fact('model name')} (family {fact('cpu family')}, model {fact('model')})",
        "instructions": [flag for flag in known if flag in flags],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(total.split()[1]) / 2**20, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def revision():
    """The repository's commit, with a mark where files differ from it; unknown outside of a repository."""
    git = lambda *words: subprocess.run(["git", "-C", REPOSITORY, *words], capture_output=True, text=True)
    commit = git("rev-parse", "--short=12", "HEAD")
    if commit.returncode != 0:
        return "unknown"
    changed = git("status", "--porcelain", "--untracked-files=no").stdout.strip()
    return commit.stdout.strip() + ("-changed" if changed else "")
