"""A store that is moved together with its data and its base model is used as it was."""

import json
import platform
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from small_runs import CONF, start_model

from rlmec.pipeline import chain, models
from rlmec.runtime.ranks import Ranks
from rlmec.settings.check import check
from rlmec.stages import train
from rlmec.store.artifacts import environment

SMALL = [
    *("model=hf", "task=dataset", "teacher=reference", "logger=none", "trainer.threads=1"),
    *("trainer.progress_bar=false", "callbacks.checkpoint_every_steps=1", "teach.share=1.0"),
    *("teach.max_edit_ratio=1.0", "grm.steps=2", "grm.val_problems=2", "policy.steps=3"),
    *("policy.val_problems=2", "evaluate.num_problems=2", "evaluate.max_completion_length=8"),
    *("policy.max_completion_length=8", "grm.max_completion_length=8", "report.compare=null"),
    *("++model.lora.r=4", "++grm.lora.r=4"),
]


def home(root: Path) -> Path:
    """A folder with data, imported solutions, of which some are wrong, and a model."""
    problems, solutions = [], []
    for i in range(40):
        question = f"What is {i} and {i}?"
        right = f"{i} + {i} = {2 * i}\nThe answer is {2 * i}."
        problems.append({"question": question, "answer": str(2 * i), "solution": right})
        said = right if i % 3 else right.replace(f"is {2 * i}.", f"is {2 * i + 1}.")
        solutions.append({"question": question, "solution": said})
    (root / "data").mkdir(parents=True)
    for name, rows in (("problems", problems), ("solutions", solutions)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / "data" / f"{name}.jsonl").write_text(text)
    start_model(root / "base")
    return root


def made_in(root: Path, *overrides: str) -> list[str]:
    """Runs the chain with everything below `root`; the titles of the stages that it makes."""
    given = [*SMALL, f"model.path={root}/base", f"++task.path={root}/data/problems.jsonl"]
    given += [f"sample.path={root}/data/solutions.jsonl", f"paths.artifacts={root}/store"]
    given += [f"paths.outputs={root}/outputs", *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = check(compose("train", overrides=given), CONF)
    folder = root / "outputs" / "run"
    folder.mkdir(parents=True, exist_ok=True)
    train(settings, Ranks(), folder, list(overrides))
    stages = json.loads((folder / "summary.json").read_text())["stages"]
    return [f"{s['name']} {s['variant']}".strip() for s in stages if s["made"]]


class StoppedError(Exception):
    pass


def stopped_before_the_policy_is_saved(module, *arguments) -> None:
    if any(isinstance(a, Path) and a.parents[1].name == "policy" for a in arguments):
        raise StoppedError
    SAVE(module, *arguments)


SAVE = models.save


def other_versions(*arguments):
    found = environment(*arguments)
    return found | {"libraries": found["libraries"] | {"python": "3.99.0"}}


def test_what_was_moved_is_continued_and_reused(tmp_path, monkeypatch, capsys):
    first = home(tmp_path / "first")
    with monkeypatch.context() as patch:
        patch.setattr(models, "save", stopped_before_the_policy_is_saved)
        with pytest.raises(StoppedError):
            made_in(first)
    capsys.readouterr()

    second = Path(shutil.move(first, tmp_path / "far" / "second"))
    with monkeypatch.context() as patch:
        patch.setattr(chain, "environment", other_versions)
        assert made_in(second) == ["policy", "evaluate start", "evaluate", "report"]
    said = capsys.readouterr().out
    assert "policy: resumes from optimizer step 3" in said
    assert said.count("begun with other versions: python: ") == 1
    [policy] = (second / "store" / "policy").glob("[!.]*/manifest.json")
    manifest = json.loads(policy.read_text())
    assert manifest["begun_with"]["python"] == platform.python_version()
    assert manifest["environment"]["libraries"]["python"] == "3.99.0"

    third = Path(shutil.move(second, tmp_path / "third"))
    assert made_in(third) == []
    assert "nothing to do" in capsys.readouterr().out

    # What was not made yet loads the moved adapters on the moved base model.
    again = made_in(third, "score.seed=9", "evaluate.num_problems=3")
    assert again == ["score", "policy", "evaluate start", "evaluate", "report"]
