"""The figures that a stage's line on the terminal shows."""

from pathlib import Path

from rlmec.pipeline.stage_words import PHRASES, in_words, names_in
from rlmec.stages.flow import STAGES

METRICS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def test_shares_are_percent_and_counts_are_counts():
    metrics = {"sample/accuracy": 0.0541, "sample/no_answer_rate": 0.0, "sample/duplicates": 3}
    assert in_words("sample", 240, metrics) == [
        *("240 attempts", "5.4 % right", "0.0 % without an answer"),
    ]


def test_what_a_stage_did_not_measure_is_left_out():
    assert in_words("policy", 30, {"policy/rows": 3}) == ["30 steps"]
    assert in_words("own", 7, {"a": 1.0}) == ["7 rows"]


def test_an_evaluation_is_told_whatever_its_task():
    metrics = {f"eval/my/accuracy{end}": 0.25 for end in ("", "_low", "_high")}
    assert in_words("evaluate", 48, metrics) == ["25.0 % right (interval 25.0 % to 25.0 %)"]


def test_every_stage_has_words_of_metrics_that_the_page_defines():
    assert set(PHRASES) == set(STAGES)
    page = METRICS_PAGE.read_text(encoding="utf-8")
    names = {name for told in PHRASES.values() for phrase in told for name in names_in(phrase)}
    names -= {"rows", "report/start/accuracy", "report/policy/accuracy"}
    assert {name for name in names if name not in page} == set()
