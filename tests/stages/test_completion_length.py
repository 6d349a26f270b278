"""The length limit of completions: given, recorded by the model, or derived from the task."""

from dataclasses import replace

import pytest
from small_runs import settings_of, start_model

from rlmec.export.model_folder import Origin, write_origin
from rlmec.pipeline.chain import Run
from rlmec.pipeline.models import LanguageModel, templates
from rlmec.runtime.ranks import Ranks
from rlmec.stages import flow
from rlmec.stages.completion_length import (
    NODES,
    decide_for_judging,
    decide_for_training,
    derived_limit,
    prompt_lengths,
)
from rlmec.stages.warmup import WarmupStage

OPEN = "sample.max_completion_length=null"


@pytest.mark.parametrize(
    ("lengths", "room", "tokens"),
    [
        ([10] * 9, None, 64),  # 15, at least 64
        ([100] * 9, None, 160),  # 150, to a multiple of 16
        ([100] * 9, 160, 160),
        ([100] * 9, 99, 99),  # what the context leaves
        ([*range(1, 102)], None, 160),  # the 99 % quantile of 1 to 101 is 100
        ([], None, 512),
        ([], 300, 300),
        ([100], -5, 1),  # no prompt fits: the stage says so
    ],
)
def test_a_limit_worked_by_hand(lengths, room, tokens):
    found = derived_limit(lengths, room)
    assert found.tokens == tokens
    assert str(tokens) in str(found)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return start_model(tmp_path_factory.mktemp("start"))


def run_of(root, model, *overrides):
    return Run(settings_of(root, model, *overrides), Ranks(), root)


def limits_of(run):
    return {name: getattr(run.settings, name).max_completion_length for name in NODES}


def test_a_given_limit_stays_and_costs_nothing(tmp_path, model):
    run = run_of(tmp_path, model, "score.max_completion_length=9")
    before = run.settings
    assert decide_for_training(run) == decide_for_judging(run, [str(model)]) == ""
    assert run.settings is before
    assert limits_of(run) == dict.fromkeys(NODES, 10) | {"score": 9}


def test_an_open_limit_comes_from_the_references_and_counts_in_the_fingerprint(tmp_path, model):
    run = run_of(tmp_path, model, OPEN, "policy.max_completion_length=20")
    with pytest.raises(ValueError, match="not decided"):
        _ = run.settings.sample.completion_length

    line = decide_for_training(run)
    codec = LanguageModel(str(model), run.settings).codec
    references = [codec.completion(p.solution) for p in run.task.problems("train")]
    expected = derived_limit([len(ids) for ids in references], None)
    assert line == str(expected)
    assert limits_of(run) == dict.fromkeys(NODES, expected.tokens) | {"policy": 20}
    sample = flow.rounds(run)[-1].sample
    assert sample.settings()["sample"]["max_completion_length"] == expected.tokens


def test_the_longest_prompts_are_found_among_all_problems(tmp_path, model):
    run = run_of(tmp_path, model)
    prompts = LanguageModel(str(model), run.settings).prompts
    problems = run.task.problems("train")
    found = prompt_lengths(run)
    assert found.policy == max(len(prompts.policy(p)) for p in problems)
    assert found.rewrite == max(len(prompts.rewrite(p, [])) for p in problems)
    assert found.reference == max(len(prompts.codec.completion(p.solution)) for p in problems)


def test_finished_models_leave_the_limit_open_and_the_tiny_one_does_not(tmp_path, model):
    # small_runs names a limit; without it the model's group decides
    given = "sample.max_completion_length=${model.max_completion_length}"
    assert run_of(tmp_path, model, given).settings.sample.max_completion_length is None
    tiny = settings_of(tmp_path, model, given, "model=tiny", "model.path=null")
    assert tiny.sample.completion_length == tiny.evaluate.completion_length == 112


def test_a_model_that_records_its_limit_keeps_it(tmp_path, model):
    folder = start_model(tmp_path / "trained")
    run = run_of(tmp_path, folder, OPEN)
    known = LanguageModel(str(folder), run.settings)
    origin = Origin("policy", templates(run.settings), known.codec.digest, 333)
    write_origin(folder, origin)
    assert str(folder) in decide_for_training(run)
    assert set(limits_of(run).values()) == {333}

    # Models that are compared have one limit, the largest.
    other = run_of(tmp_path, model, OPEN)
    write_origin(folder, replace(origin, max_completion_length=7))
    decide_for_judging(other, [str(folder)])
    assert other.settings.evaluate.completion_length == 7
    both = run_of(tmp_path, model, OPEN)
    decide_for_judging(both, [str(folder), str(model)])
    assert both.settings.evaluate.completion_length >= 64


def test_a_warmup_counts_the_length_by_which_its_weights_are_chosen(tmp_path, model):
    found = [
        WarmupStage(run_of(tmp_path, model, f"sample.max_completion_length={n}")).settings()
        for n in (8, 12)
    ]
    assert [settings["max_completion_length"] for settings in found] == [8, 12]
