"""Every number of the configuration has a range, every closed list its values, every path a home.

The settings classes and the signatures of all targets that conf/ names are walked. A setting that
is added without a range therefore fails here.
"""

import dataclasses
import functools
import re
import typing
from pathlib import Path

import pytest
from annotated_types import BaseMetadata
from hydra import compose, initialize_config_dir
from small_settings import tree

from rlmec.runtime.store_commands import PRUNE, STATUS
from rlmec.settings import ranges
from rlmec.settings.binding import Binder, ConfigurationError, dataclass_signature
from rlmec.settings.check import ALLOWED, check
from rlmec.settings.command_line import with_home_folders
from rlmec.settings.schema import RunSettings
from rlmec.settings.signatures import signature_of
from rlmec.stages import flow
from rlmec.stages.run import EXPORT, PLAN

CONF = Path(__file__).resolve().parents[2] / "conf"

# Texts of the user's own: names, templates, fields of files, hub names. All others are Literals.
FREE = {
    *("policy", "rewrite", "rewrite_answer_only", "locate", "locate_answer_only", "located"),
    *("system", "text_field", "label_field", "question_field", "answer_field", "solution_field"),
    *("options_field", "id_field", "kind_field", "limit_field", "hub", "hub_config"),
    *("hub_configs", "hub_revision", "hub_splits", "subjects", "name", "model", "base_url"),
    *(
        "api_key_env",
        "device",
        "allow",
        "project",
        "group",
        "date",
        "revision",
        "target_modules",
        "run_name",
        "tags",
    ),
    "optimized_metric",
}
# Rewards and their bounds: their sign and size are free.
UNBOUNDED = {"pivot", "right_low", "right_high", "wrong_low", "wrong_high", "right", "wrong"}
# Arguments that stages give: no configuration sets them.
GIVEN = {"is_right", "first_edit"}
NAMED_AS_PATHS = {"path", "artifacts", "outputs", "tokenizer", "ckpt_path", "attempts", "against"}
NAMED_AS_PATHS |= {"cache", "gguf_file", "grm.model", "evaluate.model", "model.path"}


def settings_hints(cls=RunSettings, above=""):
    """Every field below the root: {dotted key: hint}; nodes that are classes are opened."""
    for name, hint in dataclass_signature(cls).hints.items():
        key = f"{above}.{name}" if above else name
        arms = (hint, *typing.get_args(hint))
        classes = (arm for arm in arms if isinstance(arm, type))
        inner = next((arm for arm in classes if dataclasses.is_dataclass(arm)), None)
        if inner is None:
            yield key, hint
        else:
            yield from settings_hints(inner, key)


