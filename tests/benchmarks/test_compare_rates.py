"""The comparison's grids: every method at as many learning rates."""

from pathlib import Path

from benchmarks.compare import METHODS, RATES, grids

CONF = Path(__file__).resolve().parents[2] / "conf"


def test_every_method_is_tuned_once_at_three_rates():
    found = grids(list(METHODS), None)
    assert sorted(m for methods in found.values() for m in methods) == sorted(METHODS)
    assert {len(set(rates.split(","))) for rates in found} == {3}


def test_rates_that_are_given_are_those_of_all():
    assert grids(["rlmec", "sequence_ppo"], "0.1,0.2") == {"0.1,0.2": ["rlmec", "sequence_ppo"]}


def test_methods_are_files_of_the_configuration():
    there = {path.stem for path in (CONF / "method").glob("*.yaml")}
    assert set(METHODS) | set(RATES) <= there
