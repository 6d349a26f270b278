"""Disk space of fits: hand-worked bytes, the line of the plan, and the refusal."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from small_pairs import PROMPT, pair
from small_settings import tree

from rlmec.data.policy_rows import pair_rows, problem_rows, separate_rows
from rlmec.data.row_file import _written
from rlmec.lm.memory_estimate import GIB, Need
from rlmec.pipeline import disk_plan
from rlmec.pipeline.disk_plan import (
    Examples,
    check_disk,
    disk_line,
    disk_need,
    free_space,
    row_files,
)
from rlmec.pipeline.memory_plan import PlannedStage, PromptLengths
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


PROMPTS = PromptLengths(policy=50, rewrite=120, reference=40)


def with_lengths(settings, tokens, **grm):
    """The settings with completions of at most so many tokens."""
    sample, score = (
        replace(node, max_completion_length=tokens) for node in (settings.sample, settings.score)
    )
    return replace(settings, sample=sample, score=score, grm=replace(settings.grm, **grm))


def test_the_bytes_of_training_rows_by_hand(settings):
    """256 per row, 4 per id, 20 per scored token. Warm-up: 90 ids, 40 of them scored. GRM: 140 and
    20, and a quarter of a row of 1000 and 32. Policy: twice 60 and 10."""
    mixture = replace(settings.grm.mixture, locate=0.25)
    ten = with_lengths(settings, 10, max_length=1000, mixture=mixture, rows_together=1)
    warmup = 256 + 4 * 90 + 20 * 40
    grm = 256 + 4 * 140 + 20 * 20 + (256 + 4 * 1000 + 20 * 32) // 4
    policy = 2 * (256 + 4 * 60 + 20 * 10)
    found = row_files(ten, 1, Examples(learned=7, attempts=30), PROMPTS)
    assert found == {"warmup": 7 * warmup, "grm": 30 * grm, "policy": 30 * policy}

    # Every rank has its files. A GRM whose rows share their prompts has two files meanwhile.
    shared = replace(ten, grm=replace(ten.grm, rows_together=4))
    twice = row_files(shared, 2, Examples(7, 30), PROMPTS)
    assert twice == {name: (4 if name == "grm" else 2) * most for name, most in found.items()}

    # Of unknown prompts every token may be scored, and imported attempts may have any length.
    imported = replace(ten, sample=replace(ten.sample, path="attempts.jsonl"))
    length = settings.policy.max_length
    assert row_files(ten, 1, Examples(7, 30))["policy"] == 30 * 2 * (256 + 24 * length)
    any_length = row_files(imported, 1, Examples(7, 30), PROMPTS)["policy"]
    assert any_length == 30 * 2 * (256 + 4 * length + 20 * (length - 50))


@pytest.mark.parametrize("rows_of", [pair_rows, problem_rows, separate_rows])
def test_the_rows_of_random_pairs_take_no_more(settings, rows_of):
    """Attempts and corrections of 1 to 12 tokens, some of them over the 10 that fit."""
    draw = np.random.default_rng(1)
    pairs = []
    for i in range(200):
        ids = [tuple(draw.integers(7, 10, draw.integers(1, 13)).tolist()) for _ in range(2)]
        rewards = draw.choice([0.0, 0.3], len(ids[0]))
        pairs.append(pair(f"p{i}", *ids, rewards=rewards, weights=draw.random(len(ids[1]))))

    rows = list(rows_of(SimpleNamespace(pairs=pairs, max_length=12, max_tokens=None)))
    kept = [row for row in rows if row.longest <= 12]
    assert len(kept) < len(rows)

    ten = with_lengths(replace(settings, policy=replace(settings.policy, max_length=12)), 10)
    prompt = PromptLengths(policy=len(PROMPT), rewrite=9, reference=9)
    most = row_files(ten, 1, Examples(0, len(pairs)), prompt)["policy"]
    assert most / 5 < sum(len(_written(row)) for row in kept) <= most


def test_rows_count_for_the_fit_that_writes_them(settings, monkeypatch):
    rows = {"warmup": 0, "grm": 7 * GIB, "policy": 9 * GIB}
    assert disk_need([GRM, POLICY], settings, rows) == 57 * GIB
    assert disk_need([POLICY], settings, rows) == 22 * GIB
    monkeypatch.setattr(disk_plan, "free_space", lambda folder: 60 * GIB)
    assert "training rows of policy up to 9.00 GiB" in disk_line([GRM, POLICY], settings, rows)
    assert "not counted" in disk_line([GRM, POLICY], settings)


def test_too_little_space_is_refused_for_what_is_still_to_be_made(settings, monkeypatch):
    monkeypatch.setattr(disk_plan, "free_space", lambda folder: 0)
    with pytest.raises(ConfigurationError, match=r"warmup, policy need up to .* lower callbacks"):
        check_disk(settings, 1, ["warmup", "policy"])
    check_disk(settings, 1, [])


def test_the_space_of_a_folder_to_come_is_that_of_its_parent(tmp_path):
    assert free_space(tmp_path / "a" / "b") == pytest.approx(free_space(tmp_path), rel=0.05)
