"""What the comparison tunes, and how its sweeps choose a method."""

import json
from pathlib import Path

import pytest

from benchmarks import compare
from benchmarks.compare import (
    ANY_FURTHER,
    FURTHER,
    LOWER_RATES,
    METHODS,
    RATE,
    further_of,
    needs_grm,
    overrides_of,
    rates_of,
    wider,
)

CONF = Path(__file__).resolve().parents[2] / "conf"


def test_every_method_begins_with_three_rates_and_three_values_of_one_setting():
    names = [path.stem for path in (CONF / "method").glob("*.yaml")]
    assert set(METHODS) <= set(names)
    for name in names:
        assert len(set(rates_of(name, None))) == 3
        assert len(set(further_of(name)[1])) == 3
    assert rates_of("dpo_attempts_likelihood", None) == list(LOWER_RATES["dpo"])
    assert further_of("continued_sft") == ANY_FURTHER
    assert further_of("rlmec+shuffled_penalties") == FURTHER["rlmec"]
    assert rates_of("sequence_ppo", "0.1,0.2") == [0.1, 0.2]


def test_a_grid_is_widened_where_its_best_is_at_an_edge():
    assert wider([0.001, 0.002, 0.004], 0.002) is None
    assert wider([0.004, 0.001, 0.002], 0.004) == pytest.approx(0.008)
    assert wider([0.00003, 0.0001, 0.00001], 0.00001) == pytest.approx(0.0000033)
    assert wider([0.001], 0.001) is None


def test_methods_and_ablations_are_chosen_by_their_groups():
    assert overrides_of("rlmec") == ["method=rlmec"]
    both = ["method=imitation_alone", "ablation=grm_only"]
    assert overrides_of("imitation_alone+grm_only") == both
    with pytest.raises(SystemExit):
        overrides_of("rlmek")


@pytest.fixture
def sweeps(monkeypatch, tmp_path):
    """The sweeps of a comparison, each job of which reaches a dev accuracy that a test decides."""
    asked = []

    def sweep(folder, *overrides):
        asked.append(overrides)
        given = dict(o.split("=", 1) for o in overrides)
        key, values = given.popitem()
        for number, value in enumerate(values.split(",")):
            place = folder / str(number)
            policy = place / "policy"
            policy.mkdir(parents=True, exist_ok=True)
            reached = sweep.reached(key, value)
            manifest = {"metrics": {"history": [{"step": 9, "dev/accuracy": reached}]}}
            (policy / "manifest.json").write_text(json.dumps(manifest))
            stages = [{"name": "policy", "variant": "", "artifact": str(policy)}]
            job = given | {key: value}
            summary = {"overrides": [f"{k}={v}" for k, v in job.items()], "stages": stages}
            (place / "summary.json").write_text(json.dumps(summary))

    monkeypatch.setattr(compare, "sweep", sweep)
    sweep.asked = asked
    return sweep


def tuned(folder, *more):
    given, _ = compare.arguments([str(folder), *more])
    return compare.tuned(folder, "rlmec", given, ["grm.steps=5"])


def test_tuning_goes_on_beyond_an_edge_and_then_tries_one_further_setting(sweeps, tmp_path):
    """The best rate is 0.0108 of a grid that begins with 0.0004, 0.0012, 0.0036."""
    at = {"0.0004": 0.1, "0.0012": 0.2, "0.0036": 0.3, "0.011": 0.5, "0.034": 0.4, "8.0": 0.6}
    sweeps.reached = lambda key, value: at.get(value, 0.2)
    best = {RATE: "0.011", "policy.objective.policy_coef": "8.0"}
    assert tuned(tmp_path) == best
    assert [asked[-1] for asked in sweeps.asked] == [
        f"{RATE}=0.0004,0.0012,0.0036",
        f"{RATE}=0.011",
        f"{RATE}=0.034",
        "policy.objective.policy_coef=0.5,2.0,8.0",
    ]
    assert all({"method=rlmec", "grm.steps=5", "seed=1"} <= set(asked) for asked in sweeps.asked)
    again = len(sweeps.asked)
    assert tuned(tmp_path) == best  # what was found before is not taken for something else
    assert len(sweeps.asked) == again + 2


def test_a_grid_grows_by_three_rates_at_most(sweeps, tmp_path):
    sweeps.reached = lambda key, value: float(value)
    assert tuned(tmp_path)[RATE] == "0.11"  # 0.0036, 0.011, 0.034, then 0.034 ** 2 / 0.011
    assert len(sweeps.asked) == 1 + 3 + 1


def test_a_single_rate_is_not_tuned(sweeps, tmp_path):
    assert tuned(tmp_path, "--rates", "0.002") == {RATE: "0.002"}
    assert not sweeps.asked


GRM_READERS = ("rlmec", "rlmec_authors", "imitation_alone", "teacher_solutions", "dpo_corrections")


@pytest.mark.parametrize("method", [path.stem for path in (CONF / "method").glob("*.yaml")])
def test_who_needs_a_grm_is_what_the_settings_say(method):
    """A reward rule reads the GRM's log-probs, rows of corrections its rewrites."""
    assert needs_grm(method) == method.startswith(GRM_READERS)
    taught = needs_grm(f"{method}+teacher_only")
    assert taught == (method in ("rlmec", "rlmec_authors"))
    assert needs_grm(method, ["policy.corrections=teacher"]) == taught


def test_equal_tokens_are_more_updates_where_no_grm_is_needed(sweeps, tmp_path, monkeypatch):
    sweeps.reached = lambda key, value: 0.5
    monkeypatch.setattr("benchmarks.method_table.updates_for_all_tokens", lambda folder: 24)
    monkeypatch.setattr("benchmarks.method_table.write_comparison", lambda *_: None)
    (tmp_path / "comparison.md").write_text("")
    rest = ["--rates", "0.1", "--methods", "rlmec,rft", "--chains", "2", "--seeds", "11"]
    compare.main([str(tmp_path), "--equal", "total", *rest, "policy.steps=10"])
    assert [("policy.steps=24" in asked) for asked in sweeps.asked] == [False, False, True]
    assert sweeps.asked[2][0] == "method=rft"
