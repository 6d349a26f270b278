"""The comparison's grids: every method at as many learning rates."""

from pathlib import Path

import pytest

from benchmarks.compare import METHODS, RATES, grids

CONF = Path(__file__).resolve().parents[2] / "conf"


def test_every_method_is_tuned_once_at_three_rates():
    found = grids(list(METHODS), None)
    assert sorted(m for _, _, methods in found for m in methods) == sorted(METHODS)
    assert {len(set(rates.split(","))) for _, rates, _ in found} == {3}


def test_rates_that_are_given_are_those_of_all():
    both = ["rlmec", "sequence_ppo"]
    assert grids(both, "0.1,0.2") == [("method", "0.1,0.2", both)]


def test_an_ablation_is_compared_by_its_own_group():
    found = grids(["rlmec", "first_error"], "0.1")
    assert found == [("method", "0.1", ["rlmec"]), ("ablation", "0.1", ["first_error"])]
    with pytest.raises(SystemExit):
        grids(["rlmek"], None)


def test_methods_are_files_of_the_configuration():
    there = {path.stem for path in (CONF / "method").glob("*.yaml")}
    assert set(METHODS) | set(RATES) <= there
