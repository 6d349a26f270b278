"""What keeps a run from doing what its configuration, data and models have no right to."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from rlmec.answers import final_answer as numbers
from rlmec.answers.math_verifier import Verifier
from rlmec.answers.options import judge_option
from rlmec.evaluation.lenient_reading import judge_flexible
from rlmec.evaluation.paper_reading import judge_as_authors
from rlmec.records import VERDICTS, Problem
from rlmec.settings import check
from rlmec.tasks.dataset import DatasetTask

ROOT = Path(__file__).resolve().parents[2]


def targets_of(folder):
    text = "\n".join(path.read_text() for path in folder.rglob("*.yaml"))
    return set(re.findall(r"_target_:\s*([\w.]+)", text))


def test_the_allow_list_is_what_the_configuration_uses_and_nothing_else():
    """Callbacks alone are not used by conf/: `callbacks.extra` is the place for a user's."""
    used = targets_of(ROOT / "conf") | targets_of(ROOT / "benchmarks" / "conf")
    assert len(used) > 30
    assert [t for t in used if not t.startswith(check.ALLOWED)] == []
    idle = [p for p in check.ALLOWED if not any(t.startswith(p) for t in used)]
    assert idle == ["lightning.pytorch.callbacks."]
    assert all(prefix.endswith((".", "_")) for prefix in check.ALLOWED)


@pytest.mark.parametrize("line", ["+token=canary-1", "-m seed=1,2 ++logger.wandb.api_key=canary-1"])
def test_a_secret_on_the_command_line_leaves_no_trace(tmp_path, line):
    places = [f"paths.outputs={tmp_path}/outputs", f"paths.artifacts={tmp_path}/artifacts"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *line.split(), *places],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert "looks like a secret" in done.stderr
    assert "canary" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_text_of_a_model_is_executed(tmp_path, monkeypatch):
    """Each text would leave a file if any reader evaluated it."""
    monkeypatch.chdir(tmp_path)
    calls = ["__import__('pathlib').Path('ran').touch()", "open('ran', 'w')", "exec('1')"]
    forms = [
        "{}",
        "#### {}",
        "The answer is {}",
        "\\boxed{{{}}}",
        "$\\text{{{}}} + {}$",
        "A: {} = 3",
    ]
    texts = [form.format(*[call] * form.count("{}")) for form in forms for call in calls]
    task = DatasetTask(__file__)
    verifier = Verifier(processes=1)
    golds = ["3", "the sea", *calls[:1]]
    for gold in golds:
        problem = Problem("p", "q?", gold, options=("the sea", calls[1]))
        for text in texts:
            judged = [numbers.judge_number(text, gold), numbers.judge_answer(text, gold)]
            judged += [judge_option(text, gold, problem.options), judge_as_authors(text, problem)]
            judged += [task.judge(text, problem), judge_flexible(task, text, problem)]
            assert set(judged) <= set(VERDICTS)
    words = verifier.check_many([(gold, text) for gold in golds for text in texts])
    verifier.close()
    assert set(words) <= set(VERDICTS)
    assert list(tmp_path.iterdir()) == []


def test_vulnerable_and_malicious_releases_are_excluded():
    """lightning 2.6.2 and 2.6.3 were malicious (GHSA-w37p-236h-pfx3); torch below 2.10 runs code
    in files that were loaded with weights_only."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    assert not {"2.6.2", "2.6.3"} & set(wanted["lightning"].filter(["2.6.1", "2.6.2", "2.6.3"]))
    assert "2.6.6" in wanted["lightning"]
    assert "2.9.1" not in wanted["torch"]
    pins = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in pins if re.fullmatch(r"[\w.-]+==[\w.+]+", line))
    for name in ("torch", "lightning"):
        assert pinned[name].split("+")[0] in wanted[name]
