"""Every warning is provoked by figures that deserve it, and none by figures in good order."""

import re
from pathlib import Path

import pytest

from rlmec.evaluation.run_warnings import REASONS, diagnose, of_evaluations

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("warmup", "sample", "teach", "grm", "score", "policy", "evaluate", "report")
SAMPLE = {"sample/accuracy": 0.57, "sample/clipped_rate": 0.01, "sample/duplicate_rate": 0.4}
TEACH = {f"teach/{why}": 0 for why in REASONS} | {"teach/accepted": 2641, "teach/too_many_edits": 8}
SCORE = {f"score/{why}": 0 for why in REASONS} | {"score/accepted": 403, "score/not_right": 243}
SCORE |= {"grm/copied_share": 0.996}
HISTORY = [{"step": 0.0, "dev/clipped_rate": 0.0}, {"step": 9.0, "dev/clipped_rate": 0.05}]
POLICY = {"policy/rewards/positive": 60, "policy/rewards/negative": 10, "policy/rewards/zero": 90}
POLICY |= {"history": HISTORY}
EVALUATED = {"eval/t/completion_tokens/mean": 50.0, "eval/t/pass@1": 0.5, "eval/t/pass@4": 0.8}


def row(step, **figures):
    known = {"ratio/mean": 1.0, "ratio/max": 2.0, "approx_kl": 0.02, "clip_ratio/low_mean": 0.02}
    known |= {name.replace("__", "/"): value for name, value in figures.items()}
    return {"step": float(step), **{f"train/{name}": value for name, value in known.items()}}


CURVE = [row(n) for n in range(9)]
FALLING = [row(n, approx_kl=0.3 * n, clip_ratio__low_mean=0.3) for n in range(9)]


def names(found):
    return [warning.name for warning in found]


def test_figures_in_good_order_warn_of_nothing():
    assert diagnose("evaluate", {"eval/t/clipped_rate": 0.049, "eval/t/accuracy": 0.1}) == []
    assert diagnose("sample", SAMPLE) == []
    assert diagnose("teach", TEACH) == []
    assert diagnose("score", SCORE) == []
    assert diagnose("policy", POLICY, CURVE) == []
    assert of_evaluations(EVALUATED, EVALUATED | {"eval/t/pass@1": 0.7}, "t") == []


@pytest.mark.parametrize("stage", [*STAGES, "none"])
def test_figures_that_are_not_there_warn_of_nothing(stage):
    assert diagnose(stage, {}) == []
    assert of_evaluations({}, {}, "t") == []


PROVOKED = [
    ("sample", SAMPLE | {"sample/accuracy": 0.99}, "samples_all_right"),
    ("sample", SAMPLE | {"sample/accuracy": 0.0}, "samples_all_wrong"),
    ("sample", SAMPLE | {"sample/clipped_rate": 0.3}, "samples_clipped"),
    ("sample", SAMPLE | {"sample/duplicate_rate": 0.9}, "samples_alike"),
    ("teach", TEACH | {"teach/accepted": 7}, "corrections_rejected"),
    ("score", SCORE | {"score/accepted": 242}, "corrections_rejected"),
    ("teach", TEACH | {"teach/clipped": 150}, "corrections_clipped"),
    ("score", SCORE | {"score/clipped": 40}, "corrections_clipped"),
    ("evaluate", {"eval/t/clipped_rate": 0.05, "eval/u/clipped_rate": 0.04}, "evaluation_clipped"),
    ("score", SCORE | {"grm/copied_share": 0.4}, "grm_does_not_copy"),
    ("policy", {"policy/untrained": "nothing is wrong"}, "policy_untrained"),
    ("policy", POLICY | {"policy/rewards/zero": 9000}, "rewards_all_zero"),
    ("policy", POLICY | {"policy/rewards/negative": 700}, "rewards_all_penalties"),
    (
        "policy",
        POLICY | {"history": [HISTORY[0], {"dev/clipped_rate": 0.2}]},
        "completions_growing",
    ),
]


@pytest.mark.parametrize(("stage", "metrics", "name"), PROVOKED)
def test_a_figure_out_of_order_is_named(stage, metrics, name):
    assert names(diagnose(stage, metrics, CURVE)) == [name]


@pytest.mark.parametrize(
    ("curve", "name"),
    [
        ([row(n, ratio__mean=1.0 - 0.06 * n) for n in range(9)], "ratio_far_from_one"),
        ([row(n, ratio__max=2.0 + 10 * n) for n in range(9)], "ratio_far_from_one"),
        (FALLING, "punished_tokens_falling"),
    ],
)
def test_a_curve_out_of_order_is_named(curve, name):
    assert names(diagnose("policy", POLICY, curve)) == [name]


def test_what_is_high_but_no_longer_moves_is_not_falling():
    still = [row(n, approx_kl=2.0, clip_ratio__low_mean=0.3) for n in range(9)]
    upwards = [row(n, approx_kl=0.3 * n, clip_ratio__low_mean=0.0) for n in range(9)]
    assert diagnose("policy", POLICY, still) == diagnose("policy", POLICY, upwards) == []
    assert diagnose("policy", POLICY, FALLING[:2]) == []  # too short to say


def test_the_trained_policy_is_compared_with_the_start():
    longer = EVALUATED | {"eval/t/completion_tokens/mean": 80.0}
    assert names(of_evaluations(EVALUATED, longer, "t")) == ["completions_growing"]
    alike = EVALUATED | {"eval/t/pass@1": 0.6, "eval/t/pass@4": 0.62}
    assert names(of_evaluations(EVALUATED, alike, "t")) == ["entropy_collapse"]


@pytest.mark.parametrize("why", REASONS)
def test_rejected_corrections_name_the_commonest_reason_and_its_setting(why):
    counts = {f"score/{other}": 1 for other in REASONS} | {f"score/{why}": 30, "score/accepted": 20}
    (found,) = diagnose("score", counts)
    assert "34 of 54" in found.text
    assert REASONS[why][0] in found.text
    assert found.setting == REASONS[why][1].format(stage="score")
    assert f"(setting: {found.setting})" in str(found)


def test_the_page_names_every_warning_and_its_setting():
    page = (ROOT / "docs/diagnosis.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", page, re.MULTILINE))
    found = [w for stage, metrics, _ in PROVOKED for w in diagnose(stage, metrics, CURVE)]
    found += [w for curve in (FALLING, [row(n, ratio__max=99.0) for n in range(9)])
              for w in diagnose("policy", POLICY, curve)]  # fmt: skip
    alike = EVALUATED | {"eval/t/pass@1": 0.6, "eval/t/pass@4": 0.62}
    found += of_evaluations(EVALUATED, alike, "t")
    assert set(named) == {warning.name for warning in found}
    for warning in found:
        assert f"`{warning.setting}`" in named[warning.name], warning
