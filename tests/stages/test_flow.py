"""The chain as it is written down: who is handed what, over rounds and variants."""

import re
from pathlib import Path

import pytest
from small_runs import CONF, settings_of, start_model

from rlmec.pipeline.chain import Run
from rlmec.runtime.ranks import Ranks
from rlmec.settings.fingerprinted import STAGE_NODES
from rlmec.stages import flow

READS = {
    "sample": {"policy"},
    "teach": {"policy", "sample"},
    "grm": {"policy", "sample", "teach"},
    "score": {"policy", "sample", "teach", "grm"},
    "policy": {"policy", "sample", "teach", "score"},
}


@pytest.fixture(scope="module")
def run_with(tmp_path_factory):
    root = tmp_path_factory.mktemp("flow")
    model = start_model(root / "model")
    return lambda *overrides: Run(settings_of(root, model, *overrides), Ranks(), root)


def test_every_stage_of_a_round_is_handed_what_it_reads(run_with):
    first, second = flow.rounds(run_with("rounds=2"))
    for name, reads in READS.items():
        assert set(getattr(first, name).parents) == reads - {"policy"}, "a finished model"
        if name != "grm":
            assert set(getattr(second, name).parents) == reads
            assert getattr(second, name).parents["policy"] is first.policy
    assert second.grm is first.grm
    assert second.score.parents["sample"] is second.sample


def test_a_grm_that_is_trained_further_starts_from_the_one_before(run_with):
    first, second = flow.rounds(run_with("rounds=2", "grm.later_steps=1"))
    assert second.grm.parents["grm"] is first.grm
    assert second.grm.own.steps == 1


def test_the_warm_up_is_the_start_of_a_model_from_scratch(run_with):
    run = run_with("model=tiny", "model.path=null")
    (only,) = flow.rounds(run)
    assert only.sample.parents["warmup"].title == "warmup"
    assert {s.name for s in flow.report(run).parents.values()} == set(flow.STAGES) - {"report"}


def test_the_menu_gives_every_stage_its_own(run_with):
    run = run_with()
    assert [flow.stage(run, name).name for name in flow.STAGES] == list(flow.STAGES)
    assert list(STAGE_NODES) == list(flow.STAGES), "the settings count for the same stages"


@pytest.mark.parametrize(
    ("rounds", "last", "wanted"),
    [
        (1, None, "-"),
        (1, "teach", "ST"),
        (2, "teach", "STGCP"),
        (2, "evaluate", "STGCPE"),
        (1, "warmup", "W"),
    ],
)
def test_stages_until(run_with, rounds, last, wanted):
    assert until(run_with(f"rounds={rounds}"), last) == wanted


def until(run, last):
    """The stages until `last` by their letters."""
    letters = dict(zip(flow.STAGES, "WSTGCPER", strict=True))
    return "".join(letters[name] for name in flow.stages_until(run, last)) or "-"


TAUGHT = ("method=imitation_alone", "policy.corrections=teacher")


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["method=rft"], "SPER"),
        (["method=continued_sft"], "SPER"),
        ([*TAUGHT], "STPER"),
        ([*TAUGHT, "rounds=2"], "STPER"),
        (["method=imitation_alone"], "STGCPER"),
        (["model=tiny", "model.path=null", *TAUGHT], "WSTPER"),
    ],
    ids=" ".join,
)
def test_what_no_policy_reads_is_not_made(run_with, overrides, wanted):
    run = run_with("report.compare={continued_sft: null, imitation_alone: null}", *overrides)
    assert until(run, "report") == wanted
    assert until(run, "evaluate") == wanted[:-1]


def test_a_report_reads_what_a_compared_policy_reads(run_with):
    other = "report.compare={imitation_alone: null, more: {corrections: both}}"
    run = run_with(*TAUGHT, other)
    assert until(run, "evaluate") == "STPE"
    assert until(run, "report") == "STGCPER"
    assert {"teach", "score", "grm"} <= set(flow.report(run).parents)


def test_the_configuration_names_the_stages_in_their_order():
    line = re.search(r"^stage: \w+ +# (.*)$", (CONF / "train.yaml").read_text(), re.MULTILINE)
    named = re.findall(r"\w+", line[1])
    assert [name for name in named if name in flow.STAGES] == list(flow.STAGES)


def test_no_stage_constructs_another():
    """Only the flow, and what judges models from outside the chain, constructs stages."""
    for path in (Path(flow.__file__).parent).glob("*.py"):
        if path.name not in ("flow.py", "evaluate_models.py"):
            assert not re.findall(r"(?<!class )\b\w+Stage\(", path.read_text()), path.name
