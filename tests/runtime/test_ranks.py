"""Ranks decide together, end together and leave a clean process; jobs of a sweep fail alone."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from lightning.fabric.plugins.environments import SLURMEnvironment
from omegaconf import OmegaConf

import rlmec
from rlmec.runtime import entry, ranks, signals
from rlmec.runtime.ranks import Ranks, start_ranks, world_size
from rlmec.runtime.signals import RunStopped
from rlmec.runtime.sweeps import (
    JobRecord,
    read_summary,
    run_as_child,
    sweep_overview,
    write_summary,
    write_sweep_table,
)
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.schema import TrainerSettings

ROOT = Path(rlmec.__file__).parents[1]
TRAINER = yaml.safe_load((ROOT / "conf" / "trainer" / "base.yaml").read_text())
CONFIG = """
mode: ranks
out: ???
text: plain
trainer: {devices: 2, accelerator: cpu}
"""
SEARCH = """
defaults: [run, _self_]
mode: quick
hydra: {mode: MULTIRUN, sweep: {dir: sweep}}
"""
JOB = """
import os, sys
from rlmec.runtime.ranks import die_with_parent
die_with_parent()
import json, pathlib, subprocess
import hydra
from hydra.core.hydra_config import HydraConfig
from rlmec.runtime.ranks import start_ranks
from rlmec.runtime.sweeps import run_as_child, write_summary, write_sweep_table
from rlmec.settings.schema import TrainerSettings

TRAINER = __TRAINER__

@hydra.main(version_base="1.3", config_path="conf", config_name="run")
def main(cfg):
    h, settings = HydraConfig.get(), TrainerSettings(**(TRAINER | dict(cfg.trainer)))
    if (code := run_as_child(h, settings)) is not None:
        write_sweep_table(pathlib.Path(h.sweep.dir))
        if code:
            raise RuntimeError(f"the job ended with {code}")
        return
    if cfg.mode == "quick":
        if cfg.text == "bad":
            sys.exit(3)
        note = {"pid": os.getpid(), "parent": os.getppid(), "text": cfg.text}
        summary = {"overrides": list(h.overrides.task), "optimized_metric": 0.5, "note": note}
        write_summary(pathlib.Path(h.runtime.output_dir), summary)
        return
    with start_ranks(settings, h.overrides.task, h.runtime.output_dir) as ranks:
        found = work(ranks, cfg, h)
        out = pathlib.Path(cfg.out)
        out.mkdir(exist_ok=True)
        found["dir"] = h.runtime.output_dir
        (out / f"{ranks.rank}.json").write_text(json.dumps(found))
        rank = ranks.rank
    if rank == 0:
        left = {"env": [k for k in ("LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT") if k in os.environ]}
        import torch.distributed as dist
        left["group"] = dist.is_initialized()
        left["world"] = start_ranks(TrainerSettings(**TRAINER), [], ".").world
        (out / "left.json").write_text(json.dumps(left))

def work(ranks, cfg, h):
    import lightning as L
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_num_threads(1)
    class Model(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.line = torch.nn.Linear(4, 1)
        def training_step(self, batch, _):
            return self.line(batch[0]).pow(2).mean()
        def predict_step(self, batch, _):
            return self.line(batch[0])
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(torch.randn(8, 4)), batch_size=2)
    quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False,
                 enable_checkpointing=False, accelerator="cpu", devices=2, strategy="ddp")
    model, trainer = Model(), L.Trainer(**quiet, max_steps=2)
    trainer.fit(model, loader)
    predicted = L.Trainer(**quiet).predict(Model(), loader)
    found = {"world": trainer.world_size, "weight": model.line.weight.flatten().tolist(),
             "text": cfg.text, "predicted": len(predicted), "pid": ranks.share(os.getpid)}

    def wrong():
        raise KeyError("the store")
    def unpicklable():
        return lambda: None
    for name, fn in [("error", wrong), ("unpicklable", unpicklable)]:
        try:
            ranks.share(fn)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    children = pathlib.Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    found["children"] = len(children.split())
    ranks.share(lambda: None)
    return found

if __name__ == "__main__":
    main()
