"""Settings for tests: the configuration's own defaults, with what a test changes."""

import copy
import dataclasses
import functools
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rlmec.prompts import TEMPLATE_FIELDS
from rlmec.settings.check import check

CONF = Path(__file__).resolve().parents[1] / "conf"

ADAM = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 1e-3, "weight_decay": 0.0}


@functools.cache
def _composed():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=["logger=none"])


def part(name, **changes):
    """The settings of one node (trainer, callbacks, ...) as conf/ has them, with changes."""
    return dataclasses.replace(getattr(check(_composed()), name), **changes)


def over_defaults(changes):
    """The composed tree as a plain dict, with nodes merged; a node with a target replaces."""
    return _merged(OmegaConf.to_container(_composed(), resolve=True), changes)


def _merged(old, new):
    if not isinstance(old, dict) or not isinstance(new, dict) or "_target_" in new:
        return copy.deepcopy(new)
    return old | {name: _merged(old.get(name), value) for name, value in new.items()}


def tree(**changes):
    """A whole configuration as a plain dict, with dotted keys changed."""
    fit = {"optimizer": ADAM, "scheduler": {}, "steps": 3}
    arithmetic = {"_target_": "rlmec.tasks.arithmetic.ArithmeticTask", "seed": 1, "train": 20}
    function = {"_partial_": True}
    plain = {
        "task": arithmetic,
        "prompt": {
            name: "".join(f"{{{field}}}" for field in fields.needed)
            for name, fields in TEMPLATE_FIELDS.items()
        },
        "model": {"shape": {"model_type": "llama", "hidden_size": 32}, "lora": {"r": 4}},
        "warmup": fit | {"target_accuracy": 0.7},
        "sample": {"num_generations": 2},
        "teacher": {"_target_": "rlmec.teachers.oracle.OracleTeacher"},
        "teach": {"share": 0.5},
        "grm": fit | {"mixture": {"copy": 1.0, "locate": 0.25}},
        "score": {"rewrite": True},
        "policy": fit
        | {
            "objective": {"_target_": "rlmec.method.objectives.rlmec_clipped", "epsilon": 0.2}
            | function,
            "reward": {"_target_": "rlmec.method.rewards.clipped_probability", "pivot": 0.5}
            | function,
            "rows": {"_target_": "rlmec.data.policy_rows.pair_rows"} | function,
            "edit_weights": {"edited": 1.0},
        },
        "evaluate": {"split": "test", "model": None},
        "report": {"compare": {"sft": {"steps": 3}}},
        "export": {"what": "grm"},
        "engine": {"_target_": "rlmec.engines.vllm.VllmEngine", "dtype": None}
        | {"tensor_parallel_size": 1, "gpu_memory_utilization": 0.9, "max_model_len": None}
        | {"enforce_eager": False},
        "trainer": {"devices": 1},
        "callbacks": {"extra": {}},
        "logger": None,
        "paths": {"artifacts": "a", "outputs": "o"},
        "security": {"allow": []},
        "tags": ["x"],
    }
    plain = over_defaults(plain)
    for key, value in changes.items():
        put(plain, key, value)
    return plain


def put(plain, dotted, value):
    *above, last = dotted.split(".")
    functools.reduce(lambda at, name: at[name], above, plain)[last] = value
