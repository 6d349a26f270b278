"""Makes artifacts of the RLMEC chain: python train.py [stage=X] [experiment=X] [key=value ...]"""

import sys
from pathlib import Path

from rlmec.programs import start

CONF = Path(__file__).resolve().parent / "conf"

if __name__ == "__main__":
    start("train", sys.argv[1:], CONF)
