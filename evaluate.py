"""Judges a model directory: python evaluate.py evaluate.model=DIR [task=X] [key=value ...]"""

import sys
from pathlib import Path

from rlmec.programs import start

CONF = Path(__file__).resolve().parent / "conf"

if __name__ == "__main__":
    start("evaluate", sys.argv[1:], CONF)
