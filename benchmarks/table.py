"""The table of results for the terminal, the JSON file, and a description of the machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch

from benchmarks.measurement import Result

HEAD = ("work", "baseline", "ours", "ratio", "[min .. max]", "promise", "error")


def machine(device: torch.device) -> dict[str, Any]:
    """Return the kind of machine, its threads, and versions; no host name and no path."""
    import transformers

    return {
        "device": device.type,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cells(result: Result) -> list[str]:
    """Return the cells of a result's line: those of HEAD, then its further figures if any."""
    span = ""
    if len(result.ratios) > 1:
        span = f"[{_short(min(result.ratios))} .. {_short(max(result.ratios))}]"
    promises = ", ".join(f"{p.text} {'kept' if p.kept else 'MISSED'}" for p in result.promises)
    error = "" if result.error is None else f"{result.error:.1e}"
    line = [
        f"{result.work} {result.case}".strip(),
        f"{_short(result.baseline)} {result.unit}".strip(),
        f"{_short(result.ours)} {result.unit}".strip(),
        f"{_short(result.ratio)}x",
        span,
        promises,
        error if result.is_equal else f"{error} WRONG",
    ]
    if result.more:
        line.append(", ".join(f"{name} {_short(value)}" for name, value in result.more.items()))
    return line


def render(results: Sequence[Result]) -> str:
    """Return the whole table as aligned text, with numbered notes below it."""
    notes = list(dict.fromkeys(r.note for r in results if r.note))
    lines: list[list[str]] = [list(HEAD)]
    for result in results:
        line = cells(result)
        line[0] += f" ({notes.index(result.note) + 1})" if result.note else ""
        lines.append(line)

    # Only some results have further figures, so the lines are padded to the same number of cells.
    columns = max(len(line) for line in lines)
    lines = [line + [""] * (columns - len(line)) for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(columns)]
    out = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    out.insert(1, "-" * max(len(line) for line in out))
    out += [f"({number}) {note}" for number, note in enumerate(notes, start=1)]
    return "\n".join(line.rstrip() for line in out)


def as_json(results: Sequence[Result], about: dict[str, Any]) -> str:
    """Return `about` and one object per result: its fields, median, quartiles, and verdicts."""
    rows = []
    for result in results:
        ratios = list(result.ratios)
        quartiles = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else None
        rows.append(
            asdict(result)
            | {
                "ratio": result.ratio,
                "quartiles": quartiles,
                "is_equal": result.is_equal,
                "keeps_promises": result.keeps_promises,
            }
        )
    return json.dumps(about | {"results": rows}, indent=1) + "\n"


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
