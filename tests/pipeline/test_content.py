"""Addresses hold the content of what the settings name, and never its place."""

import json
import re
import shutil
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from small_models import SHAPES, tokenizer
from small_runs import CONF, start_model

from rlmec.lm.loading import export_network, new_network
from rlmec.pipeline.chain import Run
from rlmec.pipeline.content import contents, model_digest, place_digest
from rlmec.pipeline.sources import ModelSource
from rlmec.runtime.ranks import Ranks
from rlmec.settings.check import check
from rlmec.settings.fingerprinted import ASKING
from rlmec.settings.schema import RunSettings
from rlmec.stages.evaluate import EvaluateStage
from rlmec.stages.run import addresses

ROOT = CONF.parent
ROWS = [{"question": f"{i} + {i}?", "answer": str(2 * i), "solution": f"{2 * i}"} for i in range(9)]
OWN = """
def rows(pairs, prompts, *, path: str, weights_file: str | None = None): ...
"""


def rows(place: Path, last: str = "16") -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) for row in [*ROWS[:-1], ROWS[-1] | {"answer": last}]]
    place.write_text("\n".join(lines))
    return place


def model(place: Path, seed: int = 1) -> Path:
    shape = SHAPES["llama"] | {"max_position_embeddings": 1024}
    export_network(new_network(shape, tokenizer(), "sdpa", seed), tokenizer(), place)
    return place


def edit_model(place: Path) -> None:
    (place / "config.json").write_text((place / "config.json").read_text() + "\n")


# By setting: what to make at a place, and the overrides that name it (PLACE is where it is).
DATA = ("task=dataset",)
FILES = {
    "task.path": (*DATA, "task.path=PLACE/rows.jsonl"),
    "task.path of a folder": (*DATA, "task.path=PLACE"),
    "task.path of a pattern": (*DATA, "task.path=PLACE/*.jsonl"),
    "task.path of a list": (*DATA, "task.path=[PLACE/rows.jsonl]"),
    "task.path by split": (*DATA, "task.path={train: PLACE/rows.jsonl, test: PLACE/rows.jsonl}"),
    "sample.path": ("sample.path=PLACE/rows.jsonl",),
    "warmup.task.path": (
        *DATA,
        "model=tiny",
        "model.path=null",
        "task.path=PLACE/rows.jsonl",
        "warmup.task.path=PLACE/rows.jsonl",
    ),
    "evaluate.tasks.dataset.path": ("evaluate.tasks={dataset: {path: PLACE/rows.jsonl}}",),
    "policy.rows.path": (
        "policy/rows=own",
        "policy.rows._target_=own_rows_of_content.rows",
        "policy.rows.path=PLACE/rows.jsonl",
        "policy.rows.weights_file=PLACE/rows.jsonl",
        "security.allow=[own_rows_of_content.]",
    ),
}
MODELS = {
    "model.path": ("model.path=PLACE",),
    "model.path with a warm-up": ("warmup=always", "model.path=PLACE"),
    "model.tokenizer": ("model=tiny", "model.path=null", "model.tokenizer=PLACE"),
    "grm.model": ("grm.model=PLACE",),
    "teacher.path": ("teacher=local", "teacher.path=PLACE"),
}


def composed(start, *overrides):
    """The configuration tree of the defaults, with a finished model."""
    given = ["model=hf", f"model.path={start}", "logger=none", *overrides]
    given = [f"++{o}" if "." in o.partition("=")[0] else o for o in given]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("train", overrides=given))


def settings(start, *overrides):
    return check(composed(start, *overrides), CONF)


def told(tree, place):
    """The addresses of all stages, with PLACE in the tree replaced."""
    text = json.dumps(tree).replace("PLACE", str(place))
    return {(n.title, n.fingerprint) for n in addresses(check(json.loads(text), CONF))}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return start_model(tmp_path_factory.mktemp("content") / "model")


