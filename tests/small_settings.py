"""A whole configuration as a plain dict, small."""

import functools
import json

ADAM = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 1e-3, "weight_decay": 0.0}


def tree(**changes):
    """A whole configuration as a plain dict, with dotted keys changed."""
    fit = {"optimizer": ADAM, "scheduler": {}, "steps": 3}
    arithmetic = {"_target_": "rlmec.tasks.arithmetic.ArithmeticTask", "seed": 1, "train": 20}
    function = {"_partial_": True}
    plain = {
        "task": arithmetic,
        "prompt": {k: k for k in ("policy", "rewrite", "rewrite_answer_only", "locate", "located")},
        "model": {"shape": {"model_type": "llama", "hidden_size": 32}, "lora": {"r": 4}},
        "warmup": fit | {"target_accuracy": 0.7},
        "sample": {"num_generations": 2},
        "teacher": {"_target_": "rlmec.teachers.oracle.OracleTeacher"},
        "teach": {"share": 0.5},
        "grm": fit | {"mixture": {"copy": 1.0}},
        "score": {"rewrite": True},
        "policy": fit
        | {
            "objective": {"_target_": "rlmec.method.objectives.rlmec_clipped", "epsilon": 0.2}
            | function,
            "reward": {"_target_": "rlmec.method.rewards.clipped_probability", "pivot": 0.5}
            | function,
            "rows": {"_target_": "rlmec.method.objectives.rlmec_clipped"} | function,
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
    plain = json.loads(json.dumps(plain))  # nothing shared between nodes
    for key, value in changes.items():
        put(plain, key, value)
    return plain


def put(plain, dotted, value):
    *above, last = dotted.split(".")
    functools.reduce(lambda at, name: at[name], above, plain)[last] = value
