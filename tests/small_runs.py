"""The chain in this process, very small: the real configuration, a finished model, few problems."""

import json
from pathlib import Path

from hydra import compose, initialize_config_dir
from small_models import SHAPES, tokenizer

from rlmec.lm.loading import export_network, new_network
from rlmec.runtime.ranks import Ranks
from rlmec.settings.check import check
from rlmec.settings.command_line import check_command_line
from rlmec.settings.schema import RunSettings
from rlmec.stages import train

CONF = Path(__file__).resolve().parents[1] / "conf"
SMALL = [
    *("experiment=smoke", "logger=none", "trainer.threads=1", "trainer.progress_bar=false"),
    *("task.train=24", "task.dev=4", "task.test=4", "sample.num_generations=2"),
    *("sample.max_completion_length=10", "sample.part_size=16", "teach.max_edit_ratio=1.0"),
    *("grm.steps=2", "grm.val_problems=2", "policy.steps=2", "policy.val_problems=2"),
]


def start_model(folder: Path, made=None) -> Path:
    """A directory with a network at random weights, to start from."""
    made = made or tokenizer()
    shape = SHAPES["llama"] | {"initializer_range": 0.2, "max_position_embeddings": 1024}
    export_network(new_network(shape, made, "sdpa", 1), made, folder)
    return folder


def settings_of(root: Path, model: Path, *overrides: str) -> RunSettings:
    """The composed and checked settings of a small run below `root`."""
    places = [f"paths.artifacts={root / 'artifacts'}", f"paths.outputs={root / 'outputs'}"]
    given = [*SMALL, "model=hf", f"model.path={model}", *places, *overrides]
    given = check_command_line(given, CONF, "train")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("train", overrides=given), CONF)


def run(root: Path, model: Path, *overrides: str) -> dict[str, dict]:
    """Runs `train.py` in this process; the stages of its summary by name."""
    folder = root / "outputs" / "run"
    folder.mkdir(parents=True, exist_ok=True)
    train(settings_of(root, model, *overrides), Ranks(), folder, list(overrides))
    stages = json.loads((folder / "summary.json").read_text())["stages"]
    return {s["name"]: s for s in stages}
