"""Named warnings: what is wrong with the figures of a stage, why, and which setting to look at.

In: the metrics that a stage wrote and the rows of its training curve. Out: warnings. A figure that
is absent causes no warning. The bounds are choices of this project, wide enough that a healthy run
stays below them; docs/diagnosis.md lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

Metrics = Mapping[str, Any]
Curve = Sequence[Mapping[str, float]]

REASONS = {
    "no_proposal": ("nothing was proposed", "teacher"),
    "clipped": ("they were cut at the length limit", "{stage}.max_completion_length"),
    "unchanged": ("they are equal to the attempts", "grm.mixture.copy"),
    "not_right": ("their answers are wrong", "grm.steps"),
    "too_many_edits": ("they change too much", "{stage}.max_edit_ratio"),
}
"""Reason of a rejected correction: in words, and the setting to look at."""
_TEACHER_SETTINGS = {
    "unchanged": "teacher",
    "not_right": "teacher",
    "clipped": "teacher.max_completion_length",
}

ALL_RIGHT = 0.98
"""The share of right attempts from which there are hardly any to correct."""

MANY_CUT = 0.05
"""The share of completions cut at the length limit from which figures and targets are distorted."""


@dataclass(frozen=True)
class NamedWarning:
    """A warning whose `name` is stable across versions; `setting` is the key to look at first."""

    name: str
    text: str
    setting: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text} (setting: {self.setting})"


def diagnose(stage: str, metrics: Metrics, curve: Curve = ()) -> list[NamedWarning]:
    """Return the warnings of one finished stage; a stage without checks has none."""
    checks: dict[str, Callable[[], list[NamedWarning]]] = {
        "sample": lambda: of_samples(metrics),
        "teach": lambda: of_corrections(metrics, "teach"),
        "score": lambda: of_corrections(metrics, "score") + of_copying(metrics),
        "policy": lambda: (
            of_no_training(metrics)
            + of_rewards(metrics)
            + of_training(curve)
            + of_validation(metrics)
        ),
        "evaluate": lambda: of_lengths(metrics),
    }
    return checks[stage]() if stage in checks else []


def of_samples(metrics: Metrics) -> list[NamedWarning]:
    """Warn of attempts that are nearly all right, all wrong, often cut off, or mostly the same."""
    out = []
    accuracy = metrics.get("sample/accuracy")
    if accuracy is not None and accuracy >= ALL_RIGHT:
        text = (
            f"{accuracy:.1%} of the attempts are right, so there are hardly any to correct; use "
            "harder problems or stop the warm-up earlier"
        )
        out.append(NamedWarning("samples_all_right", text, "warmup.target_accuracy"))
    if accuracy is not None and accuracy <= 0.02:
        text = (
            f"{accuracy:.1%} of the attempts are right, so the model cannot solve the problems or "
            "its answers are not recognized; read some attempts, then train the warm-up longer or "
            "fix the answer marker"
        )
        out.append(NamedWarning("samples_all_wrong", text, "warmup.steps"))

    clipped = metrics.get("sample/clipped_rate", 0.0)
    if clipped >= 0.2:
        text = (
            f"{clipped:.1%} of the attempts were cut at the length limit and count as wrong; raise "
            "the limit"
        )
        out.append(NamedWarning("samples_clipped", text, "sample.max_completion_length"))

    alike = metrics.get("sample/duplicate_rate", 0.0)
    if alike >= 0.8:
        text = (
            f"{alike:.1%} of the attempts repeat another one, so the policy has hardly any "
            "entropy; sample at a higher temperature"
        )
        out.append(NamedWarning("samples_alike", text, "sample.temperature"))
    return out


def of_corrections(metrics: Metrics, stage: str) -> list[NamedWarning]:
    """Warn if more than half of a stage's corrections are rejected, or if many were cut off.

    The stage is `teach` or `score`.
    """
    rejected = {why: metrics.get(f"{stage}/{why}", 0) for why in REASONS}
    count = sum(rejected.values())
    total = count + metrics.get(f"{stage}/accepted", 0)
    if not total:
        return []
    if 2 * count <= total:
        return _cut_corrections(rejected["clipped"], total, stage)

    worst = max(rejected, key=lambda why: rejected[why])
    words, setting = REASONS[worst]
    if stage == "teach":
        setting = _TEACHER_SETTINGS.get(worst, setting)
    setting = setting.format(stage=stage)
    text = f"{count} of {total} corrections are rejected, {rejected[worst]} because {words}"
    return [NamedWarning("corrections_rejected", text, setting)]


def _cut_corrections(cut: int, total: int, stage: str) -> list[NamedWarning]:
    if cut < MANY_CUT * total:
        return []
    words, setting = REASONS["clipped"]
    setting = _TEACHER_SETTINGS["clipped"] if stage == "teach" else setting.format(stage=stage)
    text = f"{cut} of {total} corrections are rejected because {words}; raise the limit"
    return [NamedWarning("corrections_clipped", text, setting)]


def of_lengths(metrics: Metrics) -> list[NamedWarning]:
    """Warn of evaluations in which many completions were cut, whatever the task."""
    out = []
    for key, share in metrics.items():
        if key.startswith("eval/") and key.endswith("/clipped_rate") and share >= MANY_CUT:
            task = key.removeprefix("eval/").removesuffix("/clipped_rate")
            text = (
                f"{share:.1%} of the completions at {task} were cut at the length limit and count "
                "as wrong, so the accuracy is that of the limit; raise it"
            )
            out.append(NamedWarning("evaluation_clipped", text, "evaluate.max_completion_length"))
    return out


def of_copying(metrics: Metrics) -> list[NamedWarning]:
    """Warn if the GRM would not copy right attempts: its rewards of right tokens are then noise."""
    share = metrics.get("grm/copied_share")
    if share is None or share >= 0.8 or metrics.get("grm/untrained"):
        return []
    text = (
        f"only {share:.1%} of the tokens of right attempts have a GRM probability above 0.5, so "
        "right tokens will be punished; train the GRM longer or give it more attempts to copy"
    )
    return [NamedWarning("grm_does_not_copy", text, "grm.steps")]


def of_no_training(metrics: Metrics) -> list[NamedWarning]:
    """Warn of a policy that was not trained, because there was nothing to train it on."""
    reason = metrics.get("policy/untrained")
    if not reason:
        return []
    text = (
        f"{reason}, so the policy is the one that the round began with; for more training use "
        "harder problems, stop the warm-up earlier, or sample more attempts"
    )
    return [NamedWarning("policy_untrained", text, "warmup.target_accuracy")]


def of_rewards(metrics: Metrics) -> list[NamedWarning]:
    """Warn if nearly all token rewards are zero, or nearly all nonzero ones are negative."""
    names = [f"policy/rewards/{sign}" for sign in ("positive", "negative", "zero")]
    if any(metrics.get(name) is None for name in names):
        return []
    positive, negative, zero = (float(metrics[name]) for name in names)
    given = positive + negative
    total = given + zero

    if total and given / total < 0.02:
        text = (
            f"{given:.0f} of {total:.0f} tokens have a reward, so the policy learns from imitation "
            "alone; choose a rule that rewards more tokens, unless this is intended"
        )
        return [NamedWarning("rewards_all_zero", text, "policy.reward")]
    if given and negative / given > 0.9:
        text = (
            f"{negative / given:.1%} of the rewards are negative, which lowers probabilities and "
            "raises none; train the GRM longer, since an untrained GRM gives such rewards"
        )
        return [NamedWarning("rewards_all_penalties", text, "grm.steps")]
    return []


def of_training(curve: Curve) -> list[NamedWarning]:
    """Warn, from the last third of the policy's training, of drifting ratios and falling tokens.

    A curve of fewer than three rows causes no warning.
    """
    rows = [row for row in curve if "train/ratio/mean" in row]
    if len(rows) < 3:
        return []
    third = len(rows) // 3
    middle = rows[third:-third]
    last = rows[-third:]

    out = []
    ratio = _mean(last, "train/ratio/mean")
    largest = max(row["train/ratio/max"] for row in last)
    if not 0.7 <= ratio <= 1.5 or largest > 50:
        text = (
            f"the mean ratio to the old policy is {ratio:.2f} and the largest {largest:.3g}, so "
            "the rewards no longer fit the policy in training; use a lower learning rate or fewer "
            "steps"
        )
        out.append(NamedWarning("ratio_far_from_one", text, "policy.optimizer.lr"))

    # The divergence of a finished training may be high; what matters is that it still grows, and
    # that punished tokens below the clip range cause it.
    before = _mean(middle, "train/approx_kl")
    now = _mean(last, "train/approx_kl")
    below_clip = _mean(last, "train/clip_ratio/low_mean")
    if now > 1.0 and now > 1.2 * before and below_clip > 0.01:
        text = (
            f"punished tokens keep falling below the clip range: the approximate KL rose from "
            f"{before:.2f} to {now:.2f} nats per token; use the clipped objective, because the "
            "authors' objective does not stop them"
        )
        out.append(NamedWarning("punished_tokens_falling", text, "policy.objective"))
    return out


def of_validation(metrics: Metrics) -> list[NamedWarning]:
    """Warn if, over one training, more greedy dev solutions are cut off or the entropy vanishes."""
    history = metrics.get("history", [])
    out = []

    cut = [row["dev/clipped_rate"] for row in history if "dev/clipped_rate" in row]
    if len(cut) >= 2 and cut[-1] >= cut[0] + 0.1:
        text = (
            f"{cut[-1]:.1%} of the dev solutions are cut at the length limit, up from "
            f"{cut[0]:.1%} at the start of the training; raise the limit"
        )
        out.append(NamedWarning("completions_growing", text, "policy.max_completion_length"))

    entropy = [row["val/entropy"] for row in history if "val/entropy" in row]
    if len(entropy) >= 2 and entropy[-1] < 0.1 * entropy[0]:
        text = (
            f"the policy's mean entropy per token fell from {entropy[0]:.3g} to {entropy[-1]:.3g} "
            "nats, so it hardly samples anything but its likeliest token; train for fewer steps"
        )
        out.append(NamedWarning("entropy_collapse", text, "policy.steps"))
    return out


def of_evaluations(start: Metrics, policy: Metrics, task: str) -> list[NamedWarning]:
    """Warn if the policy's completions are longer, or its samples more alike, than the start's.

    Both evaluations are of the same problems of `task`.
    """
    out = []
    name = f"eval/{task}"

    start_length = start.get(f"{name}/completion_tokens/mean")
    length = policy.get(f"{name}/completion_tokens/mean")
    if start_length and length and length > 1.5 * start_length:
        text = (
            f"completions have {length:.0f} tokens on average, those of the start "
            f"{start_length:.0f}; check the length of the corrections and the token weights"
        )
        out.append(NamedWarning("completions_growing", text, "policy.edit_weights"))

    # Samples that are alike raise pass@1 and lower pass@k for a large k.
    shared = [key for key in policy if key.startswith(f"{name}/pass@") and key in start]
    widest = max(shared, key=lambda key: int(key.rpartition("@")[2]), default="")
    grew = bool(widest) and policy[f"{name}/pass@1"] > start[f"{name}/pass@1"]
    if grew and policy[widest] < start[widest] - 0.02:
        text = (
            f"{widest.rpartition('/')[2]} fell from {start[widest]:.1%} to {policy[widest]:.1%} "
            "while pass@1 grew, so the samples have become alike; train for fewer steps"
        )
        out.append(NamedWarning("entropy_collapse", text, "policy.steps"))
    return out


def _mean(rows: Curve, key: str) -> float:
    return fmean(row[key] for row in rows)
