"""Every key and value is checked before anything runs, and every leaf counts where it should."""

import contextlib
import copy
import dataclasses
import functools
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from small_settings import tree

from rlmec.settings import fingerprinted, key_places, schema
from rlmec.settings.binding import build, is_secret
from rlmec.settings.check import ConfigurationError, check, rebind
from rlmec.settings.command_line import check_command_line, checked_arguments, with_stage
from rlmec.settings.signatures import signature_of

USER = '''
import functools
from dataclasses import dataclass
from typing import Literal
from .bases import Base
from os import system
from pathlib import PurePath
raise RuntimeError("a signature was read by importing the module")

class Task(Base):
    """Takes what Base takes."""

class Far(PurePath):
    """Its base is no code of the user's: what it takes is not known."""

class Own:
    def __init__(self, path: str, share: float = 0.5, *, sizes: list[int] | None = None,
                 mode: Literal["a", "b"] = "a", either: str | int = 1,
                 names: "dict[str, float] | None" = None): ...

@dataclass
class Data(Base2 if False else object):
    width: int
    depth: int = 2

def schedule(optimizer, num_warmup_steps, num_training_steps, power: float): ...

def anything(x: int, **more): ...
'''


@pytest.fixture
def user(tmp_path, monkeypatch):
    package = tmp_path / "code" / "userpkg_config"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "parts.py").write_text(USER)
    (package / "bases.py").write_text(
        "class Base:\n    def __init__(self, seed: int = 1, split: str | None = None): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "code")
    return "userpkg_config.parts."


def checked(**changes):
    return check(tree(**changes))


def refusal(*config_dirs, **changes):
    with pytest.raises(ConfigurationError) as caught:
        check(tree(**changes), *config_dirs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_whole_tree_becomes_plain_settings():
    s = check(
        OmegaConf.create(tree(**{"warmup.gradient_clip": 1, "seed": 7, "sample.seed": "${seed}"}))
    )
    assert isinstance(s, schema.RunSettings)
    assert (s.sample.seed, s.grm.mixture) == (7, schema.Mixture(copy=1.0, locate=0.25))
    assert type(s.warmup.gradient_clip) is float
    assert type(s.policy.objective) is dict
    assert s.model.lora == schema.LoraSettings(4)
    assert (s.model.shape["model_type"], s.model.shape["hidden_size"]) == ("llama", 32)


@pytest.mark.parametrize(
    ("key", "given", "kept"),
    [
        ("warmup.gradient_clip", 1, 1.0),
        ("warmup.gradient_clip", None, None),
        ("warmup.steps", 100.0, 100),
        ("warmup.precision", 32, "32"),
        ("trainer.devices", "auto", "auto"),
        ("trainer.devices", 2, 2),
        ("policy.optimizer.lr", 1, 1.0),
        ("policy.optimizer.betas", [0, 0.9], [0.0, 0.9]),
        ("policy.objective.epsilon", 1, 1.0),
        ("task.train", 5.0, 5),
    ],
)
def test_values_are_cast_to_the_annotated_type(key, given, kept):
    s = schema.as_plain(checked(**{key: given}))
    found = functools.reduce(lambda at, name: at[name], key.split("."), s)
    assert found == kept
    assert type(found) is type(kept)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("warmup.steps", "1", "warmup.steps: expected int or null, found '1' (str)"),
        ("warmup.steps", 1.5, "warmup.steps: expected int or null, found 1.5 (float)"),
        ("warmup.steps", True, "warmup.steps: expected int or null, found True (bool)"),
        ("sample.temperature", "hot", "sample.temperature: expected float, found 'hot' (str)"),
        ("sample.top_p", None, "sample.top_p: expected float, found None (null)"),
        ("score.rewrite", 1, "score.rewrite: expected bool, found 1 (int)"),
        ("prompt.policy", 1.5, "prompt.policy: expected str, found 1.5 (float)"),
        ("prompt.policy", True, "prompt.policy: expected str, found True (bool)"),
        ("sample.top_p", True, "sample.top_p: expected float, found True (bool)"),
        ("tags", "x", "tags: expected list, found 'x' (str)"),
        ("tags", [["x"]], "tags[0]: expected str, found ['x'] (list)"),
        ("grm.mixture", 1, "grm.mixture: expected a node of Mixture, found 1 (int)"),
        ("policy.optimizer.betas", [0.9], "policy.optimizer.betas: expected a list of 2"),
        ("policy.objective.epsilon", "x", "policy.objective.epsilon: expected float, found 'x'"),
        ("task.train", "many", "task.train: expected int, found 'many' (str)"),
        ("report.compare", {"a": 1}, "report.compare.a: expected dict or null, found 1 (int)"),
    ],
)
def test_a_value_of_another_type_is_refused(key, value, expected):
    assert refusal(**{key: value}).startswith(expected)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("polcy", "'policy'"),
        ("sample.num_generation", "'sample.num_generations'"),
        ("grm.mixture.coppy", "'grm.mixture.copy'"),
        ("policy.objective.epsilom", "'policy.objective.epsilon'"),
        ("policy.optimizer.weight_decai", "'policy.optimizer.weight_decay'"),
        ("task.trian", "'task.train'"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(key, near):
    assert f"unknown key {key!r}" in (message := refusal(**{key: 1}))
    assert f"the nearest is {near}" in message


def test_the_file_of_an_unknown_key_is_named(tmp_path):
    conf = tmp_path / "conf"
    (conf / "experiment").mkdir(parents=True)
    (conf / "train.yaml").write_text("grm:\n  val_share: 0.1\n")
    (conf / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ngrm:\n  vall_share: lots\n"
    )
    message = refusal(conf, **{"grm.vall_share": 0.1})
    assert message.endswith("'grm.val_share' (conf/experiment/mine.yaml, line 3)")
    assert "yaml" not in refusal(conf, **{"grm.foo": 1})
    assert "yaml" not in refusal(conf, **{"grm.val_share": "0.1"}).replace("train.yaml", "")


def test_a_file_of_another_run_is_not_blamed(tmp_path, monkeypatch):
    conf = tmp_path / "conf"
    (conf / "experiment").mkdir(parents=True)
    (conf / "task").mkdir()
    whole = "# @package _global_\n"
    (conf / "experiment" / "a.yaml").write_text(whole + "grm:\n  vall_share: 1\n")
    (conf / "experiment" / "b.yaml").write_text(whole + "task:\n  size: 1\n")
    (conf / "task" / "c.yaml").write_text("# mine\nseed: 1\nsize: 1\n")
    (conf / "train.yaml").write_text("size: 1\npolicy: {steps: 2}\ngrm:\n  - vall_share: 1\n")
    files = ["task/c", "experiment/none", "train"]
    monkeypatch.setattr(key_places.HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(key_places, "_chosen_names", lambda: files)
    assert key_places.place_of("grm.vall_share", [conf]) == ""
    assert key_places.place_of("task.size", [conf]) == " (conf/task/c.yaml, line 3)"
    assert key_places.place_of("task.size", [conf], "2") == ""
    assert key_places.place_of("policy.steps", [conf], "2") == " (conf/train.yaml, line 2)"
    files.append("experiment/b")
    assert key_places.place_of("task.size", [conf]) == " (conf/experiment/b.yaml, line 3)"


TASK_FILES = {
    "own": "_target_: rlmec.tasks.arithmetic.ArithmeticTask\nseed: ${seed}\ntrain: 7\n",
    "lines": "_target_: rlmec.tasks.dataset.DatasetTask\npath: ???\n",
}


@pytest.fixture
def task_files(tmp_path):
    (tmp_path / "conf" / "task").mkdir(parents=True)
    for name, text in TASK_FILES.items():
        (tmp_path / "conf" / "task" / f"{name}.yaml").write_text(text)
    return tmp_path / "conf"


def test_judged_tasks_are_named_by_their_files(task_files):
    def tasks(given):
        return check(tree(**{"evaluate.tasks": given, "seed": 5}), task_files).evaluate.tasks

    shown = {"_target_": "rlmec.tasks.arithmetic.ArithmeticTask", "seed": 5, "train": 7}
    own = checked(task=shown).task  # with what the signature adds
    lines = checked(task={"_target_": "rlmec.tasks.dataset.DatasetTask", "path": "x"}).task
    assert tasks(None) is None
    assert tasks(["own"]) == {"own": own}
    assert tasks({"own": {"train": 9.0}, "lines": {"path": "x"}}) == {
        "own": own | {"train": 9},
        "lines": lines,
    }
    assert tasks({"mine": lines, "own": None}) == {"mine": lines, "own": own}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["owm"], "evaluate.tasks: no task 'owm'; the nearest is 'own'"),
        (["zzz"], "no task 'zzz'; there is lines, own"),
        ({"own": {"trian": 3}}, "the nearest is 'evaluate.tasks.own.train'"),
        ({"own": {"train": "many"}}, "evaluate.tasks.own.train: expected int"),
        ({"own": 3}, "evaluate.tasks.own: expected changes of its node"),
        (["lines"], "evaluate.tasks.lines.path"),
        ({"x": {"_target_": "os.system"}}, "evaluate.tasks.x._target_: 'os.system' is not allowed"),
    ],
)
def test_a_wrong_judged_task_is_refused(task_files, given, expected):
    assert expected in refusal(task_files, **{"evaluate.tasks": given, "seed": 5})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("evaluate.modes", ["strickt"], "evaluate.modes[0]: expected"),
        ("evaluate.overlap", "ignore", "evaluate.overlap: expected"),
        ("evaluate.num_fewshot", -1, "num_fewshot is -1"),
        ("evaluate.attempts", {"a": 1}, "evaluate.attempts: expected"),
    ],
)
def test_a_wrong_way_to_judge_is_refused(key, value, expected):
    assert expected in refusal(**{key: value})
    both = {"evaluate.model": "m", "evaluate.attempts": "a"}
    assert "evaluate" in refusal(**both)


