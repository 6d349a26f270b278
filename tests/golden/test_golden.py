"""What each entry point composes without overrides is what the golden files hold."""

import difflib

import pytest

from golden.__main__ import ENTRY_POINTS, HERE, golden


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_the_composed_configuration_is_the_golden_one(name):
    kept = (HERE / f"{name}.yaml").read_text(encoding="utf-8")
    lines = difflib.unified_diff(
        kept.splitlines(), golden(name).splitlines(), "golden", "composed", lineterm="", n=2
    )
    if difference := "\n".join(lines):
        pytest.fail(f"{difference}\nIf this is meant: python -m tests.golden", pytrace=False)
