"""The settings of what a run works on and with: hardware, folders, saving, what may be imported. No
result hangs on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PruneSettings:
    """`stage=prune` removes artifacts not used for `keep_days` and left-over work not touched for
    `work_days`, where nothing else keeps them; with `dry_run` it only says what would go."""

    keep_days: float = 14.0
    work_days: float = 7.0
    dry_run: bool = True

    def __post_init__(self) -> None:
        for name in ("keep_days", "work_days"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, at least 0 is needed")


@dataclass(frozen=True)
class PathSettings:
    artifacts: str
    outputs: str


@dataclass(frozen=True)
class SecuritySettings:
    """Further module prefixes (ending in a dot) from which a `_target_` may come."""

    allow: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class CallbackSettings:
    """Saving of fits; `extra` holds further Lightning callbacks by name, each a `_target_`."""

    checkpoint_every_steps: int = 50
    keep_checkpoints: int = 2
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainerSettings:
    """Hardware, strategy and display; nothing here changes a result beyond rounding. `memory_gib`
    is the memory of one device, to plan for (default: that of the device found)."""

    accelerator: str = "auto"
    devices: int | str = 1
    num_nodes: int = 1
    strategy: Any = "auto"
    num_workers: int = 0
    max_tokens_per_micro_batch: int = 16384
    accumulate: int | None = None
    log_every_n_steps: int = 10
    progress_bar: bool = True
    profiler: str | None = None
    detect_anomaly: bool = False
    threads: int | None = None
    memory_gib: float | None = None
