"""The task that docs/own_task.md shows is a task, and a configuration can name it."""

import re
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from rlmec.settings.binding import build
from rlmec.settings.check import ConfigurationError, check
from rlmec.tasks.base import SPLITS, Task

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/own_task.md").read_text(encoding="utf-8")
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "my_pkg"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "tasks.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [n for n in sys.modules if n.split(".")[0] == "my_pkg"]:
        del sys.modules[name]


def tree(*overrides: str):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", ["logger=none", *overrides])  # its folder is the run's


SHOWN = ("task=own", "task._target_=my_pkg.tasks.SumTask", "teacher=reference")
ALLOW = "security.allow=[my_pkg.]"
NAMES = ["arithmetic", "gsm8k", "svamp", "math", "mmlu", "ecqa", "qasc", "openbookqa", "arc"]


@pytest.mark.usefixtures("package")
def test_the_page_shows_a_task_in_under_forty_lines():
    assert len(CODE.splitlines()) < 40
    assert all(part in PAGE for part in (*SHOWN, ALLOW))
    settings = check(tree(*SHOWN, ALLOW, "+task.largest=11"))
    task = build(settings.task)
    assert isinstance(task, Task)
    problems = {split: task.problems(split) for split in SPLITS}
    assert len({p.id for found in problems.values() for p in found}) == 121
    assert min(len(found) for found in problems.values()) > 5
    problem = problems["test"][0]
    assert task.judge(problem.solution or "", problem) == "right"
    assert task.judge("The answer is 99", problem) == "wrong"
    assert task.judge("I do not know", problem) == "no_answer"
    with pytest.raises(ValueError, match="'valid' is none of train, dev, test"):
        task.problems("valid")


@pytest.mark.usefixtures("package")
def test_its_package_has_to_be_allowed_and_its_settings_are_checked():
    with pytest.raises(ConfigurationError, match=r"'my_pkg\.tasks\.SumTask' is not allowed"):
        check(tree(*SHOWN))
    with pytest.raises(ConfigurationError, match=r"unknown key 'task\.larger'"):
        check(tree(*SHOWN, ALLOW, "+task.larger=3"))
    with pytest.raises(ConfigurationError, match=r"task\._target_ is missing"):
        check(tree("task=own"))


@pytest.mark.parametrize("name", [*NAMES, "dataset"])
def test_every_task_of_the_project_composes_and_is_bound(name, tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    path = [f"++task.path={tmp_path / 'a.jsonl'}"] if name == "dataset" else []
    assert build(check(tree(f"task={name}", *path)).task).name == name


def test_no_task_is_forgotten_here():
    found = {path.stem for path in (ROOT / "conf/task").glob("*.yaml")}
    assert found == {*NAMES, "dataset", "own", "ecqa_qasc"}
