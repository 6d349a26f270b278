"""The settings of every stage: dataclasses that are the schema of the configuration.

Each YAML node is bound to the class of its name here, so that a misspelt key is found before
anything heavy is imported. A number is annotated with its range (`ranges`). Nodes with a
`_target_` (task, teacher, optimizer, objective, reward, ...) are bound to the signature of their
target instead. All values are plain. A field that conf/ shows has no default here: its default is
in YAML.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from rlmec.prompts import (
    TEMPLATE_FIELDS,
    check_template,
    check_template_args,
    check_text,
)
from rlmec.settings.ranges import (
    AtMost,
    AtMostOrNone,
    DateText,
    Dtype,
    GradientClip,
    NonNegativeFloat,
    NonNegativeInt,
    PathText,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
    Precision,
    Seed,
    Share,
    ShareBelowOne,
    Split,
    StageName,
    Temperature,
    TopP,
)
from rlmec.settings.run_settings import (
    CallbackSettings,
    LoraSettings,
    ModelSettings,
    PathSettings,
    PruneSettings,
    SecuritySettings,
    TrainerSettings,
)


class Completing:
    """Settings of a stage that writes completions of at most `max_completion_length` tokens.

    None stands for a length that the model and its task decide when the run begins
    (docs/configuration.md).
    """

    max_completion_length: PositiveInt | None

    @property
    def completion_length(self) -> int:
        """`max_completion_length` as a number; ValueError if it is not decided yet."""
        if self.max_completion_length is None:
            raise ValueError(f"{type(self).__name__}: max_completion_length is not decided yet")
        return self.max_completion_length


@dataclass(frozen=True)
class PromptSettings:
    """Texts of the prompts (`prompts.Templates`).

    `chat` wraps them in the tokenizer's chat template, which shows `date` (ISO) as today's and gets
    `template_args` as variables.
    """

    policy: str
    rewrite: str
    rewrite_answer_only: str
    locate: str
    located: str
    chat: bool
    system: str | None
    date: DateText
    template_args: dict[str, Any] | None

    def __post_init__(self) -> None:
        for name, fields_of_it in TEMPLATE_FIELDS.items():
            check_template(name, getattr(self, name), fields_of_it)
        check_text("system", self.system or "")
        check_template_args(self.template_args)
        if self.template_args and not self.chat:
            raise ValueError(
                "template_args are variables of the chat template, but chat is false: use "
                "prompt=chat"
            )


@dataclass(frozen=True)
class FitSettings:
    """What every fit needs; one of `steps` (optimizer) and `epochs` (over the rows) is given.

    `tokens_per_step` counts real tokens of an optimizer step over all ranks and micro-batches.
    `precision` is Lightning's. `max_length` drops (and counts) longer rows. `val_every_steps`
    counts optimizer steps.
    """

    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    seed: Seed
    steps: PositiveInt | None
    epochs: PositiveFloat | None
    tokens_per_step: PositiveInt
    max_length: PositiveInt
    precision: Precision
    warmup_share: Share
    gradient_clip: GradientClip | None
    val_every_steps: PositiveInt
    val_problems: AtMostOrNone

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                f"give steps or epochs: steps is {self.steps}, epochs is {self.epochs}"
            )


@dataclass(frozen=True)
class WarmupSettings(FitSettings):
    """Plain likelihood on reference solutions; stops early at `target_accuracy` on dev problems, or
    when their accuracy has not risen for `patience` validations.

    `when` says whether a run has it: `auto` from random weights alone, `always` from a finished
    model (`model.path`) too, `never` only from a finished model.

    It learns the first `max_problems` train problems (null: all). `task` are changes to the task
    node for the warm-up alone: other references, or easier problems, than those that the policy is
    then trained on.
    """

    when: Literal["auto", "always", "never"]
    max_problems: AtMost | None
    target_accuracy: Share | None
    patience: PositiveInt | None
    task: dict[str, Any] | None


@dataclass(frozen=True)
class SampleSettings(Completing):
    """Sampling from the start policy, or importing from the file `path` (JSON lines).

    Of `logprob_checks` sampled attempts the sampler's log-probs are compared with the trainer's.
    With `fresh` each round samples at the next `max_problems` problems, not at the same ones.
    """

    seed: Seed
    num_generations: PositiveInt
    temperature: Temperature
    top_p: TopP
    max_completion_length: PositiveInt | None
    part_size: PositiveInt
    max_problems: AtMost | None
    fresh: bool
    precision: Precision
    logprob_checks: AtMostOrNone
    path: PathText | None
    text_field: str
    label_field: str | None
    question_field: str


@dataclass(frozen=True)
class TeachSettings:
    """Of a `share` of the problems (by a hash) the teacher corrects the wrong attempts.

    In the first `rounds` rounds alone, if that is set.
    """

    seed: Seed
    share: PositiveShare
    rounds: PositiveInt | None
    max_edit_ratio: NonNegativeFloat
    part_size: PositiveInt


@dataclass(frozen=True)
class Mixture:
    """Rows of each kind per rewriting row in the training of the GRM."""

    copy: NonNegativeFloat
    locate: NonNegativeFloat


@dataclass(frozen=True)
class GrmSettings(FitSettings, Completing):
    """Training of the GRM; `model` (default: the policy's start) is a directory, `lora` as of the
    policy (`model.lora`). `rows_together` of a problem share their prompt in one row. It is
    trained on for `later_steps` in each round after the first, or kept where that is None. Above a
    `label_weight` of 0 it also learns to say of an attempt's tokens whether to keep them."""

    model: PathText | None
    lora: LoraSettings | None
    mixture: Mixture
    rows_together: PositiveInt
    later_steps: PositiveInt | None
    label_weight: NonNegativeFloat
    val_share: ShareBelowOne
    max_completion_length: PositiveInt | None


@dataclass(frozen=True)
class ScoreSettings(Completing):
    """Scoring and rewriting with the GRM; `rewrite` off leaves untaught attempts uncorrected, and
    `rewrite_corrected` rewrites those that the teacher has corrected as well. With `labels` a
    token's probability is that of its label (see `ablations.labels`), not its likelihood.
    `alternatives` is the number of the GRM's likeliest tokens that are kept for the token-reward
    page where a token of an attempt that it rewrites is another one."""

    seed: Seed
    rewrite: bool
    rewrite_corrected: bool
    labels: bool
    alternatives: NonNegativeInt
    max_edit_ratio: NonNegativeFloat
    max_completion_length: PositiveInt | None
    part_size: PositiveInt
    precision: Precision
    max_length: PositiveInt = 2048

    @property
    def rewrites_all(self) -> bool:
        """Whether every wrong attempt is rewritten."""
        return self.rewrite and self.rewrite_corrected


@dataclass(frozen=True)
class EditWeights:
    """Imitation weights of tokens of a correction: inserted or substituted, and kept."""

    edited: NonNegativeFloat
    kept: NonNegativeFloat


@dataclass(frozen=True)
class PolicySettings(FitSettings, Completing):
    """Policy training. `rows` turns pairs into rows, `objective` and `reward` are functions.

    `corrections` says who corrected the wrong attempts that are trained on; of two corrections of
    an attempt the teacher's counts. `score_corrections` computes the start's log-probs of
    corrections (for DPO on them); `one_schedule` is one schedule of the learning rate over all
    rounds. Corrections are imitated in the first `imitated_rounds` rounds alone, if that is set; in
    later ones they place rewards and no more.
    """

    objective: dict[str, Any]
    reward: dict[str, Any]
    rows: dict[str, Any]
    edit_weights: EditWeights
    keep_uncorrected: bool
    max_right_per_problem: NonNegativeInt | None
    max_completion_length: PositiveInt | None
    ratio_tolerance: NonNegativeFloat | None
    corrections: Literal["both", "teacher", "grm"]
    score_corrections: bool
    one_schedule: bool
    imitated_rounds: PositiveInt | None


@dataclass(frozen=True)
class EvaluateSettings(Completing):
    """Evaluation on a split: greedy (`num_samples` 0) or sampled, with pass@k and maj@k.

    `model` or stored outputs (`attempts`, with `text_field` and `question_field`) are judged, and
    compared with `against`: model directories or stored outputs. `tasks` are judged in addition to
    the task of training, or instead of it in `evaluate.py`. `modes` are the readings of an answer
    that are reported. `num_fewshot` train problems precede each judged one. `overlap` is what
    happens to problems that were trained on.
    """

    seed: Seed
    model: PathText | None
    attempts: PathText | list[PathText] | None
    against: PathText | list[PathText] | None
    tasks: dict[str, Any] | None
    split: Split
    num_problems: AtMost | None
    num_samples: NonNegativeInt
    num_fewshot: NonNegativeInt
    modes: list[Literal["strict", "flexible", "authors"]]
    overlap: Literal["refuse", "drop", "allow"]
    temperature: Temperature
    top_p: TopP
    max_completion_length: PositiveInt | None
    part_size: PositiveInt
    precision: Precision
    text_field: str
    question_field: str

    def __post_init__(self) -> None:
        if self.model is not None and self.attempts is not None:
            raise ValueError("model and attempts: one of them is judged, name the other in against")


@dataclass(frozen=True)
class ReportSettings:
    """The final table: the start, each of `compare` (changes to the policy node; null leaves a
    policy out), with `each_round` the policy of every round, the policy. The token-reward page
    shows `page_pairs` attempts at most; the trained policy is asked again about `asked_again` wrong
    ones of them. `against` is a run folder or a report to compare with."""

    compare: dict[str, dict[str, Any] | None] | None
    page_pairs: PositiveInt
    asked_again: NonNegativeInt
    each_round: bool
    against: PathText | None

    @property
    def variants(self) -> dict[str, dict[str, Any]]:
        """The changes to the policy node of each policy to compare with, by its name."""
        given = self.compare or {}
        return {name: changes for name, changes in given.items() if changes is not None}


@dataclass(frozen=True)
class ExportSettings:
    """`stage=export` writes `what` to the folder `path`.

    Of models: `merge` puts an adapter into its base model, `dtype` (default: as trained) is that of
    the weights. Of pairs, completions and messages: `format` is jsonl or parquet. Of pairs and
    completions: `conversational` (default: with a chat template) writes turns instead of text. Of
    pairs: `right_and_wrong` adds pairs of a right and a wrong attempt at one problem. With `hub`
    the folder is pushed to that repository of the Hugging Face hub, which is made if there is none,
    and then is `hub_private`; with `hub_dry_run` it is only said what would be pushed.
    """

    what: Literal["policy", "grm", "pairs", "completions", "messages", "scores", "lm_eval_task"]
    path: PathText | None
    merge: bool
    dtype: Dtype | None
    format: Literal["jsonl", "parquet"]
    conversational: bool | None
    right_and_wrong: bool
    hub: str | None
    hub_private: bool
    hub_dry_run: bool


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
    seed: Seed
    stage: StageName
    rounds: PositiveInt
    resume: Literal["auto", "required", "never", "weights"]
    ckpt_path: PathText | None
    run_name: str | None
    tags: list[str]
    optimized_metric: str

    def __post_init__(self) -> None:
        if self.score.labels and not self.grm.label_weight:
            raise ValueError("score.labels: the GRM learns no labels; set grm.label_weight=1")
        if self.policy.corrections == "grm" and not self.score.rewrites_all:
            raise ValueError(
                "policy.corrections=grm: the GRM rewrites attempts without a correction alone; set "
                "score.rewrite=true and score.rewrite_corrected=true"
            )
        if self.warmup.when == "never" and not self.model.is_finished:
            raise ValueError("warmup=never: a model of random weights needs a warm-up")

    @property
    def has_warmup(self) -> bool:
        """Whether the policy's start is a warm-up's model."""
        return not self.model.is_finished or self.warmup.when == "always"


def as_plain(settings: Any) -> dict[str, Any]:
    """A settings object as the nested plain dict it was bound from."""
    out: dict[str, Any] = {}
    for f in fields(settings):
        value = getattr(settings, f.name)
        out[f.name] = as_plain(value) if hasattr(value, "__dataclass_fields__") else value
    return out
