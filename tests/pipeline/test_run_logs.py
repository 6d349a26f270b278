"""Every logger shows one run per fit and one for the results, in each job of a sweep."""

import copy
import csv
import dataclasses
import functools
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from lightning.pytorch.loggers.logger import DummyLogger
from small_models import prompts
from small_settings import CONF
from stand_in_loggers import KINDS, install

from rlmec.pipeline.chain import Outcome, Run, Stage, make
from rlmec.pipeline.run_logs import attempts_table, check_loggers, flat_settings, run_logs
from rlmec.records import Attempt, Correction, Pair, Problem
from rlmec.runtime.ranks import Ranks
from rlmec.runtime.signals import RunStopped
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.check import check

CODEC = prompts().codec
STAGES = [
    {"name": "warmup", "variant": "", "round": 1, "metrics": {"dev/accuracy": 0.5, "history": []}},
    {"name": "policy", "variant": "rft", "round": 2, "metrics": {"policy/rows": 7}},
    {"name": "evaluate", "variant": "start", "round": 1, "metrics": {"eval/pass@4": 0.25}},
]


@functools.cache
def composed(kind, overrides):
    chosen = [f"logger={kind}", "paths.outputs=out", *overrides]
    if kind in ("csv", "tensorboard", "wandb"):
        chosen.append(f"logger.{kind}.save_dir=logs")  # its default is the folder of a Hydra run
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("train", overrides=chosen), CONF)


def settings_of(kind, folder, *overrides, name=None):
    """The configuration with `logger=kind`, whose loggers write below `folder`."""
    settings = composed(kind, overrides)
    nodes = copy.deepcopy(settings.logger)
    for node in nodes.values():
        if isinstance(node, dict) and "save_dir" in node:
            node["save_dir"] = str(folder / node["save_dir"])
    return dataclasses.replace(settings, logger=nodes, run_name=name)


def job(kind, folder, said, *overrides):
    settings = settings_of(kind, folder, *overrides, name=folder.name)
    return run_logs(settings, folder, 0, said.append)


def data_of(texts=(), scored=False):
    """A stand-in for the DataModule with one corrected attempt per text."""
    problems, attempts, corrections, pairs = {}, [], [], []
    for i, text in enumerate(texts):
        ids = CODEC.completion(text)
        attempts.append(Attempt(f"a{i}", f"p{i}", [5], ids, [], text, "wrong", False, CODEC.digest))
        problems[f"p{i}"] = Problem(f"p{i}", f"question {i}?", "1")
        given = (f"a{i}", f"p{i}", ids, f"better {text}", "right", 0.1, "accepted", "teacher")
        corrections.append(Correction(*given, CODEC.digest))
        rewards = np.zeros(len(ids), np.float32)
        rewards[0] = -0.5
        zeros = np.zeros(len(ids), np.float32)
        pairs.append(Pair(attempts[-1], ids, zeros, rewards, zeros, "teacher"))
    records = (list(problems.values()), attempts, corrections, ["score"] if scored else [])
    return SimpleNamespace(records=records, problems=problems, prompts=prompts(), pairs=pairs)


def fit(logs, work, title, data=None):
    """What Lightning and the chain do with the loggers of a fit."""
    for logger in logs.open(title, work / ".work-abc", data or data_of()):
        for step in (1, 2):
            logger.log_metrics({"train/loss": 1.0 / step}, step=step)
            logger.save()
        logger.finalize("success")
    logs.close({"dev/accuracy": 0.75, "history": [{}], "note": None}, 2)


def chain(logs, folder):
    """Two fits and the results, as a job makes them."""
    fit(logs, folder / "warmup", "warmup")
    fit(logs, folder / "policy", "policy (rft, round 2)", data_of(["12", "13"], scored=True))
    picture = folder / "accuracy.png"
    plt.imsave(picture, np.zeros((2, 2)))
    logs.log_results(STAGES, [picture])


