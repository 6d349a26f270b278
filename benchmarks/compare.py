"""Compares methods over whole chains: tunes each on dev, trains it in fresh chains, judges on test.

python -m benchmarks.compare FOLDER [--methods a,b] [--chains 2,3] [--seeds 11,12] [settings ...]

A chain is a run from its own start: with another `seed` its problems, warm-up, samples, corrections
and GRM are others. Chains are the unit of the test; `--seeds` are trainings of the policy within
each. A method is a file of conf/method or conf/ablation, or several joined by "+".

Every method is tuned on a chain of its own (`--tuned-on`): three learning rates, more where the
best is the lowest or the highest, then three values of one further setting. With a single `--rates`
nothing is tuned. The last weights are judged, in tuning as in the test.

All methods make the same number of updates. With `--equal total` a method that needs no GRM makes
more, until it has had as many tokens as the others together with their GRM: its training, the
attempts that it scored and the rewrites that it wrote, in the chain that is tuned on.

Settings are those of train.py. Sweeps leave their jobs below FOLDER. Artifacts are shared, so the
same command continues a run that was interrupted. It writes chosen.json, comparison.csv,
comparison.md and comparison.png.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
CONF = TRAIN.parent / "conf"
METHODS = ("rlmec", "imitation_alone", "continued_sft", "rft", "dpo_corrections", "sequence_ppo")

RATE = "policy.optimizer.lr"
RATES = (0.0004, 0.0012, 0.0036)
LOWER_RATES = {  # the rates of the other methods ruin the policies of these (LOG.md)
    "dpo": (0.00001, 0.00003, 0.0001),
    "sequence_ppo": (0.0001, 0.0004, 0.0012),
    "grpo": (0.0001, 0.0004, 0.0012),
}
WIDEST = 3
"""Rates that a grid may gain where its best is at an edge."""

FURTHER = {  # a key and its values, by the beginning of a method's name
    "rlmec": ("policy.objective.policy_coef", ("0.5", "2.0", "8.0")),
    "imitation_alone": ("policy.edit_weights.kept", ("0.25", "0.5", "1.0")),
    "rft": ("policy.max_right_per_problem", ("1", "2", "null")),
    "dpo": ("policy.objective.beta", ("0.03", "0.1", "0.3")),
    "sequence_ppo": ("policy.objective.kl_coef", ("0.0", "0.01", "0.1")),
    "grpo": ("policy.objective.kl_coef", ("0.0", "0.01", "0.1")),
}
ANY_FURTHER = ("policy.optimizer.weight_decay", ("0.0", "0.01", "0.1"))
LAST_STEP = "policy.val_every_steps=${policy.steps}"  # the fresh trainings keep their last weights

Chosen = dict[str, str]
"""Settings that tuning has chosen for a method: overrides by their keys."""


def arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--methods", default=",".join(METHODS), help="files of conf/method and conf/ablation"
    )
    parser.add_argument("--rates", help="learning rates for all methods; a single one is not tuned")
    parser.add_argument("--chains", default="2,3,4,5,6,7", help="seeds of the chains of the test")
    parser.add_argument("--seeds", default="11,12", help="seeds of the policy's training in each")
    parser.add_argument(
        "--tuned-on", default="1", help="seed of the chain that methods are tuned on"
    )
    parser.add_argument(
        "--equal",
        choices=("updates", "total"),
        default="updates",
        help="what methods have in common: the policy's updates, or all tokens with the GRM's",
    )
    parser.add_argument("--against", default="rlmec", help="the method compared with")
    parser.add_argument("--table", action="store_true", help="only the table, of finished jobs")
    return parser.parse_known_args(argv)


def overrides_of(method: str) -> list[str]:
    """The groups that a method chooses; exits where a name is in neither group."""
    return [f"{group_of(name)}={name}" for name in method.split("+")]


def group_of(name: str) -> str:
    """The group that a name is an option of; exits if neither group has it."""
    for group in ("method", "ablation"):
        if (CONF / group / f"{name}.yaml").is_file():
            return group
    sys.exit(f"error: {name!r} is a file of neither conf/method nor conf/ablation")


def needs_grm(method: str, settings: Sequence[str] = ()) -> bool:
    """Whether a method reads what the GRM scored or rewrote."""
    from hydra import compose, initialize_config_dir

    from rlmec.pipeline.pair_records import stages_read
    from rlmec.settings.check import check

    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree = compose("train", ["logger=none", *overrides_of(method), *settings])
        return "score" in stages_read(check(tree, CONF).policy)


def rates_of(method: str, given: str | None) -> list[float]:
    """The learning rates that tuning begins with: those given, or the method's own."""
    if given is not None:
        return [float(rate) for rate in given.split(",")]
    return list(_by_beginning(LOWER_RATES, method) or RATES)


