"""The settings of every stage: dataclasses that are the schema of the configuration.

Each YAML node is bound to the class of its name here, so that a misspelt key is found before
anything heavy is imported. Nodes with a `_target_` (task, teacher, optimizer, objective, reward,
...) are bound to the signature of their target instead. All values are plain. A field that conf/
shows has no default here: its default is in YAML.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from rlmec.settings.run_settings import (
    CallbackSettings,
    LoraSettings,
    ModelSettings,
    PathSettings,
    PruneSettings,
    SecuritySettings,
    TrainerSettings,
    check_precision,
)


@dataclass(frozen=True)
class PromptSettings:
    """Text of the prompts; `chat` wraps them in the tokenizer's chat template."""

    policy: str
    rewrite: str
    rewrite_answer_only: str
    locate: str
    located: str
    chat: bool
    system: str | None


@dataclass(frozen=True)
class FitSettings:
    """What every fit needs; one of `steps` (optimizer) and `epochs` (over the rows) is given.

    `tokens_per_step` counts real tokens of an optimizer step over all ranks and micro-batches.
    `precision` is Lightning's. `max_length` drops (and counts) longer rows. `val_every_steps`
    counts optimizer steps.
    """

    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    seed: int
    steps: int | None
    epochs: float | None
    tokens_per_step: int
    max_length: int
    precision: str
    warmup_share: float
    gradient_clip: float | None
    val_every_steps: int
    val_problems: int

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                f"give steps or epochs: steps is {self.steps}, epochs is {self.epochs}"
            )
        for name in ("steps", "tokens_per_step", "max_length", "val_every_steps"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}, at least 1 is needed")
        if self.epochs is not None and self.epochs <= 0:
            raise ValueError(f"epochs is {self.epochs}, more than 0 is needed")
        check_precision(self.precision)


@dataclass(frozen=True)
class WarmupSettings(FitSettings):
    """Plain likelihood on reference solutions; stops early at `target_accuracy` on dev problems.

    `task` are changes to the task node for the warm-up alone: other references, or easier problems,
    than those that the policy is then trained on.
    """

    target_accuracy: float | None
    task: dict[str, Any] | None


@dataclass(frozen=True)
class SampleSettings:
    """Sampling from the start policy, or importing from the file `path` (JSON lines).

    Of `logprob_checks` sampled attempts the sampler's log-probs are compared with the trainer's.
    """

    seed: int
    num_generations: int
    temperature: float
    top_p: float
    max_completion_length: int
    part_size: int
    max_problems: int | None
    precision: str
    logprob_checks: int
    path: str | None
    text_field: str
    label_field: str | None
    question_field: str

    def __post_init__(self) -> None:
        check_precision(self.precision)


@dataclass(frozen=True)
class TeachSettings:
    """Of a `share` of the problems (by a hash) the teacher corrects the wrong attempts."""

    seed: int
    share: float
    max_edit_ratio: float
    part_size: int


@dataclass(frozen=True)
class Mixture:
    """Rows of each kind per rewriting row in the training of the GRM."""

    copy: float
    locate: float


@dataclass(frozen=True)
class GrmSettings(FitSettings):
    """Training of the GRM; `model` (default: the policy's start) is a directory, `lora` as of the
    policy (`model.lora`). `rows_together` of a problem share their prompt in one row. It is
    trained on for `later_steps` in each round after the first, or kept where that is None. Above a
    `label_weight` of 0 it also learns to say of an attempt's tokens whether to keep them."""

    model: str | None
    lora: LoraSettings | None
    mixture: Mixture
    rows_together: int
    later_steps: int | None
    label_weight: float
    val_share: float
    max_completion_length: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.later_steps is not None and self.later_steps < 1:
            raise ValueError(f"later_steps is {self.later_steps}, at least 1 is needed")
        if self.label_weight < 0:
            raise ValueError(f"label_weight is {self.label_weight}, a weight is not below 0")


@dataclass(frozen=True)
class ScoreSettings:
    """Scoring and rewriting with the GRM; `rewrite` off leaves untaught attempts uncorrected. With
    `labels` a token's probability is that of its label (see `ablations.labels`), not its
    likelihood."""

    seed: int
    rewrite: bool
    labels: bool
    max_edit_ratio: float
    max_completion_length: int
    part_size: int
    precision: str
    max_length: int = 2048

    def __post_init__(self) -> None:
        check_precision(self.precision)


@dataclass(frozen=True)
class EditWeights:
    """Imitation weights of tokens of a correction: inserted or substituted, and kept."""

    edited: float
    kept: float


