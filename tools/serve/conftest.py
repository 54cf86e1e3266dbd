"""What the tests share."""

import shutil
from pathlib import Path

import openai
import pytest
import transformers

from running import MODEL, Alone, Server


def pytest_addoption(parser):
    parser.addoption("--binary", required=True, help="gemma-xla, built")


@pytest.fixture(scope="session")
def binary(request):
    named = request.config.getoption("--binary")
    found = shutil.which(named)
    assert found, f"{named} is no program"
    return Path(found).resolve()


@pytest.fixture(scope="session")
def server(binary):
    server = Server(binary, "--rows", "8")
    yield server
    assert server.end() == 0, "".join(server.lines)


@pytest.fixture(scope="session")
def alone(binary):
    return Alone(binary)


@pytest.fixture(scope="session")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="session")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120)