@pytest.mark.parametrize("kind", KINDS)
def test_a_logger_has_one_run_per_fit_in_each_job_of_a_sweep(kind, tmp_path, monkeypatch):
    service = install(monkeypatch, kind)
    said = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        chain(job(kind, tmp_path / name, said), tmp_path / name)
    labels = ("warmup", "policy rft round 2", "results")
    assert [run.name for run in service.runs] == [
        f"{name} {label}" for name in ("one", "two") for label in labels
    ]
    assert [run.group for run in service.runs] == ["one"] * 3 + ["two"] * 3
    assert not any(run.is_open or run.failed for run in service.runs)
    assert said == []

    for run in service.runs:
        assert str(run.config["policy.steps"]) == "150"
        assert str(run.config["run_name"]) == run.group
    warmup, policy, results = service.runs[:3]
    for run in (warmup, policy):
        assert run.figures["train/loss"] == 0.5
        assert run.figures["result/dev/accuracy"] == 0.75
    assert warmup.config["artifact"] == "warmup/abc"
    assert warmup.tables == results.tables == {}
    expected = ["p0", "question 0?", "12", "wrong", "better 12", "1[-0.50]2"]
    assert policy.tables["attempts"][0][:5] == expected[:5]
    assert policy.tables["attempts"][0][5].startswith(expected[5])
    assert results.figures.items() >= {"warmup/dev/accuracy": 0.5}.items()
    assert results.figures["policy-rft-round_2/rows"] == 7
    (evaluated,) = [value for name, value in results.figures.items() if "pass" in name]
    assert evaluated == 0.25
    assert len(results.pictures) == 1


