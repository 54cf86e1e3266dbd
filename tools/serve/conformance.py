#!/usr/bin/env python3
"""Holds what `gemma-xla serve` answers to real clients: openai, litellm, langchain-openai and
lm-evaluation-harness.

    python3.12 -m venv .venv && .venv/bin/pip install -r tools/serve/requirements.txt
    .venv/bin/python tools/serve/conformance.py --binary target/release/gemma-xla

Further arguments are pytest's: `-k stream`, `-x`. Nothing is fetched; the CPU plugin must be
installed.
"""

import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    sys.exit(pytest.main([str(here), "-q", "-p", "no:cacheprovider", "-W", "ignore", *sys.argv[1:]]))
