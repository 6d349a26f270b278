"""Disk space of fits: hand-worked bytes, the line of the plan, and the refusal."""

from dataclasses import replace

import pytest
from small_settings import tree

from rlmec.lm.memory_estimate import GIB, Need
from rlmec.pipeline import disk_plan
from rlmec.pipeline.disk_plan import check_disk, disk_line, disk_need, free_space
from rlmec.pipeline.memory_plan import PlannedStage
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.check import check

GRM = PlannedStage("grm", Need(), checkpoint=12.0 * GIB, model=4.0 * GIB)
POLICY = PlannedStage("policy", Need(), checkpoint=3.0 * GIB, model=1.0 * GIB)


@pytest.fixture
def settings(tmp_path):
    found = check(tree(paths={"artifacts": str(tmp_path / "store"), "outputs": "out"}))
    kept = replace(found.callbacks, keep_checkpoints=2)
    compared = replace(found.report, compare={"a": {"steps": 1}, "b": None})
    return replace(found, callbacks=kept, report=compared)


def test_the_need_is_that_of_the_largest_fit_and_of_all_models(settings):
    """GRM: 3 checkpoints of 12 and twice 4 of weights are 44. Models: 4, and two policies of 1."""
    assert disk_need([GRM, POLICY], settings) == 50 * GIB
    assert disk_need([POLICY], settings) == (3 * 3 + 2 * 1 + 2) * GIB
    assert disk_need([], settings) == 0


def test_the_plan_says_it(settings, monkeypatch):
    monkeypatch.setattr(disk_plan, "free_space", lambda folder: 60 * GIB)
    line = disk_line([PlannedStage("sample", Need()), GRM, POLICY], settings)
    assert "up to 50.0 GiB" in line
    assert "checkpoint of grm has 12.00 GiB" in line
    assert "60.0 GiB" in line
    assert disk_line([PlannedStage("sample", Need())], settings) == ""


def test_too_little_space_is_refused_for_what_is_still_to_be_made(settings, monkeypatch):
    monkeypatch.setattr(disk_plan, "free_space", lambda folder: 0)
    with pytest.raises(ConfigurationError, match=r"warmup, policy need up to .* lower callbacks"):
        check_disk(settings, 1, ["warmup", "policy"])
    check_disk(settings, 1, [])


def test_the_space_of_a_folder_to_come_is_that_of_its_parent(tmp_path):
    assert free_space(tmp_path / "a" / "b") == pytest.approx(free_space(tmp_path), rel=0.05)
