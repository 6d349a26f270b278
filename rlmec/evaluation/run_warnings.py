"""Named warnings: what the figures of a stage show to be amiss, why, and the setting to look at.

In: the metrics that a stage wrote, the rows of its training curve. Out: warnings. Pure; a figure
that is not there warns of nothing. The bounds are ours, wide enough that a run in good order stays
below them; docs/diagnosis.md lists them.
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
    "unchanged": ("they are the attempts themselves", "grm.mixture.copy"),
    "not_right": ("their answers are wrong", "grm.steps"),
    "too_many_edits": ("they change too much", "{stage}.max_edit_ratio"),
}
"""Reasons of rejected corrections: in words, and the setting to look at."""
_TEACHER = {
    "unchanged": "teacher",
    "not_right": "teacher",
    "clipped": "sample.max_completion_length",
}


@dataclass(frozen=True)
class NamedWarning:
    """`name` stays the same from version to version; `setting` is the key to look at first."""

    name: str
    text: str
    setting: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text} (look at {self.setting})"


def diagnose(stage: str, metrics: Metrics, curve: Curve = ()) -> list[NamedWarning]:
    """What the figures of one finished stage warn of; nothing for stages that have no check."""
    checks: dict[str, Callable[[], list[NamedWarning]]] = {
        "sample": lambda: of_samples(metrics),
        "teach": lambda: of_corrections(metrics, "teach"),
        "score": lambda: of_corrections(metrics, "score") + of_copying(metrics),
        "policy": lambda: of_rewards(metrics) + of_training(curve) + of_validation(metrics),
    }
    return checks[stage]() if stage in checks else []


def of_samples(metrics: Metrics) -> list[NamedWarning]:
    """Nearly all right, nearly all wrong, mostly cut off, mostly the same."""
    out = []
    accuracy = metrics.get("sample/accuracy")
    if accuracy is not None and accuracy >= 0.98:
        why = "there are hardly any wrong attempts to correct: take harder problems, or stop the "
        why += "warm-up earlier"
        text = f"{accuracy:.1%} of the attempts are right; {why}"
        out.append(NamedWarning("samples_all_right", text, "warmup.target_accuracy"))
    if accuracy is not None and accuracy <= 0.02:
        why = "the start cannot solve the problems, or its answers are not read: look at some texts"
        text = f"{accuracy:.1%} of the attempts are right; {why}"
        out.append(NamedWarning("samples_all_wrong", text, "warmup.steps"))
    if (clipped := metrics.get("sample/clipped_rate", 0.0)) >= 0.2:
        text = f"{clipped:.1%} of the attempts were cut at the length limit and count as wrong"
        out.append(NamedWarning("samples_clipped", text, "sample.max_completion_length"))
    if (alike := metrics.get("sample/duplicate_rate", 0.0)) >= 0.8:
        text = f"{alike:.1%} of the attempts repeat another one: the policy has hardly any entropy"
        out.append(NamedWarning("samples_alike", text, "sample.temperature"))
    return out


def of_corrections(metrics: Metrics, stage: str) -> list[NamedWarning]:
    """More than half of the corrections of a stage (`teach` or `score`) are rejected."""
    counts = {why: metrics.get(f"{stage}/{why}", 0) for why in ("accepted", *REASONS)}
    total = sum(counts.values())
    if not total or counts.pop("accepted") * 2 >= total:
        return []
    worst = max(counts, key=lambda why: counts[why])
    words, setting = REASONS[worst]
    if stage == "teach":
        setting = _TEACHER.get(worst, setting)
    text = f"{sum(counts.values())} of {total} corrections are rejected, {counts[worst]} because "
    return [NamedWarning("corrections_rejected", text + words, setting.format(stage=stage))]


def of_copying(metrics: Metrics) -> list[NamedWarning]:
    """The GRM would not copy what is right already: its rewards of right attempts are noise."""
    share = metrics.get("grm/copied_share")
    if share is None or share >= 0.8:
        return []
    text = f"only {share:.1%} of the tokens of right attempts have a GRM probability above 0.5: it "
    text += "has not learned to copy what is right, so that it will punish right tokens too"
    return [NamedWarning("grm_does_not_copy", text, "grm.steps")]


def of_rewards(metrics: Metrics) -> list[NamedWarning]:
    """Nearly all token rewards are zero, or nearly all of the others are penalties."""
    signs = [metrics.get(f"policy/rewards/{sign}") for sign in ("positive", "negative", "zero")]
    if None in signs:
        return []
    positive, negative, zero = (float(sign or 0) for sign in signs)
    given, total = positive + negative, positive + negative + zero
    if total and given / total < 0.02:
        text = f"{given:.0f} of {total:.0f} tokens have a reward: training is imitation alone"
        return [NamedWarning("rewards_all_zero", text, "policy.reward")]
    if given and negative / given > 0.9:
        text = f"{negative / given:.1%} of the rewards are penalties, as with a GRM that has not "
        text += "learned; they push probability away and give it to nothing"
        return [NamedWarning("rewards_all_penalties", text, "grm.steps")]
    return []


def of_training(curve: Curve) -> list[NamedWarning]:
    """Of the policy's training, by its last third: ratios far from 1, punished tokens that fall."""
    rows = [row for row in curve if "train/ratio/mean" in row]
    if len(rows) < 3:
        return []
    last, middle = rows[-(len(rows) // 3) :], rows[len(rows) // 3 : -(len(rows) // 3)]
    out = []
    ratio, largest = _mean(last, "train/ratio/mean"), max(row["train/ratio/max"] for row in last)
    if not 0.7 <= ratio <= 1.5 or largest > 50:
        text = f"the ratio to the old policy is {ratio:.2f} in the mean and at most {largest:.3g}: "
        text += "the scores are of another policy than the one in training by now"
        out.append(NamedWarning("ratio_far_from_one", text, "policy.optimizer.lr"))
    before, now = _mean(middle, "train/approx_kl"), _mean(last, "train/approx_kl")
    if now > 1.0 and now > 1.2 * before and _mean(last, "train/clip_ratio/low_mean") > 0.01:
        text = f"punished tokens fall on below the clip range: approximate KL {before:.2f}, then "
        text += f"{now:.2f} nats a token; the authors' form does not stop them, the clipped does"
        out.append(NamedWarning("punished_tokens_falling", text, "policy.objective"))
    return out


def of_validation(metrics: Metrics) -> list[NamedWarning]:
    """Greedy solutions of dev problems that are cut off more and more during a training; an
    entropy that falls to a tenth."""
    return _growing(metrics) + _collapsing(metrics)


def _collapsing(metrics: Metrics) -> list[NamedWarning]:
    seen = [row["val/entropy"] for row in metrics.get("history", []) if "val/entropy" in row]
    if len(seen) < 2 or seen[-1] >= 0.1 * seen[0]:
        return []
    text = f"the mean entropy of the policy's tokens fell from {seen[0]:.3g} to {seen[-1]:.3g} "
    text += "nats: it hardly samples anything but its likeliest token"
    return [NamedWarning("entropy_collapse", text, "policy.steps")]


def _growing(metrics: Metrics) -> list[NamedWarning]:
    cut = [
        row["dev/clipped_rate"] for row in metrics.get("history", []) if "dev/clipped_rate" in row
    ]
    if len(cut) < 2 or cut[-1] < cut[0] + 0.1:
        return []
    text = f"{cut[-1]:.1%} of the dev solutions are cut at the length limit, {cut[0]:.1%} at the "
    return [NamedWarning("completions_growing", text + "start", "policy.max_completion_length")]


def of_evaluations(start: Metrics, policy: Metrics, task: str) -> list[NamedWarning]:
    """The start and the trained policy on the same problems: length, and (of samples) diversity."""
    out, name = [], f"eval/{task}"
    lengths = [m.get(f"{name}/completion_tokens/mean") for m in (start, policy)]
    if all(lengths) and lengths[1] > 1.5 * lengths[0]:  # pyright: ignore
        text = f"completions have {lengths[1]:.0f} tokens in the mean, those of the start "
        text += f"{lengths[0]:.0f}"
        out.append(NamedWarning("completions_growing", text, "policy.edit_weights"))
    both = [key for key in policy if key.startswith(f"{name}/pass@") and key in start]
    widest = max(both, key=lambda key: int(key.rpartition("@")[2]), default="")
    grew = bool(widest) and policy[f"{name}/pass@1"] > start[f"{name}/pass@1"]
    if grew and policy[widest] < start[widest] - 0.02:
        text = f"{widest.rpartition('/')[2]} fell from {start[widest]:.1%} to {policy[widest]:.1%} "
        text += "while pass@1 grew: the samples have become alike"
        out.append(NamedWarning("entropy_collapse", text, "policy.steps"))
    return out


def _mean(rows: Curve, key: str) -> float:
    return fmean(row[key] for row in rows)
