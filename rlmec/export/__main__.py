"""Write any model directory as a plain Hugging Face directory: python -m rlmec.export SOURCE DIR

`train.py stage=export` does this for the models of a chain. This program needs no configuration: it
merges an adapter, changes the dtype, or copies a model out of an artifact.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rlmec.export.model_card import model_card
from rlmec.export.model_folder import DTYPES, export_model


def main() -> None:
    """Read the command line and write the folder; ends with 1 and one line if it cannot."""
    parser = argparse.ArgumentParser(prog="python -m rlmec.export", description=__doc__)
    parser.add_argument("source", help="a model directory, or the directory of an adapter")
    parser.add_argument("target", type=Path, help="the folder to write")
    parser.add_argument("--dtype", choices=DTYPES, help="dtype of the weights (default: float32)")
    given = parser.parse_args()

    try:
        card = model_card(Path(given.source).name)
        export_model(given.source, given.target, card=card, dtype=given.dtype)
    except (OSError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{given.target}: written")


if __name__ == "__main__":
    main()
