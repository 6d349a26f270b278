"""Compares methods: tunes each on dev, trains it again with fresh seeds, judges it on test.

python -m benchmarks.compare FOLDER [--methods a,b] [--rates x,y] [--seeds 11,12] [settings ...]

Settings are those of train.py. Sweeps leave their jobs below FOLDER. Artifacts are shared, so the
same command continues a run that was interrupted. It writes rates.json, comparison.csv,
comparison.md and comparison.png. Every method is tuned at the same number of learning rates. Those
of DPO and PPO are lower, because the rates of the other methods ruin their policy (LOG.md).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
CONF = TRAIN.parent / "conf"
METHODS = ("rlmec", "imitation_alone", "continued_sft", "rft", "dpo_corrections", "sequence_ppo")
RATES = {  # three each
    "dpo_corrections": "0.00001,0.00003,0.0001",
    "dpo_attempts": "0.00001,0.00003,0.0001",
    "sequence_ppo": "0.0001,0.0004,0.0012",
}
OTHER_RATES = "0.0004,0.0012,0.0036"
LAST_STEP = "policy.val_every_steps=${policy.steps}"  # the fresh trainings keep their last weights


def arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--methods", default=",".join(METHODS), help="files of conf/method or conf/ablation"
    )
    parser.add_argument("--rates", help="learning rates that each is tuned at, default: its own")
    parser.add_argument("--seeds", default="11,12,13,14,15", help="seeds of the final trainings")
    parser.add_argument("--against", default="rlmec", help="the method compared with")
    parser.add_argument("--table", action="store_true", help="only the table, of finished jobs")
    return parser.parse_known_args(argv)


def grids(methods: list[str], rates: str | None) -> list[tuple[str, str, list[str]]]:
    """(group, learning rates, methods) of each sweep: methods of one group (`method` or `ablation`)
    that are tuned at the same rates share a sweep. The rates are `rates`, or each method's own."""
    found: dict[tuple[str, str], list[str]] = {}
    for method in methods:
        key = group_of(method), rates or RATES.get(method, OTHER_RATES)
        found.setdefault(key, []).append(method)
    return [(group, tried, names) for (group, tried), names in found.items()]


def group_of(method: str) -> str:
    """The group that a method is an option of; exits if neither group has it."""
    for group in ("method", "ablation"):
        if (CONF / group / f"{method}.yaml").is_file():
            return group
    sys.exit(f"error: {method!r} is a file of neither conf/method nor conf/ablation")


def sweep(folder: Path, *overrides: str) -> None:
    """One `train.py -m hparams_search=compare`, its jobs below `folder`."""
    command = [sys.executable, str(TRAIN), "-m", "hparams_search=compare"]
    command += [f"hydra.sweep.dir={folder}", *overrides]
    print(" ".join(command), flush=True)
    done = subprocess.run(command, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main(argv: list[str]) -> None:
    from benchmarks.method_table import chosen_rates, read_jobs, write_comparison

    given, settings = arguments(argv)
    folder: Path = given.folder
    if not given.table:
        for group, rates, methods in grids(given.methods.split(","), given.rates):
            tried = [f"{group}={','.join(methods)}", f"policy.optimizer.lr={rates}"]
            sweep(folder / "tune" / methods[0], *tried, *settings)
        rates = chosen_rates(read_jobs(folder / "tune"))
        (folder / "rates.json").write_text(json.dumps(rates, indent=2) + "\n", encoding="utf-8")
        for method, rate in rates.items():
            final = [f"{group_of(method)}={method}", f"policy.optimizer.lr={rate}"]
            final += [f"policy.seed={given.seeds}", "stage=evaluate", LAST_STEP]
            sweep(folder / "test" / method, *settings, *final)
    write_comparison(read_jobs(folder / "test"), given.against, folder)
    print((folder / "comparison.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(sys.argv[1:])