def test_a_comparison_is_bound_as_changes_of_the_policy_node():
    message = refusal(**{"report.compare": {"sft": {"edit_weights": {"keptt": 0.0}}}})
    assert "the nearest is 'report.compare.sft.edit_weights.kept'" in message
    policy = checked().policy
    new = {"_target_": "rlmec.method.objectives.weighted_likelihood", "_partial_": True}
    changes = {"steps": 7.0, "optimizer": {"lr": 1}, "objective": new}
    other = rebind(policy, changes, "report.compare.sft")
    assert (other.steps, other.objective) == (7, new | {"imitation_coef": 1.0})
    assert other.optimizer == policy.optimizer | {"lr": 1.0}
    assert other.edit_weights == policy.edit_weights


def test_changes_of_the_task_for_the_warm_up_are_bound_as_the_task():
    assert checked(**{"warmup.task": {"max_steps": 2}}).warmup.task == {"max_steps": 2}
    message = refusal(**{"warmup.task": {"max_stepz": 2}})
    assert "the nearest is 'warmup.task.max_steps'" in message
    message = refusal(**{"warmup.task": {"_target_": "rlmec.tasks.arithmetic.ArithmeticTask"}})
    assert "not its _target_" in message


def test_a_missing_value_is_named():
    plain = tree()
    del plain["prompt"]["locate"]
    with pytest.raises(ConfigurationError, match=r"prompt\.locate is missing; PromptSettings"):
        check(plain)
    assert "policy.optimizer" in refusal(**{"policy.optimizer": "???"})
    assert "task needs a _target_" in refusal(task={"train": 3})
    assert "policy.objective needs a _target_" in refusal(**{"policy.objective": {}})


