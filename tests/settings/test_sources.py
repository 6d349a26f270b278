"""Digests of source: the judges count with every module that compares answers by them."""

import pytest

from rlmec.settings import sources


@pytest.mark.parametrize(
    ("module", "judges"),
    [
        ("rlmec.tasks.gsm8k.Gsm8kTask", True),
        ("rlmec.tasks.math.MathTask", True),
        ("rlmec.tasks.mmlu.MmluTask", True),
        ("rlmec.tasks.multiple_choice.OptionTask", True),
        ("rlmec.tasks.arithmetic.ArithmeticTask", True),
        ("rlmec.records.Problem", False),
    ],
)
def test_a_change_of_the_judges_is_a_change_of_the_tasks(module, judges, monkeypatch):
    before = sources.source_digest(module)
    monkeypatch.setattr(sources, "_judges_digest", lambda: "edited")
    assert (sources.source_digest(module) != before) == judges


def test_a_users_module_that_compares_by_the_judges_counts_them(tmp_path, monkeypatch):
    (tmp_path / "own_task_of_sources.py").write_text(
        '"""A task."""\nfrom rlmec.answers.final_answer import judge_number\nx = 1\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    before = sources.source_digest("own_task_of_sources.Task")
    monkeypatch.setattr(sources, "_judges_digest", lambda: "edited")
    assert sources.source_digest("own_task_of_sources.Task") != before