def target_hints():
    """Every parameter of every target of ours that a file of conf/ names."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in CONF.rglob("*.yaml"))
    for target in sorted(set(re.findall(r"_target_:\s*(rlmec\.[\w.]+)", text))):
        for name, hint in signature_of(target, ("rlmec.",)).hints.items():
            if name not in GIVEN:
                yield f"{target}.{name}", hint


@functools.cache
def hints():
    return {**dict(settings_hints()), **dict(target_hints())}


def leaves(hint):
    """The types that a hint is made of, annotated ones whole; keys of a mapping do not count."""
    origin, arms = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Annotated, typing.Literal) or not arms:
        yield hint
    for arm in () if origin in (typing.Annotated, typing.Literal) else arms[origin is dict :]:
        yield from leaves(arm)


def rules(hint):
    return typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()


def is_path(hint):
    return any(isinstance(r, ranges.Home) for leaf in leaves(hint) for r in rules(leaf))


def test_the_settings_are_seen():
    assert len(hints()) > 200
    assert {"grm.mixture.copy", "model.lora.r", "rlmec.method.objectives.dpo.beta"} <= set(hints())


def test_every_number_has_a_range():
    bare = [key for key, hint in hints().items() if {int, float} & set(leaves(hint))]
    assert bare == [], "annotate with a type of settings.ranges"
    numbers = {
        (key, leaf)
        for key, hint in hints().items()
        for leaf in leaves(hint)
        if typing.get_origin(leaf) is typing.Annotated and typing.get_args(leaf)[0] in (int, float)
    }
    bounds = BaseMetadata
    free = {key for key, leaf in numbers if not any(isinstance(r, bounds) for r in rules(leaf))}
    assert free == {key for key, leaf in numbers if leaf == ranges.AnyFloat}
    assert {key.rpartition(".")[2] for key in free} == UNBOUNDED


def test_every_text_is_free_a_path_or_one_of_a_list():
    bare = {key for key, hint in hints().items() if str in set(leaves(hint))}
    assert {key for key in bare if key.rpartition(".")[2] not in FREE} == set()


def test_every_path_is_marked_as_one():
    named = {k for k in hints() if k.rpartition(".")[2] in NAMED_AS_PATHS or k in NAMED_AS_PATHS}
    assert {key for key in named if not is_path(hints()[key])} == set()
    assert {key.rpartition(".")[2] for key in hints() if is_path(hints()[key])} == {
        key.rpartition(".")[2] for key in named
    }


@pytest.mark.parametrize("key", sorted(key for key, hint in hints().items() if is_path(hint)))
def test_a_path_begins_at_home_and_is_not_empty(key, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    hint = hints()[key]
    binder = Binder(("rlmec.",))
    assert binder.cast(hint, "~/data", key) == "/home/someone/data"
    assert binder.cast(hint, "a/~b", key) == "a/~b"
    with pytest.raises(ConfigurationError, match=f"{re.escape(key)} is ''"):
        binder.cast(hint, "", key)
    if dict in {typing.get_origin(arm) for arm in typing.get_args(hint)}:
        assert binder.cast(hint, {"test": "~/t"}, key) == {"test": "/home/someone/t"}
    if list in {typing.get_origin(arm) for arm in typing.get_args(hint)}:
        assert binder.cast(hint, ["~/t"], key) == ["/home/someone/t"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("key", ["policy.optimizer.lr", "grm.gradient_clip", "policy.reward.pivot"])
def test_numbers_are_finite(key, value):
    with pytest.raises(ConfigurationError, match=f"{key} is .*: a finite number is needed"):
        check(tree(**{key: value}))


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (ranges.PositiveInt, "at least 1"),
        (ranges.PositiveShare, "more than 0 and at most 1"),
        (ranges.Seed, "at least 0 and less than 4294967296"),
        (ranges.PathText, "a text that is not empty"),
    ],
)
def test_a_range_in_words(hint, text):
    assert ranges.range_text(rules(hint)) == text


@pytest.mark.parametrize(
    ("hint", "inside", "outside"),
    [
        (ranges.PositiveInt, [1, 10**30], [0, -1]),
        (ranges.Seed, [0, 2**32 - 1], [-1, 2**32]),
        (ranges.Share, [0, 0.5, 1], [-1e-9, 1.5]),
        (ranges.PositiveShare, [1e-9, 1], [0, 2]),
        (ranges.ShareBelowOne, [0, 0.999], [1, -0.1]),
        (ranges.Temperature, [0, 5], [-1]),
        (ranges.AnyFloat, [-3, 0, 1e9], []),
        (ranges.PositiveInt | None, [None, 3], [0]),
        (
            ranges.Devices,
            [1, 8, -1, "auto", "-1", "2", "0,1", "0, 2"],
            [0, -2, "0", "x", "", "1,x"],
        ),
    ],
)
def test_the_ends_of_a_range(hint, inside, outside):
    binder = Binder(())
    for value in inside:
        assert binder.cast(hint, value, "key") == value
    for value in outside:
        with pytest.raises(ConfigurationError, match=r"^key"):
            binder.cast(hint, value, "key")


def test_a_refusal_says_what_null_means():
    with pytest.raises(ConfigurationError, match=r"max_problems is -1: .*null takes all"):
        check(tree(**{"sample.max_problems": -1}))


def test_the_file_of_a_value_out_of_range_is_named(tmp_path):
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "train.yaml").write_text("grm:\n  val_every_steps: -1\n")
    with pytest.raises(ConfigurationError, match=r"\(conf/train.yaml, line 2\)"):
        check(tree(**{"grm.val_every_steps": -1}), conf)
    with pytest.raises(ConfigurationError) as caught:
        check(tree(**{"grm.val_every_steps": -2}), conf)
    assert "train.yaml" not in str(caught.value)


def test_own_code_reads_ranges_from_its_imports(tmp_path, monkeypatch):
    (tmp_path / "own_ranges.py").write_text(
        "from rlmec.settings.ranges import PositiveInt as Many, PathText\n"
        "def rule(x: Many = 1, y: 'PathText | None' = None, z: Share = 9): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = signature_of("own_ranges.rule", ("own_ranges.",)).hints
    assert found["x"] == ranges.PositiveInt
    assert found["y"] == ranges.PathText | None
    assert found["z"] is typing.Any  # a name that this module did not import from ours


def test_the_names_of_stages_are_those_of_the_flow():
    named = typing.get_args(ranges.StageName)
    assert named == (*flow.STAGES, EXPORT, PLAN, STATUS, PRUNE)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("paths.artifacts=~/store", "paths.artifacts=/home/someone/store"),
        ("task.path=[~/a,~/b]", "task.path=[/home/someone/a,/home/someone/b]"),
        ("hydra.run.dir=~/runs", "hydra.run.dir=/home/someone/runs"),
        ("paths.artifacts='~/store'", "paths.artifacts='~/store'"),  # the binding replaces it
        ("~report.compare.continued_sft", "~report.compare.continued_sft"),
        ("run_name=a~/b", "run_name=a~/b"),
    ],
)
def test_the_command_line_reads_a_home_folder(given, read, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert with_home_folders([given]) == [read]


def test_the_folders_of_runs_and_sweeps_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=["paths.outputs='~/o'"], return_hydra_config=True)
    assert cfg.hydra.run.dir.startswith("/home/someone/o/2")
    assert cfg.hydra.sweep.dir.startswith("/home/someone/o/sweeps/2")


@pytest.mark.parametrize("importing", [False, True])
def test_paths_of_library_targets_begin_at_home(importing, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    node = {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "~/logs"}
    found = Binder(("lightning.pytorch.loggers.",), importing=importing).cast(typing.Any, node, "x")
    assert found["save_dir"] == "/home/someone/logs"


LIBRARY_TARGETS = ["torch.optim.AdamW", "torch.optim.SGD", "torch.optim.Muon"]
LIBRARY_TARGETS += [f"lightning.pytorch.loggers.{kind}Logger" for kind in ("CSV", "Wandb")]
LIBRARY_TARGETS += ["lightning.pytorch.callbacks.ModelCheckpoint"]
LIBRARY_TARGETS += ["lightning.pytorch.strategies.DeepSpeedStrategy"]
LIBRARY_TARGETS += ["transformers.get_cosine_schedule_with_warmup"]


@pytest.mark.broad
@pytest.mark.parametrize("target", LIBRARY_TARGETS)
def test_a_library_signature_is_the_same_from_source_and_imported(target):
    source = signature_of(target, ALLOWED, importing=False)
    imported = signature_of(target, ALLOWED)
    assert source.hints.keys() == imported.hints.keys()
    assert (source.required, source.open) == (imported.required, imported.open)