@pytest.mark.parametrize("name", ["precision", "max_steps", "gradient_clip_val"])
def test_a_trainer_key_that_shapes_a_result_names_the_right_one(name):
    message = refusal(**{f"trainer.{name}": 1})
    right = {"precision": "precision", "max_steps": "steps", "gradient_clip_val": "gradient_clip"}
    assert f"policy.{right[name]}" in message


@pytest.mark.parametrize("key", ["task", "callbacks.extra", "logger", "trainer.strategy"])
@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.hub.load",
        "pandas.read_pickle",
        "builtins.open",
        "rlmecx.f",
        "subprocess.run",
        "transformers.AutoModel.from_pretrained",
        "hydra.utils.instantiate",
        3,
    ],
)
def test_a_forbidden_target_is_refused_wherever_it_stands(key, target):
    message = refusal(**{key: {"deep": [{"_target_": target, "x": 1}]}})
    assert f"{key}.deep[0]._target_: {target!r} is not allowed" in message
    assert "security.allow" in message


@pytest.mark.parametrize(
    "target",
    [
        "torch.optim.adam.torch.hub.load",  # a module's own imports are no way out
        "torch.optim.adam.cast",
        "torch.optim.AdamX",
        "rlmec.store.artifacts.subprocess.run",
        "rlmec.store.artifacts.Timeout",
        "rlmec.store.artifacts",
        "rlmec.nothing.f",
        "rlmec.method.rewards.clipped_probabilty",
        "peft.utils.other.os.system",
    ],
)
def test_a_target_must_be_defined_below_its_prefix(target):
    assert "_target_" in refusal(task={"_target_": target})


def test_positional_and_hydra_keys_of_a_target_are_refused():
    node = {"_target_": "rlmec.method.rewards.clipped_probability", "_partial_": True}
    for key in ("_args_", "_convert_", "_recursive_"):
        assert f"policy.reward.{key}" in refusal(**{"policy.reward": node | {key: []}})
    assert "_partial_: expected bool" in refusal(**{"policy.reward": node | {"_partial_": "x"}})