def further_of(method: str) -> tuple[str, tuple[str, ...]]:
    """The second setting that a method is tuned in, and its values."""
    return _by_beginning(FURTHER, method) or ANY_FURTHER


def _by_beginning(known: Mapping[str, tuple], method: str) -> tuple | None:
    return next((value for name, value in known.items() if method.startswith(name)), None)


def wider(rates: Sequence[float], best: float) -> float | None:
    """The rate to try next where the best is the lowest or the highest; None where it is neither.

    The grid goes on with the factor of its last step in that direction.
    """
    ordered = sorted(rates)
    if len(ordered) < 2 or best not in (ordered[0], ordered[-1]):
        return None
    if best == ordered[0]:
        return float(f"{ordered[0] ** 2 / ordered[1]:.2g}")
    return float(f"{ordered[-1] ** 2 / ordered[-2]:.2g}")


def sweep(folder: Path, *overrides: str) -> None:
    """One `train.py -m` without the policies of a comparison, its jobs below `folder`."""
    command = [sys.executable, str(TRAIN), "-m", "report.compare=null"]
    command += [f"hydra.sweep.dir={folder}", *overrides]
    print(" ".join(command), flush=True)
    done = subprocess.run(command, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def total_steps(folder: Path, given: argparse.Namespace, settings: list[str]) -> int:
    """The updates that the tokens of RLMEC and its GRM would pay for, in the chain tuned on."""
    from benchmarks.method_table import updates_for_all_tokens

    seed = given.seeds.split(",")[0]
    chain = [f"seed={given.tuned_on}", f"policy.seed={seed}", f"{RATE}={RATES[1]:g}"]
    sweep(folder, "method=rlmec", *settings, *chain, "stage=policy")
    return updates_for_all_tokens(folder)


def tuned(folder: Path, method: str, given: argparse.Namespace, settings: list[str]) -> Chosen:
    """The settings that are best on dev, tried below `folder`."""
    from benchmarks.method_table import dev_accuracies

    rates = rates_of(method, given.rates)
    if len(rates) == 1:
        return {RATE: f"{rates[0]:g}"}

    common = [*overrides_of(method), *settings, f"seed={given.tuned_on}", "stage=policy"]
    tried = ",".join(f"{rate:g}" for rate in rates)
    sweep(folder / "rates" / "first", *common, f"{RATE}={tried}")
    found = dev_accuracies(folder / "rates", RATE)
    while len(found) < len(rates) + WIDEST:
        more = wider([float(rate) for rate in found], float(_best(found)))
        if more is None:
            break
        sweep(folder / "rates" / f"{more:g}", *common, f"{RATE}={more:g}")
        found = dev_accuracies(folder / "rates", RATE)

    rate = _best(found)
    key, values = further_of(method)
    sweep(folder / "further", *common, f"{RATE}={rate}", f"{key}={','.join(values)}")
    return {RATE: rate, key: _best(dev_accuracies(folder / "further", key))}


def _best(found: Mapping[str, float]) -> str:
    """The value with the highest accuracy; of equal ones that which comes first in the order of
    numbers, then of texts."""
    return min(found, key=lambda value: (-found[value], _order(value)))


def _order(value: str) -> tuple[float, str]:
    try:
        return float(value), ""
    except ValueError:
        return float("inf"), value


def main(argv: list[str]) -> None:
    from benchmarks.method_table import read_jobs, write_comparison

    given, settings = arguments(argv)
    folder: Path = given.folder
    methods = given.methods.split(",")
    for method in methods:
        overrides_of(method)  # a wrong name ends the program before anything is trained
    if not given.table:
        more = {m: settings for m in methods}
        if given.equal == "total":
            steps = total_steps(folder / "budget", given, settings)
            longer = [*settings, f"policy.steps={steps}", f"policy.val_every_steps={steps}"]
            more |= {m: longer for m in methods if not needs_grm(m, settings)}
        chosen = {m: tuned(folder / "tune" / m, m, given, more[m]) for m in methods}
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(chosen, indent=2) + "\n"
        (folder / "chosen.json").write_text(text, encoding="utf-8")
        for method, best in chosen.items():
            final = [*overrides_of(method), *more[method], *(f"{k}={v}" for k, v in best.items())]
            final += [f"seed={given.chains}", f"policy.seed={given.seeds}", "stage=evaluate"]
            sweep(folder / "test" / method, *final, LAST_STEP)
    write_comparison(read_jobs(folder / "test"), given.against, folder)
    print((folder / "comparison.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(sys.argv[1:])
