"""Compares methods: tunes each on dev, trains it anew with fresh seeds, judges it on test.

python -m benchmarks.compare FOLDER [--methods a,b] [--rates x,y] [--seeds 11,12] [settings ...]

Settings are those of train.py. Sweeps leave their jobs below FOLDER; artifacts are shared, so a run
that was cut off goes on. What comes out: rates.json, comparison.csv, comparison.md, comparison.png.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

TRAIN = Path(__file__).resolve().parents[1] / "train.py"


def arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", help="default: those of conf/hparams_search/compare.yaml")
    parser.add_argument("--rates", help="learning rates that each is tuned at, default: as above")
    parser.add_argument("--seeds", default="11,12,13,14,15", help="seeds of the final trainings")
    parser.add_argument("--against", default="rlmec", help="the method compared with")
    parser.add_argument("--table", action="store_true", help="only the table, of finished jobs")
    return parser.parse_known_args(argv)


def sweep(folder: Path, *overrides: str) -> None:
    """One `train.py -m hparams_search=compare`, its jobs below `folder`."""
    command = [sys.executable, str(TRAIN), "-m", "hparams_search=compare"]
    command += [f"hydra.sweep.dir={folder}", *overrides]
    print(" ".join(command), flush=True)
    done = subprocess.run(command, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main(argv: list[str]) -> None:
    from rlmec.comparing import chosen_rates, read_jobs, write_comparison

    given, settings = arguments(argv)
    folder: Path = given.folder
    if not given.table:
        grid = [f"method={given.methods}"] if given.methods else []
        grid += [f"policy.optimizer.lr={given.rates}"] if given.rates else []
        sweep(folder / "tune", *grid, *settings)
        rates = chosen_rates(read_jobs(folder / "tune"))
        (folder / "rates.json").write_text(json.dumps(rates, indent=2) + "\n", encoding="utf-8")
        for method, rate in rates.items():
            final = [f"method={method}", f"policy.optimizer.lr={rate}"]
            final += [f"policy.seed={given.seeds}", "stage=evaluate"]
            sweep(folder / "test" / method, *settings, *final)
    write_comparison(read_jobs(folder / "test"), given.against, folder)
    print((folder / "comparison.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(sys.argv[1:])