def test_a_users_own_code_is_bound_without_importing_it(user):
    def ok(node, **more):
        return check(tree(**{"security.allow": ["userpkg_config."], "task": node, **more})).task

    assert ok({"_target_": f"{user}Task", "seed": 3.0})["seed"] == 3
    own = {"_target_": f"{user}Own", "path": "p", "share": 1, "sizes": [1], "mode": "b"}
    assert type(ok(own)["share"]) is float
    data = {"_target_": f"{user}Data", "width": 3}
    assert ok(data) == data | {"depth": 2}  # the default is bound, so that a fingerprint has it
    assert ok({"_target_": f"{user}schedule", "power": 2})["power"] == 2.0
    assert ok({"_target_": f"{user}anything", "x": 1, "y": "z"})["y"] == "z"
    assert ok({"_target_": f"{user}Own", "_partial_": True})["_partial_"] is True
    assert ok({"_target_": f"{user}Far", "any": 1})["any"] == 1
    assert ok(own | {"either": 3})["either"] == 3
    assert ok(own | {"names": {"a": 1}})["names"] == {"a": 1.0}


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"_target_": "Own"}, "task.path is missing"),
        ({"_target_": "schedule"}, "task.power is missing"),
        ({"_target_": "Own", "path": "p", "mode": "c"}, "task.mode: expected"),
        ({"_target_": "Own", "path": "p", "sizes": ["1"]}, "task.sizes[0]: expected"),
        ({"_target_": "Task", "sead": 1}, "the nearest is 'task.seed'"),
        ({"_target_": "Data", "width": 1, "deph": 1}, "the nearest is 'task.depth'"),
        ({"_target_": "Base"}, "name it 'userpkg_config.bases.Base'"),
        ({"_target_": "system", "command": "ls"}, "name it 'os.system'"),
        ({"_target_": "Owm", "path": "p"}, "the nearest is userpkg_config.parts.Own"),
        ({"_target_": "Own.path"}, "not a class or function"),
    ],
)
def test_a_wrong_node_of_a_users_own_code_is_refused(user, node, expected):
    node = node | {"_target_": user + node["_target_"]}
    assert expected in refusal(**{"security.allow": ["userpkg_config."], "task": node})
    assert "not allowed" in refusal(task=node)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def Own(:\n", "wrong.py, line 1: not Python"),
        ("x = 1\0\n", "not Python"),
        ("class Own(Own):\n    pass\n", "defined by itself"),
        ("class Own(Other):\n    pass\nclass Other(Own):\n    pass\n", "defined by itself"),
    ],
)
def test_a_users_source_that_is_no_python_or_a_circle_is_refused(user, tmp_path, text, expected):
    (tmp_path / "code" / "userpkg_config" / "wrong.py").write_text(text)
    node = {"_target_": "userpkg_config.wrong.Own", "x": 1}
    assert expected in refusal(**{"security.allow": ["userpkg_config."], "task": node})


@pytest.mark.parametrize("text", ["a: [\n", "a: 1\na: 2\n", "7\n", "\xff"])
def test_a_file_of_the_configuration_that_is_none_is_named(tmp_path, capsys, text):
    (tmp_path / "train.yaml").write_text("defaults: [_self_, {task: a}]\nseed: 1\n")
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "a.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(SystemExit):
        check_command_line(["seed=2"], tmp_path, "train")
    shown = capsys.readouterr().err
    assert "a.yaml" in shown
    assert "Traceback" not in shown
    assert shown.count("\n") == 1


def test_allowed_prefixes_end_in_a_dot():
    for prefix in ("os", ".", "", 3):
        assert "security.allow" in refusal(**{"security.allow": [prefix]})


def test_secrets_have_no_key_in_the_tree():
    message = refusal(logger={"wandb": {"api_key": "canary-1234"}})
    assert "'logger.wandb.api_key' looks like a secret" in message
    assert "canary" not in message


def test_build_calls_the_target_with_plain_values():
    problem = {"_target_": "rlmec.records.Problem", "id": "p", "question": "q?"}
    built = build(problem, answer="4")
    assert (built.id, built.answer) == ("p", "4")
    later = build(problem | {"_partial_": True}, answer="5")
    assert later(kind="k").answer == "5"
    nested = build({"_target_": "builtins.dict", "a": [problem | {"answer": "6"}], "b": {"c": [1]}})
    assert nested["a"][0].answer == "6"
    assert type(nested["b"]) is dict
    marker = object()
    assert build({"_target_": "builtins.dict"}, marker=marker)["marker"] is marker


