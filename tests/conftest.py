"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: one at the end would leave the other workers with nothing to do."""
    items.sort(key=lambda item: "slow" not in item.keywords)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of public data sets that the environment variable RLMEC_DATA names."""
    named = os.environ.get("RLMEC_DATA")
    if not named:
        pytest.skip("RLMEC_DATA names no folder with the public data sets")
    folder = Path(named)
    if not folder.is_dir():
        pytest.fail(f"RLMEC_DATA is {named!r}, which is no folder")
    return folder