@pytest.mark.parametrize("setting", [*FILES, *MODELS])
def test_content_counts_and_its_place_does_not(setting, start, tmp_path, monkeypatch):
    (tmp_path / "own_rows_of_content.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    one, other = tmp_path / "one", tmp_path / "far" / "other"
    if setting in FILES:
        overrides = FILES[setting]
        rows(one / "rows.jsonl")
    else:
        overrides = MODELS[setting]
        shutil.copytree(start, one)
    shutil.copytree(one, other)

    tree = composed(start, *overrides)
    first = told(tree, one)
    assert told(tree, other) == first

    rows(other / "rows.jsonl", last="17") if setting in FILES else edit_model(other)
    assert told(tree, other) != first


def paths_of(cls, above=""):
    """The dotted keys of a settings class that are marked as paths."""
    for name, hint in get_type_hints(cls, include_extras=True).items():
        if "Home()" in repr(hint):
            yield above + name
        for inner in (hint, *get_args(hint)):
            if is_dataclass(inner) and isinstance(inner, type):
                yield from paths_of(inner, f"{above}{name}.")


def test_every_setting_that_names_a_place_has_a_case():
    """A setting that is marked as a path is in the tables above, or its place changes nothing."""
    # A GGUF file counts by the folder that it is converted to.
    free = {"paths.artifacts", "paths.outputs", "export.path", "ckpt_path", "model.gguf_file"}
    judged = {
        "evaluate.model",
        "evaluate.attempts",
        "evaluate.against",
        "report.against",
    }  # by digest, or no artifact
    assert set(paths_of(RunSettings)) - free - judged <= {*FILES, *MODELS}

    for module in sorted(ROOT.glob("rlmec/t*/*.py")):
        marked = set(re.findall(r"^        (\w+): PathText", module.read_text(), re.M))
        assert marked <= {"path", *ASKING}, module


def test_a_judged_model_counts_by_its_content(start, tmp_path):
    other = shutil.copytree(start, tmp_path / "other")
    run = Run(settings(start), Ranks(), tmp_path)

    def address(path):
        return EvaluateStage(ModelSource(run, path=str(path))).fingerprint({})

    assert address(other) == address(start)
    edit_model(other)
    assert address(other) != address(start)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a.jsonl", "b.jsonl", True),
        ("a.jsonl", "a.v2.jsonl", True),
        ("a.csv", "b.csv.gz", True),  # how it is packed is seen in its bytes
        ("a.jsonl", "a.csv", False),  # the ending tells how it is read
    ],
)
def test_the_ending_of_a_file_counts_and_the_rest_of_its_name_does_not(one, other, same, tmp_path):
    for name in (one, other):
        rows(tmp_path / name)
    digests = [place_digest(str(tmp_path / name)) for name in (one, other)]
    assert (digests[0] == digests[1]) == same


def test_names_within_a_folder_count_for_they_may_tell_the_split(tmp_path):
    for name in ("one/train.jsonl", "other/test.jsonl"):
        rows(tmp_path / name)
    digests = [place_digest(str(tmp_path / name), rows=True) for name in ("one", "other")]
    assert digests[0] != digests[1]
    (tmp_path / "one" / "README.md").write_text("no rows")
    assert place_digest(str(tmp_path / "one"), rows=True) == digests[0]
    assert place_digest(str(tmp_path / "one")) != digests[0]


def test_the_order_of_a_list_counts(tmp_path):
    a, b = str(rows(tmp_path / "a.jsonl")), str(rows(tmp_path / "b.jsonl", last="1"))
    assert place_digest([a, b]) != place_digest([b, a])
    assert place_digest([a, b]) == place_digest(f"{tmp_path}/*.jsonl")


def test_a_folder_without_rows_counts_with_all_its_files(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "problems.txt").write_text("1 + 1")
    digest = place_digest(str(tmp_path / "data"), rows=True)
    assert digest is not None
    (tmp_path / "data" / "problems.txt").write_text("1 + 2")
    assert place_digest(str(tmp_path / "data"), rows=True) != digest


def test_what_is_no_place_counts_as_it_is_written(tmp_path):
    task = {"_target_": "x", "path": "none.jsonl", "field": str(tmp_path), "n": {"file": 3}}
    found = contents({"task": task})
    assert found.settings == {"task": task}
    assert found.places == found.digests == {}
    split = contents({"task": {"path": {"train": str(rows(tmp_path / "a.jsonl")), "dev": None}}})
    assert split.settings == {"task": {"path": None}}
    assert list(split.digests) == ["task.path.train"]
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl"):
        contents({"sample": {"path": "none.jsonl"}})


def test_the_place_of_an_adapters_base_model_does_not_count(tmp_path):
    digests = []
    for name in ("one", "other"):
        base = model(tmp_path / name / "base")
        adapter = tmp_path / name / "adapter"
        adapter.mkdir()
        (adapter / "adapter_model.safetensors").write_bytes(b"weights")
        config = {"base_model_name_or_path": str(base), "peft_type": "LORA", "r": 4}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        digests.append(model_digest(str(adapter), None))
    assert digests[0] == digests[1]
    edit_model(tmp_path / "other" / "base")
    assert model_digest(str(adapter), None) != digests[0]