@dataclass(frozen=True)
class PolicySettings(FitSettings):
    """Policy training. `rows` turns pairs into rows, `objective` and `reward` are functions.

    `score_corrections` computes the start's log-probs of corrections (for DPO on them);
    `teacher_corrections_only` leaves out those that the GRM made; `one_schedule` is one schedule of
    the learning rate over all rounds.
    """

    objective: dict[str, Any]
    reward: dict[str, Any]
    rows: dict[str, Any]
    edit_weights: EditWeights
    keep_uncorrected: bool
    max_right_per_problem: int | None
    max_completion_length: int
    ratio_tolerance: float | None
    score_corrections: bool
    teacher_corrections_only: bool
    one_schedule: bool


@dataclass(frozen=True)
class EvaluateSettings:
    """Evaluation on a split: greedy (`num_samples` 0) or sampled, with pass@k and maj@k.

    `model` or stored outputs (`attempts`, with `text_field` and `question_field`) are judged, and
    compared with `against`: model directories or stored outputs. `tasks` are judged in addition to
    the task of training, or instead of it in `evaluate.py`. `modes` are the readings of an answer
    that are reported. `num_fewshot` train problems precede each judged one. `overlap` is what
    happens to problems that were trained on.
    """

    seed: int
    model: str | None
    attempts: str | list[str] | None
    against: str | list[str] | None
    tasks: dict[str, Any] | None
    split: str
    num_problems: int | None
    num_samples: int
    num_fewshot: int
    modes: list[Literal["strict", "flexible", "authors"]]
    overlap: Literal["refuse", "drop", "allow"]
    temperature: float
    top_p: float
    max_completion_length: int
    part_size: int
    precision: str
    text_field: str
    question_field: str

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if self.num_fewshot < 0:
            raise ValueError(f"num_fewshot is {self.num_fewshot}, at least 0 is needed")
        if self.model is not None and self.attempts is not None:
            raise ValueError("model and attempts: one of them is judged, name the other in against")


@dataclass(frozen=True)
class ReportSettings:
    """The final table: the start, each of `compare` (changes to the policy node), with
    `each_round` the policy of every round, the policy. The token-reward page shows `page_pairs`
    attempts at most."""

    compare: dict[str, dict[str, Any]] | None
    page_pairs: int
    each_round: bool


@dataclass(frozen=True)
class ExportSettings:
    """`stage=export` writes `what` (policy, grm, pairs or scores) to the folder `path`.

    Of models: `merge` puts an adapter into its base model, `dtype` (default: as trained) is that of
    the weights. Of pairs: `format` is jsonl or parquet; `conversational` (default: with a chat
    template) writes turns instead of text; `right_and_wrong` adds pairs of a right and a wrong
    attempt at one problem.
    """

    what: str
    path: str | None
    merge: bool
    dtype: str | None
    format: str
    conversational: bool | None
    right_and_wrong: bool


@dataclass(frozen=True)
class RunSettings:
    """The root of the tree.

    `resume` says how an interrupted run continues: auto; required (an error if there is nothing to
    resume); never; weights (also on another number of ranks, no longer bit for bit). `ckpt_path` is
    a checkpoint of the stage `stage`. The chain runs `rounds` times, each time from the policy that
    the round before trained.
    """

    task: Any
    prompt: PromptSettings
    model: ModelSettings
    warmup: WarmupSettings
    sample: SampleSettings
    teacher: Any
    teach: TeachSettings
    grm: GrmSettings
    score: ScoreSettings
    policy: PolicySettings
    evaluate: EvaluateSettings
    report: ReportSettings
    export: ExportSettings
    engine: Any
    trainer: TrainerSettings
    callbacks: CallbackSettings
    logger: Any
    paths: PathSettings
    security: SecuritySettings
    prune: PruneSettings
    seed: int
    stage: str
    rounds: int
    resume: Literal["auto", "required", "never", "weights"]
    ckpt_path: str | None
    run_name: str | None
    tags: list[str]
    optimized_metric: str

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}, at least 1 is needed")
        if self.score.labels and not self.grm.label_weight:
            raise ValueError("score.labels: the GRM learns no labels; set grm.label_weight=1")


def as_plain(settings: Any) -> dict[str, Any]:
    """A settings object as the nested plain dict it was bound from."""
    out: dict[str, Any] = {}
    for f in fields(settings):
        value = getattr(settings, f.name)
        out[f.name] = as_plain(value) if hasattr(value, "__dataclass_fields__") else value
    return out