# ---- which leaf counts where -----------------------------------------------------------------

COUNTS = {
    "task": {"warmup", "sample", "teach", "evaluate"},
    "prompt": {"warmup", "sample", "grm", "score", "evaluate"},
    "model": {"warmup"},
    "model.lora": {"policy"},
    "model.max_completion_length": set(),  # by the stages that take it over
    "model.dtype": {"sample", "grm", "score", "policy", "evaluate"},
    "model.quantization": {"sample", "grm", "score", "policy", "evaluate"},
    "warmup": {"warmup"},
    "sample": {"sample"},
    "teacher": {"teach"},
    "teach": {"teach"},
    "grm": {"grm"},
    "warmup.when": set(),
    "grm.later_steps": set(),  # in the GRM of a later round alone
    "sample.fresh": set(),  # in later rounds alone, as the next two
    "teach.rounds": set(),
    "policy.imitated_rounds": set(),
    "score": {"score"},
    "policy": {"policy"},
    "evaluate": {"evaluate"},
    "evaluate.model": set(),
    "evaluate.attempts": set(),
    "evaluate.against": set(),
    "evaluate.tasks": set(),  # each node in the artifact of its own task
    "evaluate.text_field": set(),
    "evaluate.question_field": set(),
    "report": {"report"},
    "report.each_round": set(),  # by what the report reads
    "report.against": set(),  # by the report that it names
    "engine": {"sample", "evaluate"},
    "engine.tensor_parallel_size": set(),
    "engine.gpu_memory_utilization": set(),
    "engine.max_model_len": set(),
    "engine.enforce_eager": set(),
}
IGNORED = "export prune trainer callbacks logger paths security seed stage rounds resume ckpt_path"
IGNORED += " run_name tags"


def leaves(value, key=()):
    if dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            yield from leaves(getattr(value, f.name), (*key, f.name))
    elif isinstance(value, dict) and value:
        for name in value:
            yield from leaves(value[name], (*key, name))
    else:
        yield key


def changed(value, key):
    if not key:
        return f"changed {value!r}"
    if dataclasses.is_dataclass(value):
        other = copy.copy(value)  # past the checks of values: any difference will do here
        object.__setattr__(other, key[0], changed(getattr(value, key[0]), key[1:]))
        return other
    return value | {key[0]: changed(value[key[0]], key[1:])}


def test_every_leaf_changes_the_stages_of_the_table():
    base = checked()
    keys = list(leaves(base))
    assert len(keys) > 100
    for key in keys:
        other = changed(base, key)
        found = {
            stage
            for stage in fingerprinted.STAGE_NODES
            if fingerprinted.stage_settings(base, stage)
            != fingerprinted.stage_settings(other, stage)
        }
        dotted = ".".join(key)
        ignored = key[0] in [*IGNORED.split(), "optimized_metric"]
        expected = COUNTS.get(key[0], set())
        for node in (".".join(key[:2]), dotted):
            expected = COUNTS.get(node, expected)
        expected = set() if ignored else expected
        assert found == expected, dotted


ANSWERS = {"model": "m", "base_url": "http://localhost/v1", "temperature": 0.5, "options": {"a": 1}}
ANSWERS |= {"max_completion_length": 9, "limit_field": "x", "num_proposals": 2}
ANSWERS |= {"max_tokens_total": 5, "max_cost": 1.0, "price_per_million_input": 1.0}
ANSWERS |= {"price_per_million_output": 1.0}
PROMPTS = {k: f"{k} {{question}}{{attempt}}" for k in ("locate", "locate_answer_only")}
PROMPTS |= {k: f"{k} {{question}}{{attempt}}{{step}}" for k in ("rewrite", "rewrite_answer_only")}
PROMPTS |= {"_target_": "rlmec.teachers.steps.StepPrompts", "system": None}
ASKED = {"api_key_env": "KEY_NAME", "cache": "c", "max_concurrency": 3, "max_retries": 4}
ASKED |= {"max_failures": 5, "timeout": 1.0, "backoff": 1.0, "max_wait": 2.0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt.policy": "{qestion}"}, "prompt policy {qestion} {question}"),
        ({"prompt.rewrite": "{question}"}, "prompt rewrite {attempt}"),
        ({"prompt.located": "{step}\\n"}, "prompt located backslash"),
        ({"prompt.date": "tomorrow"}, "prompt.date tomorrow"),
        ({"prompt.date": "20240726"}, "prompt.date 20240726"),
        ({"prompt.date": "2024-02-30"}, "prompt.date 2024-02-30"),
        ({"prompt.template_args": {"a": 1}}, "prompt template_args prompt=chat"),
        ({"teacher.prompts.rewrite": "{question}"}, "teacher.prompts rewrite {attempt}"),
        ({"teacher.prompts.locate": "{question}{atempt}"}, "teacher.prompts locate {atempt}"),
    ],
)
def test_a_prompt_that_cannot_be_filled_is_refused(change, words):
    """Those of a teacher too, whatever its class."""
    teacher = {"_target_": "rlmec.teachers.local.LocalTeacher", "path": "d", "prompts": PROMPTS}
    message = refusal(teacher=copy.deepcopy(teacher), **change)
    assert all(word in message for word in words.split()), message


