"""Ranks decide together, end together and leave a clean process; jobs of a sweep fail alone."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import rlmec
from rlmec.runtime import ranks
from rlmec.runtime.ranks import Ranks, start_ranks, world_size
from rlmec.runtime.sweeps import run_as_child, write_summary, write_sweep_table
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
        "Ranks(0, 2).watch([child], grace=0.1); time.sleep(1.5); print('went on')"
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
        deadline = time.monotonic() + 10
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


def test_impossible_launches_are_refused(monkeypatch):
    with pytest.raises(ConfigurationError, match=r"trainer\.devices: 'many'"):
        world_size(TrainerSettings(**(TRAINER | {"devices": "many"})))
    with pytest.raises(ConfigurationError, match=r"trainer\.num_nodes is 2"):
        start_ranks(TrainerSettings(**(TRAINER | {"num_nodes": 2})), [], ".")

    class Job:
        mode = type("Mode", (), {"name": "MULTIRUN"})

    assert run_as_child(Job, TrainerSettings(**TRAINER)) is None
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ConfigurationError, match="torchrun"):
        run_as_child(Job, TrainerSettings(**(TRAINER | {"devices": 2})))


def test_the_table_of_a_sweep_holds_every_job(tmp_path):
    def summary(name, metric, **metrics):
        (tmp_path / name).mkdir(parents=True)
        stages = [
            {"name": "grm", "metrics": {"grm/loss": 1.0}},
            {"name": "policy", "metrics": {"train/loss": 0.25, "note": "text", "ok": True}},
            {"name": "evaluate", "metrics": metrics},
        ]
        found = {"overrides": ["a=1|2"], "optimized_metric": metric, "stages": stages}
        write_summary(tmp_path / name, found)

    summary("10", 0.75, **{"eval/accuracy": 0.75})
    summary("2", None, **{"eval/pass": 3})
    summary("lr=0.1/x", 0.5)
    columns, rows = write_sweep_table(tmp_path)
    names = ["job", "overrides", "optimized_metric", "train/loss", "eval/pass", "eval/accuracy"]
    assert columns == names
    assert rows == [
        ["2", "a=1|2", "", "0.25", "3", ""],
        ["10", "a=1|2", "0.75", "0.25", "", "0.75"],
        ["lr=0.1/x", "a=1|2", "0.5", "0.25", "", ""],
    ]
    assert list(csv.reader((tmp_path / "results.csv").read_text().splitlines())) == [columns, *rows]
    table = (tmp_path / "results.md").read_text().splitlines()
    assert table[2] == "| 2 | a=1\\|2 |  | 0.25 | 3 |  |"
    assert write_sweep_table(tmp_path) == (columns, rows)


def test_a_sweep_without_results_has_an_empty_table(tmp_path):
    assert write_sweep_table(tmp_path) == ([], [])