def test_csv_files_have_one_folder_per_fit(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        chain(job("csv", tmp_path / name, []), tmp_path / name)
        logs = tmp_path / name / "logs"
        found = sorted(path.relative_to(logs).as_posix() for path in logs.rglob("metrics.csv"))
        labels = ("policy_rft_round_2", "results", "warmup")
        assert found == [f"{label}/version_0/metrics.csv" for label in labels]
        for path in logs.rglob("metrics.csv"):
            assert "policy.steps: 150" in (path.parent / "hparams.yaml").read_text()
        rows = list(csv.DictReader((logs / found[2]).read_text().splitlines()))
        assert [row["train/loss"] for row in rows] == ["1.0", "0.5", ""]
        assert rows[-1]["result/dev/accuracy"] == "0.75"


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_fit_continues_its_run(kind, tmp_path, monkeypatch):
    service = install(monkeypatch, kind)
    said = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first = job(kind, tmp_path / "one", said)
    first.open("policy", tmp_path / ".work-abc", data_of(["12"]))
    first.close()

    fit(job(kind, tmp_path / "two", said), tmp_path, "policy", data_of(["12"]))
    (run,) = service.runs
    assert run.continued >= 1
    assert (run.name, run.is_open, run.failed) == ("one policy", False, False)
    assert str(run.config["policy.steps"]) == "150"
    assert run.figures["train/loss"] == 0.5
    assert said == []


def test_another_logger_of_the_same_name_continues_nothing(tmp_path, monkeypatch):
    service = install(monkeypatch, "wandb")
    logs = job("wandb", tmp_path, [])
    logs.open("policy", tmp_path / ".work-abc", data_of())
    logs.close()
    path = tmp_path / ".work-abc" / "loggers" / "runs.json"
    path.write_text(path.read_text().replace("WandbLogger", "CometLogger"))
    fit(logs, tmp_path, "policy")
    assert len({run.id for run in service.runs}) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("breaks", ["open", "log"])
def test_a_logger_that_fails_is_said_once_and_ends_nothing(kind, breaks, tmp_path, monkeypatch):
    service = install(monkeypatch, kind)
    service.breaks = breaks
    said = []
    csv_too = "+logger.csv={_target_: lightning.pytorch.loggers.CSVLogger, save_dir: csv}"
    logs = job(kind, tmp_path, said, csv_too)
    fit(logs, tmp_path / "policy", "policy")
    (line,) = said
    assert re.search(rf"logger\.{kind} .*Error: .", line)
    assert not any(run.is_open for run in service.runs)
    (rows,) = (tmp_path / "csv").rglob("metrics.csv")
    assert "result/dev/accuracy" in rows.read_text()


class Fitting(Stage):
    """A stage with a fit, which ends by `error` if there is one."""

    name = "grm"
    error: BaseException | None = None

    def settings(self):
        return {"error": repr(self.error)}

    def build(self, work, parents):
        self.run.logs.open(self.title, work, data_of())
        if self.error is not None:
            raise self.error
        return Outcome(2, {"grm/rows": 5})


@pytest.mark.parametrize("error", [None, ValueError("x"), RunStopped(15)])
def test_the_chain_closes_the_runs_of_a_fit(error, tmp_path, monkeypatch):
    service = install(monkeypatch, "wandb")
    settings = settings_of("wandb", tmp_path)
    paths = dataclasses.replace(settings.paths, artifacts=str(tmp_path / "store"))
    run = Run(dataclasses.replace(settings, paths=paths), Ranks(), tmp_path)
    stage = Fitting(run)
    stage.error = error
    if error is None:
        artifact = make(stage)
        assert not (artifact.path / "loggers").exists()
    else:
        with pytest.raises(type(error)):
            make(stage)

    (opened,) = service.runs
    assert (opened.is_open, opened.failed) == (False, error is not None)
    assert ("result/grm/rows" in opened.figures) == (error is None)
    assert sys.modules["wandb"].run is None


def test_only_rank_0_logs(tmp_path):
    logs = run_logs(settings_of("csv", tmp_path), tmp_path, 1, print)
    (stand_in,) = logs.open("grm", tmp_path / ".work-abc", data_of())
    assert isinstance(stand_in, DummyLogger)
    logs.close({"a": 1.0}, 1)
    logs.log_results(STAGES, [])
    assert list(tmp_path.iterdir()) == []


def test_runs_are_grouped_by_the_folder_of_the_job(tmp_path):
    logs = run_logs(settings_of("csv", tmp_path), Path("out/2026-11-26/23-00"), 0, print)
    assert logs.group == "2026-11-26/23-00"


def test_what_the_user_sets_stays(tmp_path, monkeypatch):
    service = install(monkeypatch, "wandb")
    fit(job("wandb", tmp_path, [], "+logger.wandb.group=mine"), tmp_path / "grm", "grm")
    assert [(run.name, run.group) for run in service.runs] == [(f"{tmp_path.name} grm", "mine")]


# --- before the run ---


def test_every_option_of_the_group_has_a_case_here():
    options = {path.stem for path in (CONF / "logger").glob("*.yaml")}
    assert options == {*KINDS, "csv", "none"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_package_is_refused(kind, tmp_path, monkeypatch):
    for name in (kind, "tensorboardX"):
        monkeypatch.setattr(sys, "path_importer_cache", {})
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigurationError, match=rf"logger\.{kind} .*pip install {kind}"):
        check_loggers(settings_of(kind, tmp_path))


@pytest.mark.parametrize("kind", [*KINDS, "csv", "none"])
def test_every_option_passes_the_check(kind, tmp_path, monkeypatch):
    service = install(monkeypatch, kind) if kind in KINDS else None
    check_loggers(settings_of(kind, tmp_path))
    assert service is None or service.runs == []


def test_wandb_on_its_server_needs_a_key(tmp_path, monkeypatch):
    install(monkeypatch, "wandb")
    sys.modules["wandb"].setup().settings.mode = "online"
    with pytest.raises(ConfigurationError, match=r"logger\.wandb.*WANDB_API_KEY"):
        check_loggers(settings_of("wandb", tmp_path))
    check_loggers(settings_of("wandb", tmp_path, "+logger.wandb.offline=true"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["+logger.wandb.offline=true", "+logger.wandb.log_model=true"],
            r"logger\.wandb: .*log_model",
        ),
        (["+logger.two={project: x}"], r"logger\.two needs a _target_"),
        (["+logger.two=5"], r"logger\.two needs a _target_"),
    ],
)
def test_a_logger_that_cannot_be_built_is_refused(overrides, message, tmp_path, monkeypatch):
    install(monkeypatch, "wandb")
    with pytest.raises(ConfigurationError, match=message):
        check_loggers(settings_of("wandb", tmp_path, *overrides))


# --- what is logged ---


def test_settings_are_flat_and_without_credentials():
    node = {"teacher": {"url": "https://me:pw@host/v1", "steps": [1, 2]}, "seed": 3, "path": None}
    assert flat_settings(node) == {
        "teacher.url": "https://host/v1",
        "teacher.steps": "[1, 2]",
        "seed": 3,
        "path": None,
    }


def test_the_table_holds_a_few_corrected_attempts():
    table = attempts_table(data_of([str(n) for n in range(10, 40)]))
    assert table.columns == ["problem", "question", "attempt", "verdict", "correction"]
    assert [row[2] for row in table.rows] == [str(n) for n in range(10, 22)]
    scored = attempts_table(data_of([str(n) for n in range(10, 40)], scored=True))
    assert scored.columns[-1] == "token rewards"
    assert len(scored.rows) == 12
    assert all("[-0.50]" in row[-1] for row in scored.rows)
    assert attempts_table(data_of()).rows == []