def test_how_a_teacher_asks_does_not_count_and_what_shapes_its_answers_does():
    """Its budget counts: it decides which attempts get a correction."""
    target = "rlmec.teachers.endpoint.OpenAITeacher"
    base = checked(teacher={"_target_": target, "prompts": PROMPTS, **ANSWERS, **ASKED})
    known = set(signature_of(target, ("rlmec.",)).hints) - {"task"}
    assert known == {"prompts", *ANSWERS, *ASKED}
    keys = [key for key in leaves(base) if key[0] == "teacher"]
    assert len(keys) == len(ANSWERS) + len(ASKED) + len(PROMPTS) + 1
    for key in keys:
        stages = fingerprinted.STAGE_NODES
        one, other = (
            {stage: fingerprinted.stage_settings(s, stage) for stage in stages}
            for s in (base, changed(base, key))
        )
        found = {stage for stage in stages if one[stage] != other[stage]}
        assert found == (set() if key[1] in ASKED else {"teach"}), key


@pytest.mark.parametrize("name", ["epsilon", "kl_coef", "policy_coef"])
def test_a_default_of_a_signature_counts_in_the_fingerprint(name):
    """An artifact's address is the same whether the default's value is given or left out, and
    another one for another value."""
    node = {"_target_": "rlmec.method.objectives.rlmec_clipped", "_partial_": True}
    default = signature_of(node["_target_"], ("rlmec.",)).defaults[name]
    nodes = [node, node | {name: default}, node | {name: 0.25}]
    left, given, other = (
        fingerprinted.stage_settings(checked(**{"policy.objective": n}), "policy") for n in nodes
    )
    assert left == given
    assert left != other
    assert left["policy"]["objective"][name] == default


def test_a_users_own_teacher_counts_whole(user):
    own = {"_target_": f"{user}anything", "x": 1, "timeout": 2}
    allow = {"security.allow": ["userpkg_config."]}
    settings_ = [checked(teacher=own | {"timeout": t}, **allow) for t in (2, 3)]
    one, other = (fingerprinted.stage_settings(s, "teach") for s in settings_)
    assert one != other


def test_every_node_is_counted_or_on_the_ignored_list():
    counted = {n.split(".")[0] for nodes in fingerprinted.STAGE_NODES.values() for n in nodes}
    ignored = {k for k in fingerprinted.IGNORED if "." not in k}
    assert counted | ignored == {f.name for f in dataclasses.fields(schema.RunSettings)}
    assert not counted & ignored


# ---- the command line -------------------------------------------------------------------------

FILES = {
    "train.yaml": """
defaults:
  - _self_
  - task: arithmetic
  - policy/objective: clipped
  - optional experiment: null
  - override hydra/job_logging: default
seed: 1
policy: {steps: 10, seed: "${seed}", optimizer: {lr: 0.1}}
grm: {steps: 5}
path: null
""",
    "task/arithmetic.yaml": "train: 5\n",
    "task/gsm8k.yaml": "path: null\n",
    "policy/objective/clipped.yaml": (
        "_target_: rlmec.method.objectives.rlmec_clipped\nepsilon: 0.2\n"
    ),
    "policy/objective/authors.yaml": (
        "_target_: rlmec.method.objectives.rlmec_authors\ncoef: 0.2\n"
    ),
    "experiment/smoke.yaml": "# @package _global_\ngrm: {steps: 1}\n",
}


