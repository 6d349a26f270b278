"""A store that is moved together with its data and its base model is used as it was."""

import json
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from small_runs import CONF, start_model

from rlmec.pipeline import models
from rlmec.runtime.ranks import Ranks
from rlmec.settings.check import check
from rlmec.stages import train

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


def stopped_before_the_policy_is_saved(module, tokenizer, folder: Path) -> None:
    if ".work-" in str(folder) and folder.parents[1].name == "policy":
        raise StoppedError
    SAVE(module, tokenizer, folder)


SAVE = models.save


def test_what_was_moved_is_continued_and_reused(tmp_path, monkeypatch, capsys):
    first = home(tmp_path / "first")
    with monkeypatch.context() as patch:
        patch.setattr(models, "save", stopped_before_the_policy_is_saved)
        with pytest.raises(StoppedError):
            made_in(first)
    capsys.readouterr()

    second = Path(shutil.move(first, tmp_path / "far" / "second"))
    assert made_in(second) == ["policy", "evaluate start", "evaluate", "report"]
    assert "policy: resumes from optimizer step 3" in capsys.readouterr().out

    third = Path(shutil.move(second, tmp_path / "third"))
    assert made_in(third) == []
    assert "nothing to do" in capsys.readouterr().out
