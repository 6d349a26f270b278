"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
BROAD = {
    # seconds of work for one subject: make check leaves them out, make test runs them
    "ablations/test_labels",
    "answers/test_math_verifier",
    "benchmarks/test_benchmarks",
    "docs/test_method_page",
    "engines/test_sampling_engine",
    "export/test_export",
    "export/test_library",
    "lm/test_draft_decoding",
    "lm/test_generation",
    "lm/test_half_precision",
    "lm/test_lora",
    "lm/test_token_spans",
    "pipeline/test_chain",
    "pipeline/test_content",
    "pipeline/test_import_solutions",
    "pipeline/test_moved",
    "pipeline/test_run_logs",
    "report/test_figures",
    "runtime/test_ranks",
    "runtime/test_signals",
    "settings/test_check",
    "settings/test_conf",
    "settings/test_methods",
    "settings/test_own_files",
    "settings/test_security",
    "settings/test_wrong_values",
    "stages/test_flow",
    "stages/test_rounds",
    "stages/test_teach",
    "tasks/test_arithmetic",
    "tasks/test_own_task",
    "teachers/test_endpoint_teacher",
    "teachers/test_local_teacher",
    "training/test_callbacks",
    "training/test_predict_parts",
    "training/test_resume",
    "training/test_strategies",
    "training/test_training_step",
    "walks/test_readme",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the broad files, and put long tests first.

    A long test at the end would leave the other workers with nothing to do.
    """
    for item in items:
        if item.path.relative_to(TESTS).with_suffix("").as_posix() in BROAD:
            item.add_marker(pytest.mark.broad)
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
