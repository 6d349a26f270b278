"""Speed against a baseline: python -m benchmarks [preset=NAME] [work=[A,B]] [key=value ...]

`python -m benchmarks peers [key=value ...]` compares with other libraries instead (`peers/`).

Prints a table of the baseline, this project's code, and their ratio, and writes it as JSON. Ends
with 1 if the two results differ by more than rounding, and with strict=true also if a promise is
missed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, cast

import hydra
from omegaconf import DictConfig, OmegaConf

CONF = Path(__file__).resolve().parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="benchmark")
def main(cfg: DictConfig) -> None:
    settings = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would write to the terminal
    from benchmarks.runner import Settings, run

    try:
        code = run(Settings(**settings))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)


if __name__ == "__main__":
    if sys.argv[1:2] == ["peers"]:
        from benchmarks.peers import command

        sys.exit(command.main(sys.argv[2:]))
    main()
