"""A model's directory records its prompt: evaluate.py asks with it, and says where it differs."""

import json
from dataclasses import asdict, replace

import pytest
from small_models import TEMPLATES, chat_tokenizer, network, tokenizer
from small_settings import tree

from rlmec.export.model_folder import Origin, read_origin, write_origin
from rlmec.lm.loading import export_network
from rlmec.lm.tokenizers import codec
from rlmec.pipeline import models
from rlmec.pipeline.chain import Run
from rlmec.pipeline.sources import ModelSource
from rlmec.runtime.ranks import Ranks
from rlmec.settings.check import check
from rlmec.stages.evaluate import EvaluateStage
from rlmec.stages.run import _check_prompt

PLAIN = asdict(TEMPLATES)
OWN = {"policy": "Q: {question}\nA:", "chat": True, "system": "Be brief.", "date": "2025-01-02"}


@pytest.fixture
def folder(tmp_path):
    """A model with a chat template that was trained with the prompt OWN."""
    place = tmp_path / "model"
    export_network(network(), chat_tokenizer(), place)
    record(place, **OWN)
    return place


def record(place, **changes):
    write_origin(place, Origin("policy", replace(TEMPLATES, **changes), "tokenizer", 20))


def source_of(place, *overrides, **changes):
    prompt = {f"prompt.{name}": text for name, text in (PLAIN | changes).items()}
    settings = check(tree(**prompt))
    return ModelSource(Run(settings, Ranks(), place.parent, list(overrides)), path=str(place))


def address(source):
    return EvaluateStage(source).fingerprint({})


def text(source):
    prompts = source.model({}).prompts
    return prompts.codec.decode(prompts.policy(source.run.task.problems("train")[0]))


def test_a_model_is_asked_with_the_prompt_that_its_directory_records(folder):
    source = source_of(folder)
    assert text(source).startswith("<|system|>Be brief.<|end|><|user|>Q: ")
    stage = EvaluateStage(source)
    assert {k: stage.settings()["prompt"][k] for k in OWN} == OWN
    for name in OWN:
        assert name in source.prompt_note


@pytest.mark.parametrize(
    "override", ["prompt=plain", "prompt.system=null", "++prompt.date=2024-07-26", "+prompt.chat=x"]
)
def test_a_prompt_of_the_command_wins_and_the_difference_is_said(folder, override):
    source = source_of(folder, override)
    assert not text(source).startswith("<|system|>")
    assert source.settings is source.run.settings
    for name in OWN:
        assert name in source.prompt_note


@pytest.mark.parametrize("override", ["prompts=x", "sample.prompt=x", "evaluate.model=prompt"])
def test_other_overrides_set_no_prompt(folder, override):
    assert source_of(folder, override).settings.prompt.chat


def test_the_fingerprint_holds_the_prompt_that_is_used(folder):
    used = address(source_of(folder))
    assert (
        address(source_of(folder, policy="{question} :")) == used
    )  # the configuration's is unused
    same = source_of(folder, "prompt=own", **OWN)
    assert same.prompt_note is None
    assert address(same) == used
    assert address(source_of(folder, "prompt=plain")) != used
    record(folder, **OWN | {"system": "Think."})
    assert address(source_of(folder)) != used


def test_without_a_record_the_configuration_decides(folder):
    (folder / "rlmec.json").unlink()
    source = source_of(folder)
    assert source.prompt_note is None
    assert source.settings.prompt == source.run.settings.prompt


def test_the_date_of_a_plain_prompt_is_no_difference(folder):
    record(folder, date="2030-01-01")
    assert source_of(folder).prompt_note is None


def test_a_record_from_before_dates_were_recorded_is_read(folder):
    plain = json.loads((folder / "rlmec.json").read_text())
    del plain["templates"]["date"]
    del plain["templates"]["template_args"]
    (folder / "rlmec.json").write_text(json.dumps(plain))
    assert read_origin(folder).templates == replace(TEMPLATES, **OWN | {"date": TEMPLATES.date})


def test_a_recorded_prompt_that_cannot_be_filled_is_refused_with_its_file(folder):
    record(folder, policy="{qestion}")
    with pytest.raises(ValueError, match=r"rlmec\.json.*qestion"):
        _ = source_of(folder).settings


@pytest.mark.parametrize(
    ("stage", "kind"), [("warmup", "policy"), ("policy", "policy"), ("grm", "grm")]
)
def test_what_a_stage_records_is_the_prompt_of_its_settings(folder, stage, kind):
    settings = source_of(folder, template_args={"a": 1}, **OWN).run.settings
    origin = models.origin_of(settings, codec(chat_tokenizer()), stage)
    write_origin(folder, origin)
    assert read_origin(folder) == origin
    assert origin.kind == kind
    assert asdict(origin.templates) == asdict(settings.prompt)


@pytest.mark.parametrize("key", ["model.path", "grm.model"])
def test_a_run_says_where_a_model_that_it_trains_from_had_another_prompt(folder, key, capsys):
    settings = check(tree(**{key: str(folder), **{f"prompt.{n}": v for n, v in PLAIN.items()}}))
    _check_prompt(Run(settings, Ranks(), folder.parent))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{key}: {folder}")
    assert all(name in line for name in OWN)


def test_a_chat_prompt_without_a_chat_template_is_refused_early(tmp_path):
    export_network(network(), tokenizer(), tmp_path)
    settings = check(tree(**{"model.path": str(tmp_path), "prompt.chat": True}))
    with pytest.raises(ValueError, match="chat template"):
        _check_prompt(Run(settings, Ranks(), tmp_path))