""".replace("__TRAINER__", repr(TRAINER))


@pytest.fixture
def job(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "run.yaml").write_text(CONFIG)
    (tmp_path / "conf" / "search.yaml").write_text(SEARCH)
    (tmp_path / "job.py").write_text(JOB)
    env = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "WORLD_SIZE")}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def run(*args):
        line = [sys.executable, str(tmp_path / "job.py"), *args]
        return subprocess.run(
            line, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
        )

    return run


def test_two_ranks_fit_predict_and_decide_together(job, tmp_path):
    text = """text='a "b" c,d=[e]'"""
    done = job(f"out={tmp_path / 'out'}", text, """hydra.run.dir='runs/x "y" \\'z\\' =1, ü'""")
    assert done.returncode == 0, done.stderr[-3000:]
    zero, one = (json.loads((tmp_path / "out" / f"{r}.json").read_text()) for r in (0, 1))
    assert (zero["world"], one["world"]) == (2, 2)
    assert zero["weight"] == one["weight"]
    assert zero["predicted"] + one["predicted"] == 4
    assert zero["pid"] == one["pid"]
    assert zero["text"] == one["text"] == 'a "b" c,d=[e]'
    assert zero["dir"] == one["dir"] == str(tmp_path / "runs" / "x \"y\" 'z' =1, ü")
    assert zero["error"] == "KeyError: 'the store'"
    assert one["error"] == "RankError: rank 0: KeyError: 'the store'"
    assert one["unpicklable"].startswith("RankError: rank 0: ")
    assert (zero["children"], one["children"]) == (1, 0)  # one rank started, nothing more
    left = json.loads((tmp_path / "out" / "left.json").read_text())
    assert left == {"env": [], "group": False, "world": 1}


def test_a_job_of_a_sweep_with_ranks_is_a_child_and_fails_alone(job, tmp_path):
    done = job("--config-name=search", "text='x y',bad,z", "out=o")
    assert done.returncode == 1
    assert "the job ended with 3" in done.stderr
    notes = [
        json.loads(p.read_text())["note"] for p in sorted(tmp_path.glob("sweep/*/summary.json"))
    ]
    assert [n["text"] for n in notes] == ["x y", "z"]
    assert notes[0]["pid"] != notes[1]["pid"]
    assert notes[0]["parent"] == notes[1]["parent"]
    rows = list(csv.DictReader((tmp_path / "sweep" / "results.csv").read_text().splitlines()))
    assert [r["job"] for r in rows] == ["0", "2"]


@pytest.mark.parametrize(
    ("script", "name", "expected"),
    [
        ("/a/train.py", None, ["/a/train.py"]),
        ("/a/bin/rlmec", "evaluate", ["/a/bin/rlmec", "evaluate"]),
        ("/a/rlmec/__main__.py", "train", ["-m", "rlmec", "train"]),
        ("/a/submitit/core/_submit.py", "train", ["-m", "rlmec", "train"]),
    ],
)
def test_a_rank_starts_as_its_program_did(monkeypatch, script, name, expected):
    monkeypatch.setattr(sys, "argv", [script, "x=1"])
    monkeypatch.delenv(ranks.COMMAND, raising=False)
    if name:
        monkeypatch.setenv(ranks.COMMAND, name)
    line = ranks.command(["x=2"], "run")
    assert line == [sys.executable, *expected, "x=2", "hydra.mode=RUN", "hydra.run.dir='run'"]


def test_a_rank_finds_the_folders_of_the_user(monkeypatch):
    found = [
        ("main", "/conf"),
        ("command-line", "/b"),
        ("hydra.searchpath in command-line", "/c d"),
    ]
    sources = [SimpleNamespace(provider=p, path=f, schema="file") for p, f in found]
    runtime = SimpleNamespace(config_sources=sources)
    hydra = SimpleNamespace(runtime=runtime, job=SimpleNamespace(config_name="train"))
    monkeypatch.setattr(ranks.HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(ranks.HydraConfig, "get", lambda: hydra)
    given = ["--config-name=train", "--config-dir=/b", "hydra.searchpath=['file:///c d']", "x=2"]
    assert ranks.command(["x=2"], "run")[2:-2] == given


def test_one_process_runs_none_of_it(tmp_path):
    code = (
        "import sys; from rlmec.runtime.ranks import start_ranks\n"
        "from rlmec.settings.schema import TrainerSettings\n"
        f"r = start_ranks(TrainerSettings(**{TRAINER}), [], '.')\n"
        "assert (r.rank, r.world, r.share(lambda: 5)) == (0, 1, 5); r.close()\n"
        "assert 'torch' not in sys.modules and 'lightning' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    with pytest.raises(KeyError), Ranks() as ranks:
        ranks.share({}.popitem)  # an error is raised as it is


def test_a_decision_inside_a_decision_is_refused():
    ranks = Ranks(rank=0, world=2)
    ranks._deciding = True
    with pytest.raises(RuntimeError, match="inside share"):
        ranks.share(lambda: 1)


@pytest.mark.parametrize(("code", "ends"), [(7, True), (0, False)])
def test_rank_0_ends_when_a_rank_dies(code, ends):
    script = (
        "import subprocess, sys, time; from rlmec.runtime.ranks import Ranks\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import sys; sys.exit({code})'])\n"
        "Ranks(0, 2).watch([child], grace=0.1); time.sleep(3); print('went on')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == (1 if ends else 0)
    assert ("rank 1" in done.stderr) == ends
    assert ("went on" in done.stdout) != ends


PARENT_SCRIPT = """
import os, subprocess, sys, time
from rlmec.runtime.ranks import PARENT
code = "from rlmec.runtime.ranks import die_with_parent; die_with_parent()\\n"
code += "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", code], env={**os.environ, PARENT: str(os.getpid())})
time.sleep(60)
"""


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_rank_dies_with_its_parent():
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT_SCRIPT], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    child = int(parent.stdout.readline())
    try:
        assert not gone(child)
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 60
        while not gone(child) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert gone(child)
    finally:
        parent.stdout.close()
        if not gone(child):
            os.kill(child, signal.SIGKILL)


def test_a_rank_whose_parent_is_gone_already_ends():
    code = "from rlmec.runtime.ranks import die_with_parent; die_with_parent(); print('lives')"
    env = {**os.environ, ranks.PARENT: "1999999"}
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, env=env, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize(
    ("settings", "world"),
    [
        ({"devices": 3}, 3),
        ({"devices": "2"}, 2),
        ({"devices": "0,2"}, 2),
        ({"devices": "auto", "accelerator": "cpu"}, 1),
        ({"devices": -1, "accelerator": "cpu"}, 1),
        ({"devices": 4, "num_nodes": 2}, 8),
    ],
)
def test_world_size_of_the_settings(settings, world):
    assert world_size(TrainerSettings(**(TRAINER | settings))) == world


@pytest.mark.broad
def test_devices_that_are_not_there_are_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(ranks, "_start_children", lambda *_: [])
    settings = TrainerSettings(**(TRAINER | {"accelerator": "mps", "devices": 2}))
    with pytest.raises(ConfigurationError, match=r"accelerator=mps, devices=2") as caught:
        start_ranks(settings, [], ".")
    assert "\n" not in str(caught.value)


def test_impossible_launches_are_refused(monkeypatch):
    with pytest.raises(ConfigurationError, match=r"trainer\.devices: 'many'"):
        world_size(TrainerSettings(**(TRAINER | {"devices": "many"})))
    with pytest.raises(ConfigurationError, match=r"trainer\.num_nodes is 2"):
        start_ranks(TrainerSettings(**(TRAINER | {"num_nodes": 2})), [], ".")

    class Job:
        mode = type("Mode", (), {"name": "MULTIRUN"})

    assert run_as_child(Job, TrainerSettings(**TRAINER)) is None
    launched(monkeypatch, TORCHRUN)
    with pytest.raises(ConfigurationError, match="torchrun"):
        run_as_child(Job, TrainerSettings(**(TRAINER | {"devices": 2})))


# --- launchers ---

MANUAL = {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "29500"}
TORCHRUN = {**MANUAL, "RANK": "1", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
SRUN = {
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_JOB_NAME": "train",
}
"""What each launcher leaves in the environment of a rank."""


def launched(monkeypatch, environment):
    """Replace every variable of a launcher by those of `environment`."""
    for name in {*TORCHRUN, *SRUN, "NODE_RANK"}:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def without(environment, *names):
    return {k: v for k, v in environment.items() if k not in names}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        (MANUAL, ("LOCAL_RANK", 2)),
        (TORCHRUN, ("torchrun", 2)),
        (TORCHRUN | SRUN, ("torchrun", 2)),
        (MANUAL | {"LOCAL_RANK": "0", "WORLD_SIZE": "1"}, ("LOCAL_RANK", 1)),
        (SRUN, ("SLURM", 4)),
        (without(SRUN, "SLURM_STEP_NUM_TASKS"), ("SLURM", 4)),
        (SRUN | {"WORLD_SIZE": "4"}, ("SLURM", 4)),
        # one task, and shells within an allocation of several
        (SRUN | {"SLURM_NTASKS": "1"}, None),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        (SRUN | {"SLURM_JOB_NAME": "bash"}, None),
        (SRUN | {"SLURM_JOB_NAME": "interactive"}, None),
        (without(SRUN, "SLURM_PROCID", "SLURM_LOCALID"), None),
        # left over in a shell
        ({"LOCAL_RANK": "0"}, None),
        ({"LOCAL_RANK": "1", "RANK": "3"}, None),
        ({"RANK": "3"}, None),
        ({"WORLD_SIZE": "1"}, None),
        ({"MASTER_ADDR": "here", "MASTER_PORT": "1"}, None),
        ({"TORCHELASTIC_RUN_ID": "none"}, None),
        (without(MANUAL, "WORLD_SIZE"), None),
    ],
)
def test_only_a_complete_environment_is_a_launcher_s(environment, found):
    launch = ranks.launch_of(environment)
    assert found == (launch and (launch.launcher, launch.world))


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"WORLD_SIZE": "2"}, r"WORLD_SIZE=2; LOCAL_RANK, MASTER_ADDR, MASTER_PORT "),
        (without(MANUAL, "LOCAL_RANK") | {"RANK": "1"}, r"RANK=1.*; LOCAL_RANK "),
        (without(MANUAL, "MASTER_PORT"), r"; MASTER_PORT .* unset LOCAL_RANK WORLD_SIZE MASTER_"),
        (MANUAL | {"LOCAL_RANK": "2"}, r"LOCAL_RANK=2, WORLD_SIZE=2.*; LOCAL_RANK "),
        (MANUAL | {"LOCAL_RANK": "-1"}, r"; LOCAL_RANK "),
        (MANUAL | {"WORLD_SIZE": "two"}, r"; WORLD_SIZE "),
        (MANUAL | {"MASTER_PORT": ""}, r"; MASTER_PORT "),
        (TORCHRUN | {"RANK": "2"}, r"; RANK "),
        (TORCHRUN | {"RANK": "0"}, r"; LOCAL_RANK "),
        (without(TORCHRUN, "RANK"), r" RANK"),
    ],
)
def test_a_contradictory_environment_is_refused(environment, named):
    with pytest.raises(ConfigurationError, match=named):
        ranks.launch_of(environment)


@pytest.mark.parametrize(
    ("environment", "settings", "named"),
    [
        (TORCHRUN, {"devices": 1}, "torchrun has started 2 ranks.* is 1:"),
        (SRUN, {"devices": 2}, "SLURM has started 4 ranks.* is 2:"),
        (MANUAL | {"LOCAL_RANK": "0", "WORLD_SIZE": "1"}, {"devices": 3}, "started 1 ranks.* 3:"),
        (MANUAL | {"LOCAL_RANK": "0", "RANK": "1"}, {"num_nodes": 2}, r"RANK is 1.*\(0\).* is 0:"),
    ],
)
def test_launcher_and_settings_count_the_same_ranks(environment, settings, named, monkeypatch):
    launched(monkeypatch, environment)
    with pytest.raises(ConfigurationError, match=named):
        start_ranks(TrainerSettings(**(TRAINER | settings)), [], ".")


def test_what_is_left_over_is_named_and_removed(monkeypatch, capsys):
    launched(monkeypatch, {"RANK": "3", "LOCAL_RANK": "1", "SLURM_NTASKS": "8"})
    ranks.forget_stray_variables()
    said = capsys.readouterr().err
    assert "RANK=3, LOCAL_RANK=1" in said
    assert "unset RANK LOCAL_RANK)" in said
    assert not {"RANK", "LOCAL_RANK"} & set(os.environ)
    assert signals.is_first_rank()
    assert not SLURMEnvironment.detect(), "Lightning takes this process for a task of SLURM"
    ranks.forget_stray_variables()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("environment", [{}, MANUAL, TORCHRUN, SRUN])
def test_a_launcher_s_variables_stay(environment, monkeypatch, capsys):
    launched(monkeypatch, environment)
    before = dict(os.environ)
    ranks.forget_stray_variables()
    assert (dict(os.environ), capsys.readouterr().err) == (before, "")


RANK_ALONE = """
import signal, sys
import torch.distributed as dist
from rlmec.runtime import ranks, signals
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
signals.listen()
with signals.ends_at_once(), ranks._said_after(0.3, "waiting"):
    dist.init_process_group("gloo")
