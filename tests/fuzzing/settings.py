"""Spoiled configurations, user's sources and command lines."""

from __future__ import annotations

import contextlib
import io
import random
import sys
from functools import cache
from pathlib import Path
from typing import Any

from small_settings import over_defaults

from rlmec.settings.binding import ConfigurationError
from rlmec.settings.check import check
from rlmec.settings.command_line import check_command_line
from rlmec.settings.fingerprinted import stage_settings
from rlmec.settings.signatures import Signature, SignatureError, signature_of

from .mutations import NASTY_TEXTS, spoiled_bytes, spoiled_text, spoiled_value
from .runner import Refused, refusing

FUNCTION = {"_target_": "rlmec.method.rewards.clipped_probability", "_partial_": True, "pivot": 0.5}
FIT = {"optimizer": FUNCTION, "scheduler": {}, "steps": 3}
PROMPT = ("policy", "rewrite", "rewrite_answer_only", "locate", "located")
TREE: dict[str, Any] = over_defaults(
    {
        "task": {"_target_": "rlmec.tasks.gsm8k.Gsm8kTask", "path": "x", "dev_share": 0.1},
        "prompt": {k: k for k in PROMPT},
        "model": {"shape": {"model_type": "llama", "hidden_size": 32}, "lora": {"r": 4}},
        "warmup": FIT | {"target_accuracy": 0.7},
        "sample": {"num_generations": 2, "seed": "${seed}"},
        "teacher": {"_target_": "rlmec.teachers.oracle.OracleTeacher"},
        "teach": {"share": 0.5},
        "grm": FIT | {"mixture": {"copy": 1.0}},
        "score": {"rewrite": True},
        "policy": FIT
        | {"objective": FUNCTION, "reward": FUNCTION, "rows": FUNCTION}
        | {"edit_weights": {"edited": 1.0}},
        "evaluate": {"split": "test", "model": None, "tasks": None},
        "report": {"compare": {"sft": {"steps": 3}}},
        "export": {"what": "grm"},
        "prune": {"keep_days": 3.0},
        "engine": {"_target_": "rlmec.engines.vllm.VllmEngine", "dtype": None},
        "trainer": {"devices": 1, "strategy": "auto"},
        "callbacks": {"extra": {}},
        "logger": None,
        "paths": {"artifacts": "a", "outputs": "o"},
        "security": {"allow": []},
        "seed": 1,
        "tags": ["x"],
    }
)
SOURCE = b'''
import functools
from dataclasses import dataclass
from typing import Literal
from .other import Base

class Task(Base):
    """Takes what Base takes."""

class Own:
    def __init__(self, path: str, share: float = 0.5, *, sizes: list[int] | None = None,
                 mode: Literal["a", "b"] = "a", names: "dict[str, float] | None" = None): ...

@dataclass
class Data:
    width: int
    depth: int = 2

def schedule(optimizer, power: float, **more): ...
'''
FILES = {
    "train.yaml": "defaults: [_self_, {task: a}, {optional experiment: null}]\nseed: 1\n"
    'policy: {steps: 10, seed: "${seed}"}\npath: null\n',
    "task/a.yaml": "train: 5\n",
    "task/b.yaml": "path: null\n",
    "experiment/mine.yaml": "# @package _global_\npolicy:\n  steps: 3\n",
}
WORDS = ["policy.steps=3", "task=b", "-m", "seed=1,2", "+new=1", "~seed", "experiment=mine"]
WORDS += ["path='a,b'", "policy.seed=${seed}", "+logger={a:{b:c}}", "++policy.steps=range(1,3)"]


def configurations(rng: random.Random, folder: Path) -> None:
    tree = spoiled_value(rng, TREE)
    if rng.random() < 0.3:
        tree = spoiled_value(rng, tree)
    with refusing(kinds=(ConfigurationError,)):
        found = check(tree)
        for stage in ("warmup", "policy", "teach"):
            stage_settings(found, stage)


@cache
def _package(folder: Path) -> Path:
    package = folder / "fuzzed_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "other.py").write_text("class Base:\n    def __init__(self, seed: int = 1): ...\n")
    sys.path.insert(0, str(folder))
    return package


def signatures(rng: random.Random, folder: Path) -> None:
    module = _package(folder) / "module.py"
    data = SOURCE
    if rng.random() < 0.15:
        wrong = [b"class Own(Own): ...\n", b"from .module import Own\n", b"Own = Task\n"]
        data = SOURCE.replace(b"class Own:", rng.choice(wrong) + b"class Other:")
    data = spoiled_bytes(rng, data)
    module.write_bytes(data)
    name = rng.choice(("Task", "Own", "Data", "schedule", "Own.x", "", "Non e", "\u0130"))
    target = f"fuzzed_package.module.{name}"
    with refusing(kinds=(SignatureError,)):
        assert isinstance(signature_of(target, ["fuzzed_package."]), Signature)
    assert module.read_bytes() == data


@cache
def _conf(folder: Path) -> Path:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def overrides(rng: random.Random, folder: Path) -> None:
    """A command line passes, or ends with 2 and a line that says why."""
    conf = _conf(folder)
    words = rng.sample(WORDS, rng.randrange(1, 4))
    at, kind = rng.randrange(len(words)), rng.randrange(4)
    if kind == 0:
        words[at] = spoiled_text(rng, words[at])
    elif kind == 1:
        words.append(f"path={rng.choice(NASTY_TEXTS)}")
    else:
        text = spoiled_bytes(rng, FILES["experiment/mine.yaml"].encode())
        (conf / "experiment" / "mine.yaml").write_bytes(text)
        words = ["experiment=mine", *words[:1]]
    said, code = io.StringIO(), 0
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            check_command_line(words, conf, "train")
    except SystemExit as end:
        code = end.code
    finally:
        (conf / "experiment" / "mine.yaml").write_text(FILES["experiment/mine.yaml"])
    assert code in (0, 2), code
    if code:
        assert "error: " in said.getvalue()
        assert "Traceback" not in said.getvalue()
        raise Refused(said.getvalue())