@pytest.fixture(scope="module")
def conf(tmp_path_factory):
    root = tmp_path_factory.mktemp("conf")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    "line",
    [
        "",
        "policy.steps=3 task=gsm8k experiment=smoke",
        "policy.objective.epsilon=0.3",
        "policy/objective=authors policy.objective.coef=1",
        "-m policy.steps=1,2 task=arithmetic,gsm8k",
        "-m policy.steps=range(1,4) policy.optimizer.lr=interval(0.1,0.2)",
        "-m experiment=glob(*)",
        "-m hydra/launcher=joblib hydra.launcher.n_jobs=2 policy.steps=1,2",
        "+policy.new=1 ++grm.steps=4",
        "~seed",
        "~grm.steps",
        "hydra.run.dir=/tmp/x/y",
        "--help polcy=1",
        "--cfg job policy.steps=1",
        "--hydra-help",
        "path='a,b=c'",
    ],
)
def test_right_command_lines_pass(conf, capsys, line):
    check_command_line(line.split(), conf, "train")
    assert capsys.readouterr() == ("", "")


def test_a_setting_that_no_file_shows_is_overridden_like_any_other(conf):
    line = "policy.steps=3 policy.tokens_per_step=4 policy.objective.kl_coef=0.1 task=gsm8k"
    checked = check_command_line(line.split(), conf, "train")
    assert checked == (
        [
            "policy.steps=3",
            "++policy.tokens_per_step=4",
            "++policy.objective.kl_coef=0.1",
            "task=gsm8k",
        ]
    )
    swept = check_command_line(["-m", "policy.objective.kl_coef=0.1,0.2"], conf, "train")
    assert swept == ["-m", "++policy.objective.kl_coef=0.1,0.2"]


def test_variables_of_a_chat_template_have_any_name():
    line = ["prompt=chat", "prompt.template_args.enable_thinking=false"]
    folder = Path(__file__).resolve().parents[2] / "conf"
    assert check_command_line(line, folder, "train") == [line[0], f"++{line[1]}"]


def test_files_of_an_own_folder_are_known(conf, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ngrm: {steps: 2}\n")
    line = [f"--config-dir={tmp_path}", "experiment=mine", "policy.tokens_per_step=4"]
    assert check_command_line(line, conf, "train") == [*line[:2], "++policy.tokens_per_step=4"]


@pytest.fixture
def own_conf(tmp_path):
    """A user's folder: an experiment, an option of a group of the project, and a group."""
    for name in ("experiment/mine", "policy/objective/hers", "style/short"):
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text("# @package _global_\ngrm: {steps: 2}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("naming", "override", "hint"),
    [
        ("--config-dir={}", "experiment=mine", None),
        ("--config-dir={}", "experiment=mien", "the nearest is 'mine'"),
        ("--config-dir={}", "styl=short", "the nearest is 'style'"),
        ("hydra.searchpath=[{}]", "experiment=mine", None),
        ("hydra.searchpath=[file://{}]", "policy/objective=hers", None),
        ("hydra.searchpath=[file://{}]", "policy/objective=her", "the nearest is 'hers'"),
        ("hydra.searchpath=[file://{}]", "experiment=smok", "the nearest is 'smoke'"),
        ("hydra.searchpath=[file://{}]", "+style=short", None),
        ("hydra.searchpath=[file://{}]", "+style=shrt", "the nearest is 'short'"),
        ("hydra.searchpath=[file://{}]", "policy.stesp=2", "the nearest is 'policy.steps'"),
    ],
)
def test_a_folder_of_the_user_is_part_of_the_tree(conf, own_conf, naming, override, hint):
    line = [naming.format(own_conf), override]
    if hint is None:
        assert checked_arguments(line, conf, "train") == line
    else:
        with pytest.raises(ConfigurationError, match=hint):
            checked_arguments(line, conf, "train")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", "stage=plan"),
        ("seed=2 -m", "stage=plan seed=2 -m"),
        ("-m seed=2,3", "-m stage=plan seed=2,3"),
        ("--config-dir a seed=2", "--config-dir a stage=plan seed=2"),
        ("--config-dir a", "--config-dir a stage=plan"),
        ("stage=plan", "stage=plan stage=plan"),
    ],
)
def test_a_command_s_stage_goes_in_front_of_the_overrides(given, expected):
    assert with_stage(given.split(), "plan") == expected.split()
    with pytest.raises(ConfigurationError, match="stage=grm"):
        with_stage(["seed=1", "stage=grm"], "plan")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("polcy.steps=3", "unknown key 'polcy.steps': the nearest is 'policy.steps'"),
        ("policy.stesp=3", "unknown key 'policy.stesp': the nearest is 'policy.steps'"),
        ("~policy.stesp", "the nearest is 'policy.steps'"),
        ("-m policy.stesp=1,2", "the nearest is 'policy.steps'"),
        ("experimnt=smoke", "unknown key 'experimnt': the nearest is 'experiment'"),
        ("task=gsm9k", "task=gsm9k: no such option; the nearest is 'gsm8k'"),
        ("-m task=arithmetic,gsm9k", "task=gsm9k: no such option; the nearest is 'gsm8k'"),
        ("objective=authors", "the nearest is 'policy/objective'"),
        ("policy/objectiv=authors", "the nearest is 'policy/objective'"),
        ("policy/objective=author", "no such option; the nearest is 'authors'"),
        ("policy.objective=authors", "write policy/objective=authors"),
        ("experiment=zzz", "experiment=zzz: no such option; there is smoke"),
        ("~policy.tokens_per_step", "unknown key 'policy.tokens_per_step'"),
        ("policy.objective.imitation_coeff=3", "the nearest is 'policy.objective.imitation_coef'"),
        ("--config-dir=/nowhere policy.steps=1", "--config-dir /nowhere"),
        ("hydra.searchpath=[/nowhere] policy.steps=1", "hydra.searchpath=/nowhere"),
        ("hydra.searchpath=/nowhere policy.steps=1", "expected a list"),
        ("task=gsm8k task.train=5", "unknown key 'task.train'"),
        ("policy.steps=1,2", "error:"),
        ("policy.steps={", "error:"),
        ("-m experiment=glob(x*)", "experiment=glob(x*) matches nothing"),
        ("policy.steps", "error:"),
        ("--config-name=trian", "error:"),
        ("--no-such-flag", "--no-such-flag"),
    ],
)
def test_wrong_command_lines_end_with_one_line(conf, capsys, line, expected):
    with pytest.raises(SystemExit) as caught:
        check_command_line(line.split(), conf, "train")
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert expected in shown
    assert "Traceback" not in shown
    if shown.startswith("error:"):
        assert shown.count("\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        "logger.wandb.api_key=canary",
        "+token=canary",
        "++model.access_token=canary",
        "--help +password=canary",
        "-m +logger.key=canary,canary2",
        "+logger={wandb:{api_key:canary}}",
        "+a/secret=canary",
        "hydra.job.env_set.OPENAI_API_KEY=canary",
        "+model.hf_access_token=canary",
        "-m ++Logger.PASSWORD=canary",
        "-m seed=1,2 +logger.client-secret=canary",
        "--cfg job +logger.token=canary",
        "--config-dir=/nowhere +logger.token=canary",
    ],
)
def test_secrets_on_the_command_line_are_refused_unseen(conf, capsys, line):
    with pytest.raises(SystemExit) as caught:
        check_command_line(line.split(), conf, "train")
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert "looks like a secret" in shown
    assert "canary" not in shown


