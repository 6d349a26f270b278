"""What an artifact was made with."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlmec.settings.sources import distribution_version

RECORDED = ("torch", "lightning", "transformers", "hydra-core", "omegaconf", "datasets")
RECORDED += ("numpy", "rapidfuzz", "peft", "vllm")


def environment(world_size: int = 1, threads: int = 0) -> dict[str, Any]:
    """What a manifest records of the surroundings: library versions, git commit, world size,
    threads."""
    versions = {name: v for name in RECORDED if (v := distribution_version(name)) != "none"}
    return {
        "libraries": {"python": platform.python_version(), **versions},
        "commit": _commit(),
        "world_size": world_size,
        "threads": threads,
    }


def _commit() -> str | None:
    """The commit of the checkout that this package lies in, ending in -dirty with uncommitted
    changes."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    described = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    command = ["git", "-C", str(root), *described]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def environment_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line for each entry that differs between two `environment()`s or parts of them."""

    def flat(env: Mapping[str, Any]) -> dict[str, Any]:
        plain = {k: v for k, v in env.items() if not isinstance(v, dict)}
        return {**plain, **env.get("libraries", {})}

    a, b = flat(old), flat(new)
    return [f"{k}: {a.get(k)} -> {b.get(k)}" for k in sorted(a | b) if a.get(k) != b.get(k)]
