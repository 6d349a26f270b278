"""Takes docs/console.svg, the picture of what `make demo` prints on a terminal.

    python -m benchmarks.console                                # the default chain, in a new store
    python -m benchmarks.console --shown "python train.py experiment=smoke" -- experiment=smoke
    python -m benchmarks.console --keep FOLDER                  # keeps the run, for other pictures

In: overrides of train.py. Out: an SVG of all lines with their colours, without progress bars, which
a finished stage leaves no trace of. The run is made in a temporary folder, or in one that is kept.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "console.svg"
COLUMNS = 100


def printed(command: list[str], columns: int = COLUMNS) -> str:
    """Run a command on a terminal of its own; returns what it printed, colours included.

    Raises CalledProcessError if it fails.
    """
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(columns)}
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment)
    os.close(its)

    parts = []
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # Linux says so when the last writer has gone
            break
        if not part:
            break
        parts.append(part)
    os.close(ours)
    text = b"".join(parts).decode().replace("\r\n", "\n")
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command, text)
    return text


def placeless(text: str, folder: Path) -> str:
    """The text without the temporary folder that the run was made in."""
    return text.replace(f"{folder}/", "")


def draw(text: str, title: str, columns: int = COLUMNS) -> str:
    """The text as an SVG that needs no font from elsewhere."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=columns, file=nowhere, force_terminal=True)
        console.print(Text.from_ansi(text))
        form = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
        return console.export_svg(title=title, theme=SVG_EXPORT_THEME, code_format=form)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.console", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--shown", default="make demo", help="the command that the picture names")
    parser.add_argument("--keep", type=Path, help="the folder to make the run in (default: none)")
    parser.add_argument("overrides", nargs="*", help="of train.py")
    chosen = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = (chosen.keep or Path(name)).absolute()
        places = [f"paths.artifacts={folder}/artifacts", f"hydra.run.dir={folder}/outputs/demo"]
        program = [sys.executable, str(ROOT / "train.py"), "trainer.progress_bar=false"]
        text = printed([*program, *places, *chosen.overrides])
    chosen.out.write_text(draw(placeless(text, folder), chosen.shown), encoding="utf-8")
    print(f"{chosen.out}: {chosen.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
