"""The package as pip installs it, its command line, and its calls from Python."""

import sys
from importlib.metadata import metadata
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from small_runs import SMALL, start_model
from small_settings import part, tree

import rlmec
from rlmec import __main__, programs
from rlmec.runtime import entry
from rlmec.settings.check import ConfigurationError, check
from rlmec.stages.run import _idle_gpu, _slow_precision

ROOT = Path(__file__).resolve().parents[1]


# --- what travels ---


def packaged():
    """The files of a wheel by their place in it, as setuptools finds them in this folder."""
    from setuptools import Distribution

    distribution = Distribution({"script_name": "setup.py"})
    distribution.parse_config_files(["pyproject.toml"])
    distribution.include_package_data = False  # asks git, or a folder of metadata
    build = distribution.get_command_obj("build_py")
    build.ensure_finalized()
    files = [
        (Path(*package.split("."), name), Path(folder, name))
        for package, folder, _, names in build._get_data_files()
        for name in names
    ]
    files += [
        (Path(*package.split("."), f"{module}.py"), Path(file))
        for package, module, file in build.find_all_modules()
    ]
    return dict(files)


def test_every_file_of_the_package_and_of_conf_travels(monkeypatch):
    monkeypatch.chdir(ROOT)
    sources = [p for p in Path("rlmec").rglob("*") if p.is_file() and p.suffix != ".pyc"]
    expected = {path: path for path in sources}
    files = [path for path in Path("conf").rglob("*") if path.is_file()]
    assert len(files) > 100
    expected |= {Path("rlmec") / path: path for path in files}
    found = packaged()
    assert expected.keys() - found.keys() == set(), "packages or package-data of pyproject.toml"
    assert found == expected


def test_an_installed_package_has_its_configuration_inside(tmp_path, monkeypatch):
    assert entry.config_folder() == ROOT / "conf"
    module = tmp_path / "rlmec" / "runtime" / "entry.py"
    (tmp_path / "rlmec" / "conf").mkdir(parents=True)
    monkeypatch.setattr(entry, "__file__", str(module))
    assert entry.config_folder() == tmp_path / "rlmec" / "conf"


# --- the command ---


@pytest.fixture
def started(monkeypatch):
    """What a command line starts: its program, arguments and stage, instead of starting it."""
    found = []
    monkeypatch.setattr(programs, "start", lambda *given, stage: found.append((*given, stage)))

    def run(line):
        monkeypatch.setattr(sys, "argv", ["rlmec", *line.split()])
        __main__.main()
        return found

    return run


def test_each_command_starts_its_program(started):
    for name, command in __main__.COMMANDS.items():
        expected = (command.program, ["a=1", "-m"], command.stage)
        assert started(f"{name} a=1 -m")[-1] == expected
        assert name in (command.program, command.stage)


@pytest.mark.parametrize("line", ["", "--help", "-h"])
def test_help_names_each_command_in_a_line(started, capsys, line):
    assert started(line) == []
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 90
    for name in __main__.COMMANDS:
        assert sum(row.split()[:1] == [name] for row in shown) == 1


def test_the_version_is_that_of_the_package(started, capsys):
    started("--version")
    assert capsys.readouterr().out == f"rlmec {rlmec.__version__}\n"
    assert metadata("rlmec")["Version"] == rlmec.__version__


@pytest.mark.parametrize(
    ("line", "hint"),
    [("trian", "'train'"), ("zzz", "train, evaluate"), ("seed=2", "rlmec train seed=2")],
)
def test_an_unknown_command_is_refused_with_the_nearest(started, capsys, line, hint):
    with pytest.raises(SystemExit) as caught:
        started(line)
    assert caught.value.code == 2
    assert hint in capsys.readouterr().err


# --- calls from Python ---


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["policy.stesp=3"], "the nearest is 'policy.steps'"),
        (["-m", "seed=1,2"], "-m: expected an override"),
        (["trainer.devices=2"], "trainer.devices x trainer.num_nodes is 2"),
    ],
)
def test_a_wrong_call_raises_one_line(capsys, tmp_path, overrides, message):
    with pytest.raises(ConfigurationError, match=message):
        rlmec.train([*overrides, f"hydra.run.dir={tmp_path / 'run'}"])
    assert capsys.readouterr() == ("", "")


def test_train_and_evaluate_return_what_they_made(tmp_path, capsys):
    own = tmp_path / "conf" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\ndefaults: [smoke, _self_]\ntags: [mine]\n")
    places = [f"paths.artifacts={tmp_path / 'store'}", f"hydra.run.dir={tmp_path / 'run'}"]
    model = start_model(tmp_path / "model")
    given = [*SMALL[1:], *places, "experiment=mine", "model=hf", f"model.path={model}"]

    made = rlmec.train([*given, "trainer=auto", "stage=sample"], config_dir=tmp_path / "conf")
    (sampled,) = made.stages
    assert made.run_dir == tmp_path / "run"
    assert (sampled.name, sampled.made, sampled.rows) == ("sample", True, 48)
    assert 0 <= sampled.metrics["sample/accuracy"] <= 1
    assert "trainer=auto takes the " in capsys.readouterr().out
    with pytest.raises(KeyError, match="policy: this run has sample"):
        made.stage("policy")

    attempts = f"evaluate.attempts={sampled.path / 'attempts.parquet'}"
    judged = rlmec.evaluate(
        [*given, attempts, "evaluate.split=train"], config_dir=tmp_path / "conf"
    )
    assert judged.stage("evaluate").metrics["eval/arithmetic/accuracy"] == pytest.approx(
        sampled.metrics["sample/accuracy"]
    )


# --- trainer=auto ---


@pytest.mark.parametrize("gpu", [False, True])
def test_trainer_auto_is_the_trainer_that_it_takes(monkeypatch, gpu):
    """Its settings are those of the other file, so the addresses of artifacts are, too."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    base, auto, named = (
        OmegaConf.load(ROOT / "conf" / "trainer" / f"{name}.yaml")
        for name in ("base", "auto", "gpu" if gpu else "cpu")
    )
    assert OmegaConf.to_container(OmegaConf.merge(base, auto), resolve=True) == OmegaConf.merge(
        base, named
    )


@pytest.mark.parametrize(
    ("accelerator", "gpu", "said"),
    [("cpu", True, True), ("cpu", False, False), ("gpu", True, False)],
)
def test_a_gpu_that_is_not_used_is_named(monkeypatch, accelerator, gpu, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H7")
    line = _idle_gpu(part("trainer", accelerator=accelerator))
    assert ("H7" in line and "trainer=auto" in line) == said


@pytest.mark.parametrize(
    ("amx", "changes", "said"),
    [
        (True, {}, ["sample", "grm", "policy"]),
        (True, {"sample.precision": "bf16-mixed"}, ["grm", "policy"]),
        (True, {"trainer.accelerator": "gpu"}, []),
        (True, {"model.path": None}, []),
        (False, {}, []),
    ],
)
def test_a_finished_model_in_float32_on_a_cpu_for_bfloat16_is_named(
    monkeypatch, amx, changes, said
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx}, raising=False)
    settings = check(tree(**({"model.path": "m", "model.lora": None} | changes)))
    line = _slow_precision(settings, ["warmup", "sample", "grm", "score", "policy"])
    found = [word.partition(".")[0] for word in line.split() if "precision=bf16-mixed" in word]
    assert found == said
