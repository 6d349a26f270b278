"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


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