"""


@pytest.mark.parametrize(
    ("rank", "number", "code"), [("0", signal.SIGTERM, 143), ("1", signal.SIGINT, 130)]
)
def test_a_rank_that_waits_for_the_others_can_be_stopped(rank, number, code):
    """Rank 0 waits for a peer, rank 1 for the port of rank 0; both waits are in C++."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, **MANUAL, "LOCAL_RANK": rank, "RANK": rank, "MASTER_PORT": str(port)}
    line = [sys.executable, "-c", RANK_ALONE]
    env |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(line, env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert "waiting" in process.stderr.readline()
            process.send_signal(number)
            assert process.wait(5) == code
        finally:
            process.kill()
        assert ("ended at once" in process.stderr.read()) == (rank == "0")


# --- the record of a job, and the table of a sweep ---


@pytest.fixture
def job_in(tmp_path, monkeypatch):
    """Run a program of one job as train.py does, always in the folder `run`; its exit code."""
    monkeypatch.setattr(entry, "check", lambda cfg, *_: cfg)
    monkeypatch.setattr(entry, "start_ranks", lambda *_: Ranks())
    launched(monkeypatch, {})
    mode = type("Mode", (), {"name": "RUN"})
    overrides = type("Overrides", (), {"task": ["++a=1"]})
    places = {"output_dir": str(tmp_path / "run"), "config_sources": [], "choices": {}}
    runtime = type("Runtime", (), places)
    job = type("Job", (), {"config_name": "train"})
    hydra = type(
        "Hydra", (), {"mode": mode, "overrides": overrides, "runtime": runtime, "job": job}
    )
    monkeypatch.setattr(entry.HydraConfig, "get", lambda: hydra)

    def run(program, stage="policy"):
        cfg = OmegaConf.create({"stage": stage, "trainer": None})
        try:
            entry.run_program(cfg, lambda: program)
        except SystemExit as end:
            return end.code
        return 0

    return run


def warmed_up(run_dir, overrides):
    """What a job records after its warm-up."""
    stages = [{"name": "warmup", "metrics": {"dev/accuracy": 0.1875}}]
    write_summary(run_dir, {"overrides": overrides, "stages": stages})


@pytest.mark.parametrize(
    ("name", "usual"),
    [("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64"), ("TORCH_CUDNN_SDPA_DEPRIORITIZED", "1")],
)
def test_libraries_compile_little_unless_the_user_says_otherwise(job_in, monkeypatch, name, usual):
    seen = []
    monkeypatch.delenv(name, raising=False)
    for wanted in (usual, "7"):
        assert job_in(lambda *_: seen.append(os.environ[name])) == 0
        assert seen[-1] == wanted
        monkeypatch.setenv(name, "7")


def test_a_summary_tells_how_its_own_job_went(job_in, tmp_path):
    folder = tmp_path / "run"

    def works(settings, ranks, run_dir, overrides):
        assert read_summary(run_dir) == {"status": "running", "overrides": ["a=1"], "stages": []}
        warmed_up(run_dir, overrides)
        return 0.5

    def fails(settings, ranks, run_dir, overrides):
        warmed_up(run_dir, overrides)
        raise ValueError("row 7 has 3 of 2")

    def stops(settings, ranks, run_dir, overrides):
        raise RunStopped(15, "policy at step 3")

    assert job_in(works) == 0
    done = read_summary(folder)
    assert (done["status"], done["optimized_metric"], len(done["stages"])) == ("finished", 0.5, 1)

    assert job_in(fails) == 1
    failed = read_summary(folder)
    assert (failed["status"], failed["optimized_metric"]) == ("failed", None)
    assert failed["error"] == "ValueError: row 7 has 3 of 2"
    assert "row 7" in (folder / "error.txt").read_text()

    assert job_in(stops) == 143
    stopped = read_summary(folder)
    assert (stopped["status"], stopped["stages"]) == ("stopped", [])
    assert "policy at step 3" in stopped["error"]
    assert not (folder / "error.txt").exists()


def test_a_job_that_fails_before_it_begins_leaves_nothing_of_an_earlier_one(
    job_in, tmp_path, monkeypatch
):
    assert job_in(lambda *_: 0.5) == 0

    def refuse(cfg, *_):
        raise ConfigurationError("policy.steps: 'many'")

    monkeypatch.setattr(entry, "check", refuse)
    assert job_in(lambda *_: 0.5) == 1
    summary = read_summary(tmp_path / "run")
    assert (summary["status"], summary["optimized_metric"]) == ("failed", None)
    assert "policy.steps: 'many'" in summary["error"]
    said = (tmp_path / "run" / "train.log").read_text()
    assert "overrides: a=1\n" in said
    assert "error: policy.steps: 'many'\n" in said


def test_a_stage_that_makes_nothing_leaves_the_summary(job_in, tmp_path):
    assert job_in(lambda *_: 0.5) == 0
    before = read_summary(tmp_path / "run")
    assert job_in(lambda *_: None, stage="plan") == 0
    assert read_summary(tmp_path / "run") == before


def test_an_error_is_shown_where_nothing_can_be_written(job_in, tmp_path, capsys):
    (tmp_path / "run").write_text("a file in the place of the folder")
    assert job_in(lambda *_: 0.5) == 1
    assert str(tmp_path / "run") in capsys.readouterr().err


def test_the_failure_that_a_child_process_recorded_stays(tmp_path):
    for error in ("ValueError: 3 of 2", "its process ended with 1"):
        record = JobRecord(tmp_path)
        record._began = True
        if error.startswith("Value"):
            record.begin([])
        record.broken_off("failed", error)
    assert read_summary(tmp_path)["error"] == "ValueError: 3 of 2"


def test_the_table_of_a_sweep_holds_every_job(tmp_path):
    def summary(name, metric, failed=False, **metrics):
        stages = [
            {"name": "grm", "metrics": {"grm/loss": 1.0}},
            {"name": "policy", "metrics": {"train/loss": 0.25, "note": "text", "ok": True}},
            {"name": "evaluate", "metrics": metrics},
        ]
        record = JobRecord(tmp_path / name)
        record.begin([])
        write_summary(tmp_path / name, {"overrides": ["a=1|2"], "stages": stages})
        if failed:
            record.broken_off("failed", "ValueError: 3 of 2")
        else:
            record.finished(metric)

    summary("10", 0.75, **{"eval/accuracy": 0.75})
    summary("2", None, **{"eval/pass": 3})
    summary("lr=0.1/x", 0.5)
    summary("11", 0.25, failed=True, **{"eval/accuracy": 0.1875})
    columns, rows = write_sweep_table(tmp_path)
    names = ["job", "status", "overrides", "optimized_metric"]
    assert columns == [*names, "train/loss", "eval/pass", "eval/accuracy"]
    assert rows == [
        ["2", "finished", "a=1|2", "", "0.25", "3", ""],
        ["10", "finished", "a=1|2", "0.75", "0.25", "", "0.75"],
        ["11", "failed", "a=1|2", "", "", "", ""],
        ["lr=0.1/x", "finished", "a=1|2", "0.5", "0.25", "", ""],
    ]
    assert list(csv.reader((tmp_path / "results.csv").read_text().splitlines())) == [columns, *rows]
    table = (tmp_path / "results.md").read_text().splitlines()
    assert table[2] == "| 2 | finished | a=1\\|2 |  | 0.25 | 3 |  |"
    assert write_sweep_table(tmp_path) == (columns, rows)


def test_a_sweep_without_results_has_an_empty_table(tmp_path):
    assert write_sweep_table(tmp_path) == ([], [])


def test_the_overview_of_a_sweep_has_the_settings_in_which_jobs_differ(tmp_path):
    for job, overrides in enumerate(
        (
            ["a=1", "++policy.lr=0.1", "grm.lr=0.2", "policy.objective.epsilon=0.3"],
            ["a=1", "++policy.lr=0.2", "grm.lr=0.2", "policy.objective.epsilon=0.3"],
            ["a=1", "++policy.lr=0.1", "grm.lr=0.4"],
        )
    ):
        record = JobRecord(tmp_path / str(job))
        record.begin([])
        metrics = {"dev/accuracy": 0.5, "report/policy/accuracy": 0.25, "dev/accuracy_low": 0.1}
        found = {"overrides": overrides, "stages": [{"metrics": metrics}]}
        write_summary(tmp_path / str(job), found | {"optimized_metric_name": "dev/accuracy"})
        if job < 2:
            record.finished(0.5)
    assert sweep_overview(tmp_path).splitlines() == [
        "| job | status | policy.lr | grm.lr | epsilon | dev/accuracy | report/policy/accuracy |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| 0 | finished | 0.1 | 0.2 | 0.3 | 0.5 | 0.25 |",
        "| 1 | finished | 0.2 | 0.2 | 0.3 | 0.5 | 0.25 |",
        "| 2 | running | 0.1 | 0.4 |  |  |  |",
    ]
    assert sweep_overview(tmp_path / "none") == ""
