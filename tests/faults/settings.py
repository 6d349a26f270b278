"""The commands under test: a chain as small as can be, of full and of LoRA training, with one or
several micro-batches a step, with and without loader workers."""

from __future__ import annotations

from pathlib import Path

EXPERIMENT = """# @package _global_
defaults: [smoke]
task: {train: 40, dev: 8, test: 8}
model: {shape: {hidden_size: 32, intermediate_size: 64, attention_dropout: 0.1}}
warmup: {steps: 7, tokens_per_step: 512, val_every_steps: 3, val_problems: 4}
grm: {steps: 7, tokens_per_step: 512, val_every_steps: 3, val_problems: 4}
policy: {steps: 7, tokens_per_step: 512, val_every_steps: 3, val_problems: 4}
sample: {max_completion_length: 12, part_size: 8, logprob_checks: 4}
teach: {part_size: 12}
score: {part_size: 16}
evaluate: {part_size: 2}
callbacks: {checkpoint_every_steps: 2}
trainer: {threads: 1, progress_bar: false, log_every_n_steps: 1}
logger: null
"""
STAGES = ("warmup", "sample", "teach", "grm", "score", "policy", "evaluate")
FITS = ("warmup", "grm", "policy")
EVERY = 2
"""Optimizer steps between two checkpoints."""
_LORA = ("model=hf", "model.lora={r: 4, alpha: 8, dropout: 0.1}")
SETTINGS: dict[str, tuple[str, ...]] = {
    "full1": (),
    "full3w2": ("trainer.accumulate=3", "trainer.num_workers=2"),
    "full5": ("trainer.accumulate=5",),
    "lora1w2": (*_LORA, "trainer.num_workers=2"),
    "lora3": (*_LORA, "trainer.accumulate=3"),
    "lora5w2": (*_LORA, "trainer.accumulate=5", "trainer.num_workers=2"),
    "dated1": ("model=hf", "prompt=chat"),
    "ranks2": ("trainer.devices=2", "trainer.strategy=ddp"),
}
DATED_CHAT = (
    "{{ strftime_now('%d %b %Y') }}\n"
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
)
"""The chat template of the finished model in "dated1", which shows the day."""


def write_configuration(folder: Path) -> Path:
    """A configuration folder with the experiment `faults`."""
    (folder / "experiment").mkdir(parents=True, exist_ok=True)
    (folder / "experiment" / "faults.yaml").write_text(EXPERIMENT)
    return folder


def command(setting: str, stage: str, configuration: Path, store: Path, start: Path) -> list[str]:
    """Arguments of `train.py`; `start` is the finished model of settings that have one."""
    own = SETTINGS[setting]
    model = [f"model.path={start}"] if "model=hf" in own else []
    return [
        f"--config-dir={configuration}",
        "experiment=faults",
        f"stage={stage}",
        f"paths.artifacts={store / 'artifacts'}",
        f"paths.outputs={store / 'outputs'}",
        *own,
        *model,
    ]


def upstream(setting: str, stage: str) -> list[str]:
    """Stages that lie before one."""
    before = STAGES[: STAGES.index(stage)]
    return [s for s in before if s != "warmup" or setting.startswith(("full", "ranks"))]
