"""Takes docs/token_page.png, the picture of the token-reward page that README shows.

    python train.py                      # seed 1; any finished run serves
    python -m benchmarks.screenshot      # of the newest report below artifacts/

In: a report's tokens.html. Out: a PNG of the page as it opens, with at most 256 colours. Needs
Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

OUT = Path(__file__).resolve().parents[1] / "docs" / "token_page.png"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")

VIEW = "theme=light"


def newest_page(artifacts: Path) -> Path:
    """Path of the newest token-reward page in a store; FileNotFoundError if there is none."""
    pages = sorted(artifacts.glob("report/*/tokens.html"), key=lambda path: path.stat().st_mtime)
    if not pages:
        raise FileNotFoundError(f"{artifacts}: no report/*/tokens.html; run python train.py first")
    return pages[-1]


def screenshot(page: Path, out: Path, *, view: str = VIEW, size: tuple[int, int]) -> None:
    """Write a picture of the page in a window of `size` (width, height) pixels."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise FileNotFoundError(f"no browser found: install one of {', '.join(BROWSERS)}")

    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        command = [browser, *FLAGS, f"--user-data-dir={folder}/profile", f"--screenshot={shot}"]
        command += [f"--window-size={size[0]},{size[1]}", f"{page.resolve().as_uri()}#{view}"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)

        # Few colours keep the file small; a page has hardly more.
        with Image.open(shot) as image:
            image.convert("RGB").quantize(256).save(out, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.screenshot", description=__doc__)
    parser.add_argument("page", nargs="?", type=Path, help="a tokens.html (default: the newest)")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="the store")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--view", default=VIEW, help="the page's filters, as in its address")
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 1130), metavar=("W", "H"))
    chosen = parser.parse_args()

    page = chosen.page or newest_page(chosen.artifacts)
    screenshot(page, chosen.out, view=chosen.view, size=tuple(chosen.size))
    print(f"{chosen.out}: {chosen.out.stat().st_size / 1000:.0f} kB, of {page}")


if __name__ == "__main__":
    main()