@pytest.mark.parametrize("name", ["API_KEY", "wandb_api_key", "client-secret", "Access_Token"])
def test_secrets_in_files_are_refused_unseen_before_hydra_starts(tmp_path, capsys, name):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "a.yaml").write_text(f"deep: [{{{name}: canary-1234}}]\n")
    (tmp_path / "train.yaml").write_text("defaults: [_self_, {task: a}]\nseed: 1\n")
    with pytest.raises(SystemExit):
        check_command_line(["seed=2"], tmp_path, "train")
    shown = capsys.readouterr().err
    assert f"'task.deep.{name}'" in shown.replace("[0]", "")
    assert "looks like a secret" in shown
    assert "canary" not in shown
    message = refusal(**{"callbacks.extra": {"a": [{name: "canary-1234"}]}})
    assert "looks like a secret" in message
    assert "canary" not in message


@pytest.mark.parametrize(
    "name", ["digits_per_token", "tokens_per_step", "key_field", "keys", "per_attempt_token"]
)
def test_names_that_only_sound_like_secrets_pass(name):
    assert not is_secret(name)


def test_checking_leaves_hydra_as_it_was(conf):
    with contextlib.suppress(SystemExit):
        check_command_line(["polcy=3"], conf, "train")
    assert not GlobalHydra.instance().is_initialized()


def test_nothing_heavy_is_imported():
    code = (
        "import sys, rlmec.settings.check, rlmec.runtime.ranks\n"
        "heavy = {'torch', 'lightning', 'transformers', 'datasets', 'peft', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    root = Path(schema.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_wrong_key_is_found_before_libraries_are_imported():
    code = (
        "import sys; sys.path[:0] = ['tests', '.']\n"
        "from rlmec.settings.check import check\n"
        "from small_settings import tree\n"
        "try: check(tree(**{'report.compar': {}}))\n"
        "except ValueError as e: print(e, 'torch' in sys.modules)"
    )
    root = Path(schema.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout.strip().endswith("the nearest is 'report.compare' False")
