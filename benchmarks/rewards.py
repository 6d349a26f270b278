"""A table of reward rules: how well each one finds the tokens that a correction removes.

python -m benchmarks.rewards [--seeds 1,2,3] [--csv FILE] [key=value ...]

In: the configuration of train.py; the artifacts up to the scores are made or reused. Out: one line
per rule of conf/policy/reward and per ablation that changes the reward (ablation=discriminator
trains a reward model of its own); each is the mean over the seeds with its range. Measured on
the wrong attempts at problems that the GRM was not taught on, against the oracle's edits, or those
of the accepted correction if the task has no oracle. No policy is trained. `ranking` is the average
precision of -R as a detector of removed tokens. It does not depend on a threshold, and equal
rewards count as one. `rewards per penalty` is the sum of all rewards above 0 over the sum of all
penalties (their absolute values), over all scored attempts.
"""

from __future__ import annotations

import argparse
import csv
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir

from rlmec.runtime.display import markdown_table

T = TypeVar("T")
CONF = Path(__file__).resolve().parent.parent / "conf"


@dataclass(frozen=True)
class Line:
    """One rule at one seed; all figures but the last two are shares of 1.

    `false_alarms` is the share of the tokens of right attempts that the rule punishes.
    `first_error` is the share of wrong attempts whose most punished token is in the first wrong
    line, None if the task does not know that line. `rewards_per_penalty` is None without penalties.
    """

    rule: str
    seed: int
    precision: float
    recall: float
    f1: float
    ranking: float
    false_alarms: float
    first_error: float | None
    punished: int
    rewards_per_penalty: float | None


NOT_MEASURED = ("no_reward", "own")  # one gives no reward, the other is a template
ABLATIONS = {  # rule: the file of conf/ablation that chooses it
    "bounded_penalty": "bounded_penalty",
    "continuous_probability": "continuous_probability",
    "discriminator": "discriminator",
    "first_error_labels": "first_error",
    "good_prefix": "good_prefix",
    "verdict": "sequence_reward",
}
SHARES = ("precision", "recall", "f1", "ranking", "false_alarms", "first_error")
COLUMNS = (*SHARES, "rewards_per_penalty")


def measured(overrides: list[str], seed: int) -> Iterator[Line]:
    """Yield the figures of every rule, all measured on the same scored attempts."""
    import torch
    from torchmetrics.functional.classification import binary_average_precision

    from rlmec.method.credit import credit_quality
    from rlmec.pipeline.chain import Run, make
    from rlmec.runtime.ranks import Ranks
    from rlmec.settings.check import check
    from rlmec.settings.command_line import check_command_line, with_split_files
    from rlmec.stages import flow
    from rlmec.stages.report_credit import scored_attempts

    for rule, choice in rules().items():
        chosen = [*overrides, f"seed={seed}", choice, "stage=score", "logger=none"]
        chosen = check_command_line(with_split_files(chosen), CONF, "train")
        with initialize_config_dir(str(CONF), version_base="1.3"):
            settings = check(compose("train", chosen), CONF)
        with tempfile.TemporaryDirectory() as folder:
            run = Run(settings, Ranks(), Path(folder), chosen, torch.get_num_threads())
            first = flow.rounds(run)[0]
            policy = first.policy
            read = {"sample": first.sample, "teach": first.teach, "score": first.score}
            parents = {name: make(s) for name, s in (policy.source.parents | read).items()}
            codec = policy.source.model(parents).codec
            scored = scored_attempts(run, codec, parents)

        found = credit_quality(scored.items)
        punishing = -torch.cat([torch.as_tensor(i.token_rewards) for i in scored.items])
        removed = torch.cat([torch.as_tensor(i.removed) for i in scored.items])
        given = torch.cat([torch.as_tensor(c.pair.token_rewards) for c in scored.cases]).double()
        penalties = float(-given.clamp(max=0).sum())
        right = [c.pair.token_rewards < 0 for c in scored.cases if c.pair.attempt.is_right]
        precision = found.punished.precision
        recall = found.punished.recall

        # F1 from counts is defined even if the rule punishes nothing.
        hits = precision * found.punished.marked if found.punished.marked else 0.0
        yield Line(
            rule,
            seed,
            precision,
            recall,
            2 * hits / (found.punished.marked + found.removed),
            float(binary_average_precision(_ranks(punishing), removed.long())),
            sum(int(r.sum()) for r in right) / max(sum(len(r) for r in right), 1),
            scored.metrics().get("grm/most_punished_in_first_error"),
            found.punished.marked,
            float(given.clamp(min=0).sum()) / penalties if penalties else None,
        )


def rules() -> dict[str, str]:
    """Return the override that chooses each rule.

    These are the options of policy/reward that give a reward, and the ablations that change it.
    """
    files = sorted((CONF / "policy" / "reward").glob("*.yaml"))
    found = {p.stem: f"policy/reward={p.stem}" for p in files if p.stem not in NOT_MEASURED}
    return found | {rule: f"ablation={name}" for rule, name in ABLATIONS.items()}


def _ranks(values: Any) -> Any:
    """Values in [0, 1] in the same order as `values`, equal for equal values.

    The average precision puts values outside [0, 1] through a sigmoid, which could merge some.
    """
    distinct, place = values.unique(return_inverse=True)
    return place / max(len(distinct) - 1, 1)


def table(lines: list[Line]) -> str:
    """Return one line per rule, the best `ranking` first: means over seeds and their ranges."""
    found = by_rule(lines, key=lambda line: line.rule)
    order = sorted(found, key=lambda r: -_mean([line.ranking for line in found[r]]))
    rows = [
        [rule, *(_cell([getattr(line, name) for line in found[rule]]) for name in COLUMNS)]
        for rule in order
    ]
    return markdown_table(["rule", *(name.replace("_", " ") for name in COLUMNS)], rows)


def by_rule(lines: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """Return the lines of each rule, the rules in their order of appearance."""
    out: dict[str, list[T]] = {}
    for line in lines:
        out.setdefault(key(line), []).append(line)
    return out


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _cell(values: list[float | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return ""
    digits = 2 if max(known) < 10 else 0
    spread = f" ({min(known):.{digits}f} to {max(known):.{digits}f})" if len(known) > 1 else ""
    return f"{_mean(known):.{digits}f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", default="1", help="seeds of the chain, separated by commas")
    parser.add_argument("--csv", type=Path, help="also write one line per rule and seed here")
    given, overrides = parser.parse_known_args()
    lines = [line for seed in given.seeds.split(",") for line in measured(overrides, int(seed))]

    if given.csv:
        text = io.StringIO()
        writer = csv.DictWriter(text, [f.name for f in fields(Line)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(line) for line in lines)
        given.csv.write_text(text.getvalue(), encoding="utf-8")
    print("\n" + table(lines), end="")


if __name__ == "__main__":
    main()
